"""Every failure of MLflow becomes an error of the project, with the right answer to whether a retry helps."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from finsent.errors import ConfigError, FinsentError, InputError, ServiceError, TrackingError
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.registry.mlflow_errors import translate
from finsent.workspace import Workspace, resolve_workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient


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

    do_POST = do_PUT = do_GET  # noqa: N815 - the library's name

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


def s3_error(code: str) -> bytes:
    return f"<Error><Code>{code}</Code><Message>it says so</Message></Error>".encode()


@pytest.fixture
def bucket(server: Server, mlflow_home: Workspace, monkeypatch: pytest.MonkeyPatch) -> "tuple[MlflowClient, str]":
    """A client that writes the artifacts of a run to an S3 store by itself; the store is `server`."""
    import boto3

    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    variables = {
        "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        "AWS_CONFIG_FILE": "/nowhere",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    client = tracking.connect(mlflow_home)
    experiment = client.create_experiment("s3", artifact_location="s3://bucket/finsent")
    return client, client.create_run(experiment).info.run_id


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        ((403, "application/xml", s3_error("AccessDenied")), ConfigError, "Set AWS_ACCESS_KEY_ID"),
        ((404, "application/xml", s3_error("NoSuchBucket")), ConfigError, "NoSuchBucket"),
        ((503, "application/xml", s3_error("SlowDown")), ServiceError, "does not answer"),
        (None, ServiceError, "does not answer"),
    ],
    ids=["denied", "no bucket", "slow down", "gone"],
)
def test_an_object_store_that_clients_use_themselves(server, bucket, answer, kind, says):
    client, run_id = bucket
    if answer is None:
        server.socket.close()
    else:
        server.answer = answer
    for call in (lambda: client.log_text(run_id, "{}", "evidence.json"), lambda: client.list_artifacts(run_id)):
        with pytest.raises(FinsentError, match=says) as caught:
            call()
        assert type(caught.value) is kind
        assert "artifact store" in str(caught.value)


def test_an_object_store_without_credentials(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    client, run_id = bucket
    for call in (lambda: client.log_text(run_id, "{}", "evidence.json"), lambda: client.list_artifacts(run_id)):
        with pytest.raises(ConfigError, match=r"Unable to locate credentials\)\. Set AWS_ACCESS_KEY_ID"):
            call()


def test_what_mlflow_only_quotes_of_an_object_store():
    from mlflow.exceptions import MlflowException

    quoted = (
        "The following failures occurred while downloading: ##### File a ##### An error occurred ({}) when calling the GetObject"
    )
    kinds = {"403": ConfigError, "503": ServiceError, "SlowDown": ServiceError, "404": TrackingError, "AccessDenied": ConfigError}
    for code, kind in kinds.items():
        assert type(translate(MlflowException(quoted.format(code)), "http://mlflow")) is kind


@pytest.mark.parametrize("url", ["http://mlflow.firm:5000", f"http://{'a' * 70}.firm:5000", f"postgresql://me@{'a' * 70}/db"])
def test_an_address_or_proxy_that_is_none_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if "firm" in url and "aaa" not in url:
        monkeypatch.setenv("http_proxy", "http://me:secret@[bad")
    with pytest.raises(ConfigError, match=r"no address.*Correct (HTTP_PROXY|MLFLOW_TRACKING_URI)") as caught:
        tracking._probe(url)
    assert "secret" not in str(caught.value)
