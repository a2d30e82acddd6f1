"""Finding the servers of a home, and the proof that they are its own."""

import base64
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from finsent.cli.options import Settings
from finsent.cli.promote import use_prefect_server
from finsent.cli.server_password import auth_string, make_password, password_path
from finsent.cli.services_file import (
    RunningServices,
    _prefect_serves,
    find_mlflow,
    find_prefect,
    give_token,
    is_healthy,
    read_services,
    services_path,
    write_services,
)
from finsent.errors import InputError, ServiceError
from finsent.process_identity import start_time
from finsent.registry.own_server import LOGIN_VARIABLE
from finsent.workspace import resolve_workspace


@dataclass
class Stand:
    """Answers as far as it is asked: /health, and the token that was given to it, as MLflow and as Prefect."""

    url: str
    token: str = ""
    wrong: object = None
    """JSON that it answers everything with, which neither of them would."""
    asked: list[str] = field(default_factory=list)
    sent: set[str | None] = field(default_factory=set)
    """Credentials that came with what was asked, of /health None."""
    code: int = 200
    """Of answers to all but /health."""


@pytest.fixture
def server() -> Iterator[Stand]:
    stand = Stand("")

    class Answers(http.server.BaseHTTPRequestHandler):
        def answer(self, code: int, body: object) -> None:
            stand.asked.append(f"{self.command} {self.path}")
            stand.sent.add(self.headers["Authorization"])
            code = code if self.path.endswith("/health") else max(code, stand.code)
            self.send_response(code)
            if code == 302:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self) -> None:
            if stand.wrong is not None:
                self.answer(200, stand.wrong)
            elif self.path.endswith("/health"):
                self.answer(404 if "absent" in self.path else 200, True)
            else:
                self.answer(200, {"value": stand.token, "token": "against forgery"})

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            found = f"'{stand.token}'" in asked.get("filter", "")
            known: object = {"experiments": [{"experiment_id": "0"}]} if found else {}
            self.answer(200, known if stand.wrong is None else stand.wrong)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        stand.url = f"http://127.0.0.1:{running.server_port}"
        yield stand
        running.shutdown()
        thread.join()


def record(root: Path, url: str, **changed: object) -> None:
    """What `finsent up` would have written, of a process that runs: this one."""
    started = start_time(os.getpid())
    assert started is not None
    process = (os.getpid(), started)
    running = RunningServices(7, url, url, str(root), "0a1b", {"mlflow": process, "prefect": process})
    write_services(root, replace(running, **changed))  # type: ignore[arg-type]
    make_password(resolve_workspace({"FINSENT_HOME": str(root)}))


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert read_services(tmp_path) is None
    running = RunningServices(7, "http://127.0.0.1:5000", "http://127.0.0.1:4200")
    write_services(tmp_path, running)
    assert read_services(tmp_path) == running
    assert running.prefect_api == "http://127.0.0.1:4200/api"
    assert [path.name for path in tmp_path.iterdir()] == ["services.json"]
    assert services_path(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [
        *("{", '{"pid": 1}', "[]", "\x00", "[" * 5000),
        *(
            json.dumps({"pid": 1, "mlflow": "http://x", "prefect": "http://x", "home": "/h", "token": "0a1b", **wrong})
            for wrong in ({"processes": {"mlflow": 5}}, {"processes": {"mlflow": [1, "x"]}}, {"home": None}, {"mlflow": 5})
        ),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    services_path(tmp_path).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"services\.json' is not what `finsent up` writes") as caught:
        read_services(tmp_path)
    assert "0a1b" not in str(caught.value), "the token"


def test_values_that_no_system_has_are_no_running_server(tmp_path: Path) -> None:
    record(tmp_path, "http://[", processes={"mlflow": (10**30, 0.0), "prefect": (os.getpid(), start_time(os.getpid()))})
    assert find_mlflow(tmp_path).problem == f"has ended (process {10**30})"
    assert find_prefect(tmp_path).problem == "does not answer"


def test_a_server_answers_or_not(server: Stand) -> None:
    assert is_healthy(server.url)
    assert is_healthy(server.url.replace("http://", "http://me:secret@"))
    assert not is_healthy(f"{server.url}/absent")
    assert not is_healthy("http://127.0.0.1:9")


def test_this_machine_is_asked_without_the_proxy(server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert is_healthy(server.url)
    server.token = "0a1b"
    record(tmp_path, server.url)
    found = find_mlflow(tmp_path)
    assert found is not None
    assert found.problem is None


@pytest.mark.usefixtures("_no_addresses")
def test_the_running_server_of_a_home_is_used_and_said(server: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server.token = "0a1b"
    record(tmp_path, server.url)
    assert Settings(home_dir=tmp_path).home().tracking_uri == server.url
    assert f"using the MLflow server of this home's `finsent up`: {server.url}" in capsys.readouterr().err
    prefect = find_prefect(tmp_path)
    assert prefect is not None
    assert (prefect.url, prefect.problem) == (f"{server.url}/api", None)


@pytest.fixture
def _no_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING", LOGIN_VARIABLE):
        monkeypatch.setenv(name, "")  # so that what a test sets is undone
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("_no_addresses")
@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"home": "/elsewhere"}, "belongs to the home '/elsewhere', of which this one is a copy"),
        ({"token": "of another home"}, "does not serve this home"),
        ({"token": ""}, "recorded by an earlier release"),
        ({"processes": {}}, "recorded by an earlier release"),
        ({"processes": {"mlflow": (os.getpid(), 1.0), "prefect": (os.getpid(), 1.0)}}, "has ended"),
        ({"mlflow": "http://127.0.0.1:9", "prefect": "http://127.0.0.1:9"}, "does not answer"),
    ],
)
def test_what_cannot_prove_that_it_is_this_homes_is_not_used(
    server: Stand, tmp_path: Path, capsys: pytest.CaptureFixture[str], changed: dict[str, object], problem: str
) -> None:
    server.token = "0a1b"
    record(tmp_path, server.url, **changed)
    assert Settings(home_dir=tmp_path).home().tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"
    assert problem in capsys.readouterr().err
    assert not use_prefect_server(resolve_workspace({"FINSENT_HOME": str(tmp_path)}), "nothing is sent")
    assert problem in capsys.readouterr().err
    assert "PREFECT_API_URL" not in os.environ


