"""Finding the servers of a home."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from finsent.cli.options import Settings
from finsent.cli.services_file import RunningServices, is_healthy, read_services, services_path, write_services
from finsent.errors import InputError


@pytest.fixture
def server() -> Iterator[str]:
    """Something that answers /health."""

    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Health) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_services(tmp_path) is None
    running = RunningServices(7, "http://127.0.0.1:5000", "http://127.0.0.1:4200")
    write_services(tmp_path, running)
    assert read_services(tmp_path) == running
    assert running.prefect_api == "http://127.0.0.1:4200/api"
    assert [path.name for path in tmp_path.iterdir()] == ["services.json"]


@pytest.mark.parametrize("content", ["{", '{"pid": 1}', "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    services_path(tmp_path).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"services\.json' is not what `finsent up` writes"):
        read_services(tmp_path)


def test_a_server_answers_or_not(server: str) -> None:
    assert is_healthy(server)
    assert not is_healthy(f"{server}/absent")
    assert not is_healthy("http://127.0.0.1:9")


def test_the_running_server_of_a_home_is_used_and_said(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_services(tmp_path, RunningServices(7, server, "http://127.0.0.1:9"))
    assert Settings(home_dir=tmp_path).home().tracking_uri == server
    assert f"using the MLflow server of this home's `finsent up`: {server}" in capsys.readouterr().err


def test_a_server_that_is_gone_is_said_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_services(tmp_path, RunningServices(7, "http://127.0.0.1:9", "http://127.0.0.1:9"))
    assert Settings(home_dir=tmp_path).home().tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert "does not answer" in capsys.readouterr().err


def test_the_environment_wins(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_services(tmp_path, RunningServices(7, server, "http://127.0.0.1:9"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert Settings(home_dir=tmp_path).home().tracking_uri == "http://elsewhere:5000"
