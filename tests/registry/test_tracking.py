"""Runs in a real MLflow store: what they hold, how they end, and that a dead server is said so at once."""

import base64
import json
import logging
import signal
import socket
import threading
import time
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import unquote

import pytest
from mlflow import MlflowClient
from prefect.exceptions import TerminationSignal

from finsent.data.dataset import DataVersion
from finsent.errors import ConfigError, InputError, ServiceError
from finsent.process_identity import this_process
from finsent.registry import own_server, tracking
from finsent.workspace import resolve_workspace

DATA = DataVersion(version=3, fingerprint="cd" * 16, rows={"train": 70, "test": 30}, leaks=0, naive_leak=0.1)


def test_run_holds_settings_and_origin(mlflow_home, tiny_config):
    with tracking.start_run(tiny_config, mlflow_home, kind="train", tags={"extra": "yes"}, data=DATA) as run_id:
        assert tracking.connect(mlflow_home).get_run(run_id).info.status == "RUNNING"
    run = tracking.connect(mlflow_home).get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.info.artifact_uri.startswith(mlflow_home.artifacts.as_uri())
    wanted = {
        "lora.r": "16",
        "lora.alpha": "32",
        "quantization.kind": "nf4",
        "recipe.optimizer": "paged_adamw_8bit",
        "model.embedded.layers": "1",
        "data.version": "3",
        "data.rows.train": "70",
        "lora.targets": json.dumps(list(tiny_config.lora.targets)),
    }
    assert {key: run.data.params[key] for key in wanted} == wanted
    tags = run.data.tags
    assert (tags["kind"], tags["profile"], tags["data_version"], tags["data_fingerprint"]) == ("train", "nano", "3", "cd" * 16)
    assert (tags["extra"], tags["mlflow.source.name"]) == ("yes", "finsent train")
    assert tags.get("git_sha") == tracking.git_sha()  # None outside a checkout
    assert tags["finsent_version"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("the loss exploded"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (TerminationSignal(signal=signal.SIGTERM), "KILLED"),
    ],
)
def test_run_that_breaks_off_says_so(mlflow_home, tiny_config, error, status):
    with pytest.raises(type(error)), tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        raise error
    run = tracking.connect(mlflow_home).get_run(run_id)
    assert run.info.status == status
    assert run.data.tags.get("error") == ("ValueError: the loss exploded" if status == "FAILED" else None)


def test_a_store_that_fails_does_not_hide_the_error_of_the_work(mlflow_home, tiny_config, caplog):
    def explode():
        with tracking.start_run(tiny_config, mlflow_home, kind="train"):
            (mlflow_home.root / "mlflow.db").write_bytes(b"no database" * 10_000)
            raise ValueError("the loss exploded")

    with caplog.at_level(logging.WARNING, logger="finsent"), pytest.raises(ValueError, match="the loss exploded"):
        explode()
    assert "(FAILED) could not be recorded in MLflow" in caplog.text