@pytest.mark.usefixtures("_no_addresses")
def test_a_process_that_has_ended_served_it(server: Stand, tmp_path: Path) -> None:
    server.token = "0a1b"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    started = start_time(ended.pid)
    assert started is not None
    ended.wait()
    record(tmp_path, server.url, processes={"mlflow": (ended.pid, started)})
    found = find_mlflow(tmp_path)
    assert found is not None
    assert found.problem == f"has ended (process {ended.pid})"
    assert server.asked == [], "nothing was sent to what listens there now"


def test_a_file_of_an_earlier_release_proves_nothing(server: Stand, tmp_path: Path) -> None:
    old = {"pid": os.getpid(), "mlflow": server.url, "prefect": server.url}
    services_path(tmp_path).write_text(json.dumps(old), encoding="utf-8")
    found = find_mlflow(tmp_path)
    assert found is not None
    assert "earlier release" in str(found.problem)


def test_the_environment_wins(server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, server.url)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://elsewhere:5000")
    assert Settings(home_dir=tmp_path).home().tracking_uri == "http://elsewhere:5000"


@pytest.mark.parametrize("answer", [[], 5, {"experiments": [5]}, {"experiments": 5}])
def test_json_of_another_shape_is_no_server_of_this_home(server: Stand, tmp_path: Path, answer: object) -> None:
    server.wrong = answer
    record(tmp_path, server.url)
    running = read_services(tmp_path)
    assert running is not None
    with pytest.raises(ServiceError, match="does not take the mark of its home"):
        give_token(running)
    prefect = find_prefect(tmp_path)
    assert prefect is not None
    assert "lacks the token" in str(prefect.problem)


@pytest.mark.parametrize("answer", [{}, [], "<html>", 5])
def test_what_answers_at_the_given_address_may_be_no_prefect(
    server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
    found = find_prefect(tmp_path)
    assert found is not None
    assert found.problem is None
    server.wrong = answer
    found = find_prefect(tmp_path)
    assert found is not None
    assert "is no Prefect API" in str(found.problem)


def test_json_of_endless_nests_is_no_answer(server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "dumps", lambda _: "[" * 100_000)
    server.wrong = []
    assert _prefect_serves(server.url, "finsent:x", "0a1b") is not None


def basic(root: Path) -> str:
    return "Basic " + base64.b64encode(auth_string(root).encode()).decode()


@pytest.mark.usefixtures("_no_addresses")
@pytest.mark.parametrize("named", [False, True])
def test_a_homes_own_servers_are_asked_with_its_password(
    server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    server.token = "0a1b"
    record(tmp_path, server.url)
    if named:  # as when somebody exports the addresses that `finsent up` prints
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.url}/")
        monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api/")
    home = Settings(home_dir=tmp_path).home()
    assert home.tracking_uri.rstrip("/") == server.url
    assert os.environ[LOGIN_VARIABLE] == server.url.replace("://", f"://{auth_string(tmp_path)}@")
    assert use_prefect_server(home, "nothing is sent")
    assert os.environ["PREFECT_API_AUTH_STRING"] == auth_string(tmp_path)
    assert server.sent == {None, basic(tmp_path)}
    assert "finsent:" not in repr(find_prefect(tmp_path))


@pytest.mark.usefixtures("_no_addresses")
def test_no_other_server_gets_the_password(server: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("PREFECT_API_URL", f"{server.url}/api")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "mine:own")
    assert use_prefect_server(Settings(home_dir=tmp_path).home(), "nothing is sent")
    assert os.environ["PREFECT_API_AUTH_STRING"] == "mine:own"
    assert LOGIN_VARIABLE not in os.environ
    assert server.sent == {None}


@pytest.mark.usefixtures("_no_addresses")
def test_a_password_that_was_changed_or_lost_is_said(server: Stand, tmp_path: Path) -> None:
    server.token, server.code = "0a1b", 401
    record(tmp_path, server.url)
    for find in (find_mlflow, find_prefect):
        assert find(tmp_path).problem == "takes another password than the home's, which was changed: start `finsent up` again"
    password_path(tmp_path).unlink()
    server.sent.clear()
    for find in (find_mlflow, find_prefect):
        assert "is missing" in find(tmp_path).problem
    assert server.sent == {None}
    assert Settings(home_dir=tmp_path).home().tracking_uri == f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.usefixtures("_no_addresses")
def test_a_redirect_is_not_followed_with_the_password(server: Stand, tmp_path: Path) -> None:
    server.token, server.code = "0a1b", 302
    record(tmp_path, server.url)
    assert "lacks the token" in find_mlflow(tmp_path).problem
    assert server.asked[-1] == "POST /api/2.0/mlflow/experiments/search"
