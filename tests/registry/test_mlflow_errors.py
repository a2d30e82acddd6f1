"""Every failure of MLflow becomes an error of the project, with the right answer to whether a retry helps."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finsent.errors import ConfigError, FinsentError, InputError, ServiceError, TrackingError
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.registry.mlflow_errors import translate
from finsent.workspace import Workspace, resolve_workspace


class Handler(BaseHTTPRequestHandler):
    """Answers as MLflow does until its server's `answer` is changed."""

    def do_GET(self) -> None:
        unknown = self.server.answer is SOUND and "/get-by-name" in self.path
        status, kind, body = (404, "application/json", error_json("RESOURCE_DOES_NOT_EXIST")) if unknown else self.server.answer
        if status is None:
            self.server.leave.wait(10)
            return
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET  # noqa: N815 - the library's name

    def log_message(self, *args: object) -> None:
        pass


SOUND = (200, "application/json", b"{}")


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.leave = SOUND, threading.Event()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield running
        running.leave.set()
        running.shutdown()
        thread.join()


def registry_at(port: int, home: Workspace) -> Registry:
    uri = f"http://user:secret@127.0.0.1:{port}"
    return Registry(resolve_workspace({"FINSENT_HOME": str(home.root), "MLFLOW_TRACKING_URI": uri}), "finsent")


def error_json(code: str) -> bytes:
    return b'{"error_code": "%s", "message": "it says so."}' % code.encode()


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((None, "", b""), ServiceError, "does not answer"),
        ((503, "text/html", b"<html>maintenance</html>"), ServiceError, "does not answer"),
        ((429, "application/json", error_json("REQUEST_LIMIT_EXCEEDED")), ServiceError, "does not answer"),
        ((500, "application/json", error_json("INTERNAL_ERROR")), ServiceError, "does not answer"),
        ((500, "application/json", error_json("TEMPORARILY_UNAVAILABLE")), ServiceError, "does not answer"),
        ((502, "text/html", b"<html>bad gateway</html>"), ServiceError, "does not answer"),
        ((200, "text/html", b"<html>hello</html>"), ConfigError, "is no MLflow"),
        ((404, "text/html", b"<html>no such page</html>"), ConfigError, "is no MLflow"),
        ((200, "application/json", b"[1]"), ConfigError, "is no MLflow"),
        ((200, "application/json", b'{"registered_model": {"aliases": 5}}'), ConfigError, "is no MLflow"),
        ((401, "text/html", b"who are you"), ConfigError, "Set MLFLOW_TRACKING_USERNAME"),
        ((403, "application/json", error_json("PERMISSION_DENIED")), ConfigError, "--allowed-hosts"),
        ((400, "application/json", error_json("INVALID_PARAMETER_VALUE")), TrackingError, "it says so."),
    ],
    ids=lambda value: "" if isinstance(value, type) else str(value[0]) if isinstance(value, tuple) else value,
)
def test_a_server_that_fails_in_the_middle(server, home, answer, kind, says):
    registry = registry_at(server.server_port, home)
    assert registry.aliases() == {}  # it is well
    server.answer = answer
    with pytest.raises(FinsentError) as caught:
        registry.aliases()
    assert type(caught.value) is kind
    assert says in str(caught.value)
    assert caught.value.retryable is (kind is ServiceError)
    assert "secret" not in str(caught.value)
    assert ".." not in str(caught.value)


@pytest.mark.parametrize("body", [b"{}", b'{"experiments": [{"experiment_id": NaN, "name": 5}]}', b'{"experiments": [[]]}'])
def test_what_answers_the_same_to_everything_is_no_mlflow(server, home, body):
    server.answer = (200, "application/json", body)
    with pytest.raises(ConfigError, match=r"is no MLflow .*Correct MLFLOW_TRACKING_URI") as caught:
        registry_at(server.server_port, home).aliases()
    assert "secret" not in str(caught.value)


def test_a_server_that_is_gone_in_the_middle(server, home):
    registry = registry_at(server.server_port, home)
    assert registry.aliases() == {}
    server.socket.close()
    with pytest.raises(ServiceError, match="does not answer") as caught:
        registry.set_tags("1", {"stage": "None"})
    assert caught.value.retryable
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "no database"])
def test_a_damaged_store_is_named_and_not_tried_again(mlflow_home, damage):
    database = mlflow_home.root / "mlflow.db"
    if damage == "cut":
        os.truncate(database, database.stat().st_size // 2 // 4096 * 4096)
    else:
        database.write_bytes(b"this is no database" * 1000)
    with pytest.raises(InputError, match="cannot be used") as caught:
        tracking.connect(mlflow_home).search_model_versions("name='finsent'")
    assert not caught.value.retryable
    assert str(database) in str(caught.value)
    assert "backup" in str(caught.value)


def test_a_held_store_is_tried_again():
    error = sqlite3.OperationalError("database is locked")
    error.sqlite_errorname = "SQLITE_BUSY"
    found = translate(error, "sqlite:///x/mlflow.db")
    assert isinstance(found, ServiceError)
    assert translate(ZeroDivisionError("a bug"), "sqlite:///x/mlflow.db") is None