def test_nothing_is_left_in_the_environment_or_the_working_folder(mlflow_home, tiny_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with tracking.start_run(tiny_config, mlflow_home, kind="train"):
        pass
    assert resolve_workspace().tracking_uri != mlflow_home.tracking_uri
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_deleted_experiment_is_explained(mlflow_home, tiny_config):
    client = tracking.connect(mlflow_home)
    client.delete_experiment(tracking.experiment_id(client, mlflow_home, tiny_config.experiment))
    with pytest.raises(InputError, match="'finsent' was deleted"), tracking.start_run(tiny_config, mlflow_home, kind="train"):
        pass


def test_scoring_runs_do_not_bury_the_trainings(mlflow_home, tiny_config):
    client = tracking.connect(mlflow_home)
    for kind in ("train", "score"):
        with tracking.start_run(tiny_config, mlflow_home, kind=kind):
            pass
    named = {name: tracking.experiment_id(client, mlflow_home, name) for name in ("finsent", "finsent-score")}
    kinds = {name: [run.data.tags["kind"] for run in client.search_runs([key])] for name, key in named.items()}
    assert kinds == {"finsent": ["train"], "finsent-score": ["score"]}


@pytest.mark.parametrize("name", ["/Users/me@firm/finsent", "a/b"])
def test_artifacts_of_an_experiment_named_like_a_path_stay_in_the_home(name, mlflow_home):
    client = tracking.connect(mlflow_home)
    location = client.get_experiment(tracking.experiment_id(client, mlflow_home, name)).artifact_location
    assert unquote(location) == f"file://{mlflow_home.artifacts / name.strip('/')}"


def test_series_keep_every_step(mlflow_home, tiny_config):
    client = tracking.connect(mlflow_home)
    with (
        tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id,
        tracking.log_series(client, run_id) as log,
    ):
        for step in range(1500):
            log(step, {"loss": 1 / (step + 1), "grad_norm": float("nan") if step == 7 else 1.0})
    losses = client.get_metric_history(run_id, "loss")
    assert sorted(metric.step for metric in losses) == list(range(1500))
    assert {metric.value for metric in losses if metric.step == 3} == {0.25}


def test_series_outlive_a_server_that_is_away_for_a_while(mlflow_home, tiny_config, monkeypatch, caplog):
    client = tracking.connect(mlflow_home)
    real, calls = client.log_batch, []

    def flaky(*args, **kwargs):
        calls.append(time.monotonic())
        if len(calls) == 1:
            raise ConnectionError("away")
        return real(*args, **kwargs)

    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 0.0)
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        monkeypatch.setattr(client, "log_batch", flaky)
        with caplog.at_level(logging.WARNING, logger="finsent"), tracking.log_series(client, run_id) as log:
            log(0, {"loss": 2.0})
            log(1, {"loss": 1.0})
    assert "does not take them" in caplog.text
    assert {m.step: m.value for m in client.get_metric_history(run_id, "loss")} == {0: 2.0, 1: 1.0}


def test_series_that_never_arrive_are_an_error(mlflow_home, tiny_config, monkeypatch):
    client = tracking.connect(mlflow_home)

    def dead(*_args, **_kwargs):
        raise ConnectionError("gone")

    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        monkeypatch.setattr(client, "log_batch", dead)
        with (
            pytest.raises(ServiceError, match=r"1 metrics of run .* could not be sent"),
            tracking.log_series(client, run_id) as log,
        ):
            log(0, {"loss": 2.0})


def test_dataset_is_linked_by_version(mlflow_home, tiny_config):
    client = tracking.connect(mlflow_home)
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        ref = tracking.log_dataset(
            client,
            run_id,
            mlflow_home,
            table="tweets",
            version=3,
            fingerprint="ef" * 32,
            context="training",
            split="train",
            rows=70,
        )
    (logged,) = client.get_run(run_id).inputs.dataset_inputs
    assert (logged.dataset.name, logged.dataset.digest) == (ref.name, ref.digest) == ("tweets-train", ("ef" * 32)[:36])
    assert json.loads(logged.dataset.source) == {"path": f"{mlflow_home.tables_url}/tweets", "delta_table_version": 3}
    assert {tag.key: tag.value for tag in logged.tags}["mlflow.data.context"] == "training"


def test_long_parameters_are_cut_visibly():
    flat = tracking.flatten({"a": {"b": "x" * 7000, "c": [1, 2]}, "d": None})
    assert flat["a.b"].endswith("…")
    assert len(flat["a.b"]) == 6000
    assert (flat["a.c"], flat["d"]) == ("[1, 2]", "None")


def test_dead_server_is_reported_within_seconds(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://user:secret@127.0.0.1:{taken.getsockname()[1]}"
        home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": url})
        started = time.monotonic()
        with pytest.raises(ServiceError, match="does not answer") as caught:
            tracking.connect(home)
    assert time.monotonic() - started < 5
    assert "//127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert not (tmp_path / "home").exists()


def test_dead_database_is_reported_within_seconds(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://mlflow:secret@127.0.0.1:{taken.getsockname()[1]}/mlflow"
        with pytest.raises(ServiceError, match="127"):
            tracking.connect(resolve_workspace({"FINSENT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": url}))


@pytest.mark.parametrize(
    ("uri", "port"),
    [
        ("postgresql+psycopg2://db/mlflow", 5432),
        ("mysql+pymysql://me@db/mlflow", 3306),
        ("mysql://db:3307/mlflow", 3307),
        ("databricks://desk", None),
        ("postgresql://db/mlflow?host=other", None),
    ],
)
def test_a_store_is_looked_for_at_its_own_port(uri, port, monkeypatch):
    asked = []

    def refuse(address, timeout):
        asked.append(address[1])
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(ServiceError) if port else nullcontext():
        tracking._probe(uri)
    assert asked == ([port] if port else [])


def test_a_server_behind_a_dead_proxy_is_reported_with_the_proxy(monkeypatch):
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", "http://me:secret@127.0.0.1:9")
    with pytest.raises(ServiceError, match=r"asked through the proxy http://127\.0\.0\.1:9\)"):
        tracking._probe("http://mlflow.example:5000")


def test_ailing_server_is_not_taken_for_a_sound_one(tmp_path):
    class Ailing(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(503)

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Ailing)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(ServiceError, match="status 503"):
            tracking.connect(resolve_workspace({"FINSENT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": url}))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_store_that_is_read_only_is_read_without_a_lock(mlflow_home, monkeypatch):
    monkeypatch.setattr(tracking, "is_read_only", lambda folder: folder == mlflow_home.root)
    before = sorted(mlflow_home.root.rglob("*"))
    assert tracking.connect(mlflow_home).get_experiment_by_name("none") is None
    assert sorted(mlflow_home.root.rglob("*")) == before


@pytest.mark.parametrize(("folder", "file"), [(0o2770, 0o664), (0o2750, 0o644), (0o700, 0o644)])
def test_the_store_of_a_home_that_a_group_shares_is_the_groups(mlflow_home, folder, file):
    store = mlflow_home.root / "mlflow.db"
    store.chmod(0o644)  # as SQLite makes it, whatever the umask
    mlflow_home.root.chmod(folder)
    tracking.connect(mlflow_home)
    assert store.stat().st_mode & 0o777 == file


@contextmanager
def overheard():
    """Address of a server that answers `{}`, and the credentials that it was sent."""
    sent = set()

    class Listens(BaseHTTPRequestHandler):
        def do_GET(self):
            sent.add(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

        do_POST = do_GET  # noqa: N815 - its caller's name

        def log_message(self, *args):
            pass

    with HTTPServer(("127.0.0.1", 0), Listens) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", sent
        server.shutdown()
        thread.join()


def test_the_homes_own_server_alone_is_sent_its_password(tmp_path, monkeypatch):
    """In one process after the other, as a flow whose `settings` name another server meets them."""

    def connect(url):
        with pytest.raises(ConfigError, match="is no MLflow"):
            tracking.connect(resolve_workspace({"FINSENT_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": url}))

    for name in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "")  # undone afterwards
        monkeypatch.delenv(name)
    with overheard() as (own, to_own), overheard() as (other, to_other):
        monkeypatch.setenv(own_server.LOGIN_VARIABLE, own.replace("://", "://finsent:sixteen-or-more-letters@"))
        for url in (own, f"{own}/", other):
            connect(url)
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "me")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "mine")
        connect(f"{other}/")
    basic = "Basic " + base64.b64encode(b"finsent:sixteen-or-more-letters").decode()
    assert to_own == {None, basic}, "without a password it is asked whether it answers"
    assert to_other == {None, "Basic " + base64.b64encode(b"me:mine").decode()}


def test_a_resumed_run_names_its_process_before_it_is_running(mlflow_home, tiny_config, monkeypatch):
    """`finsent up` ends runs that are RUNNING and name a process that is gone."""
    client = tracking.connect(mlflow_home)
    with pytest.raises(ZeroDivisionError), tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        raise ZeroDivisionError
    client.set_tag(run_id, "process", "of the attempt that was killed")
    named = []
    update = MlflowClient.update_run

    def seen(self, run, *given, **more):
        named.append(self.get_run(run).data.tags["process"])
        update(self, run, *given, **more)

    monkeypatch.setattr(MlflowClient, "update_run", seen)
    with tracking.start_run(tiny_config, mlflow_home, kind="train", resume=run_id):
        assert "error" not in client.get_run(run_id).data.tags
    assert named == [this_process()]
