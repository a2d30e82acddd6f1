"""A real MLflow server, started as mlflow/compose.yaml starts it (basic auth included), on SQLite and on Postgres."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
import yaml

from finsent.cli import access, lost_runs
from finsent.cli.lost_runs import end_mlflow_runs
from finsent.cli.server_api import connect
from finsent.config import load_config
from finsent.errors import ConfigError, ServiceError
from finsent.process_identity import is_alive, this_process
from finsent.registry import aliases, own_server, tracking
from finsent.registry.client import Registry, logged_model_id
from finsent.workspace import resolve_workspace

pytestmark = pytest.mark.integration

FOLDER = Path(__file__).parents[2] / "mlflow"
PASSWORD = "correct horse battery"


@dataclass(frozen=True)
class Server:
    url: str
    stop: Callable[[], None]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URI of a database in a Postgres of its own."""
    binaries = shutil.which("initdb"), shutil.which("postgres")
    if None in binaries:
        pytest.skip("no Postgres here")
    initdb, server = binaries
    folder = tmp_path_factory.mktemp("postgres")
    as_user = {"user": "nobody", "cwd": "/"} if os.geteuid() == 0 else {}  # Postgres refuses to run as root
    if as_user:
        top = Path(tempfile.gettempdir()).resolve()
        for parent in (folder, *(parent for parent in folder.parents if top in parent.parents)):  # one more under xdist
            parent.chmod(0o755)
        shutil.chown(folder, "nobody")
    data, port = folder / "data", free_port()
    setup = [initdb, "-D", str(data), "-U", "mlflow", "--auth=trust", "--no-sync", "--no-instructions"]
    subprocess.run(setup, check=True, capture_output=True, **as_user)
    command = [server, "-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(folder), "-c", "fsync=off"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user) as process:
        wait_for(lambda: connects(port), process)
        yield f"postgresql://mlflow@127.0.0.1:{port}/postgres"
        process.send_signal(signal.SIGINT)


def connects(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def wait_for(ready: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, "the server ended"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.2)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("postgres", marks=pytest.mark.long)])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    store = request.getfixturevalue("postgres") if request.param == "postgres" else f"sqlite:///{folder / 'mlflow.db'}"
    port = free_port()
    ini = (FOLDER / "basic_auth.ini").read_text(encoding="utf-8").replace("/var/lib/mlflow", str(folder))
    (folder / "basic_auth.ini").write_text(ini, encoding="utf-8")
    flags = yaml.safe_load((FOLDER / "compose.yaml").read_text(encoding="utf-8"))["services"]["mlflow"]["command"][2:]
    ours = {
        "--host": "127.0.0.1",
        "--port": str(port),
        "--workers": "1",
        "--artifacts-destination": str(folder / "artifacts"),
        "--app-name": "basic-auth",
        "--allowed-hosts": "localhost:*,127.0.0.1:*",
    }
    assert {flag.partition("=")[0] for flag in flags} == set(ours)
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": store,
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "basic_auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "signed",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", "mlflow", "server", *(f"{flag}={value}" for flag, value in ours.items())]
    log = folder / "server.log"
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True, cwd=folder) as process,
    ):

        def stop() -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait(30)

        try:
            wait_for(lambda: connects(port) and requests.get(f"{url}/health", timeout=30).ok, process)
            yield Server(url, stop)
        finally:
            stop()


@pytest.fixture
def server_home(server, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return resolve_workspace({"FINSENT_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": server.url})


def test_server_lets_in_only_whom_it_knows_and_under_its_own_name(server, tmp_path, monkeypatch):
    home = resolve_workspace({"FINSENT_HOME": str(tmp_path / "home"), "MLFLOW_TRACKING_URI": server.url})
    with pytest.raises(ConfigError, match="Set MLFLOW_TRACKING_USERNAME"):
        tracking.connect(home)
    ((name, state, _, advice),) = access._mlflow_account(load_config(), home)
    assert (name, state, "Set MLFLOW_TRACKING_USERNAME" in advice) == ("MLflow's account", "fail", True)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "password1234")
    with pytest.raises(ConfigError, match="rejected the request"):
        tracking.connect(home)
    api = f"{server.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name=Default"
    assert requests.get(api, auth=("admin", PASSWORD), timeout=30).status_code == 200
    foreign = requests.get(api, auth=("admin", PASSWORD), headers={"Host": "evil.example"}, timeout=30)
    assert foreign.status_code == 403


def test_runs_whose_process_is_gone_end_as_killed(server, server_home, monkeypatch):
    client = tracking.connect(server_home)
    experiment = client.create_experiment("killed")
    host, pid, started, *where = this_process().split()
    tags = {
        "gone": {"process": " ".join((host, pid, f"{float(started) - 999:.2f}", *where))},
        "alive": {"process": this_process()},
        "resumed meanwhile": {"process": " ".join((host, pid, f"{float(started) - 998:.2f}", *where))},
        "elsewhere": {"process": "elsewhere 1 1.0"},
        "elsewhere, of a flow run that was ended": {"process": "elsewhere 1 1.0", "prefect.flow_run_id": "f"},
        "of an earlier release": {},
    }
    runs = {name: client.create_run(experiment, tags=given, run_name=name).info.run_id for name, given in tags.items()}

    def resumed_meanwhile(identity):
        client.set_tag(runs["resumed meanwhile"], "process", this_process())
        return is_alive(identity)

    monkeypatch.setattr(lost_runs, "is_alive", resumed_meanwhile)
    ask = connect(f"{server.url}/api/2.0/mlflow", f"admin:{PASSWORD}", direct=True)  # no Prefect is asked
    said = end_mlflow_runs(ask, ask, {"f"})
    killed = {"gone", "elsewhere, of a flow run that was ended"}
    assert {name for name, run in runs.items() if client.get_run(run).info.status == "KILLED"} == killed
    assert {line.split("'")[1] for line in said} == killed


def test_a_version_goes_all_the_way_through_the_server(server_home, tiny_config, make_adapter, capfd):
    registry = Registry(server_home, "finsent")
    client = registry.client
    with tracking.start_run(tiny_config, server_home, kind="train") as run_id, tracking.log_series(client, run_id) as log:
        for step in range(600):
            log(step, {"loss": 1 / (step + 1)})
        ref = tracking.log_dataset(
            client, run_id, server_home, table="tweets", version=1, fingerprint="ab" * 16, context="training"
        )
        version = registry.register(make_adapter(0), run_id=run_id, profile="nano")
        registry.log_model_metrics(version, {"accuracy": 0.7}, run_id=run_id, dataset=ref)
    run = client.get_run(run_id)
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert (run.info.status, run.data.params["lora.r"]) == ("FINISHED", "16")
    assert len(client.get_metric_history(run_id, "loss")) == 600
    model = client.get_logged_model(logged_model_id(client.get_model_version("finsent", version)))
    assert [(metric.key, metric.dataset_digest) for metric in model.metrics] == [("accuracy", "ab" * 16)]

    aliases.set_challenger(registry, version)
    aliases.set_champion(registry, version, None)
    assert registry.aliases() == {"champion": version}
    assert client.get_model_version("finsent", version).tags["stage"] == "Production"

    folder = registry.adapter_path(version)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        path.name: path.read_bytes() for path in make_adapter(0).iterdir()
    }
    assert not server_home.artifacts.exists()
    assert capfd.readouterr().out == ""  # stdout is for results, and MLflow likes to print links there


@pytest.mark.filterwarnings("ignore:starlette.middleware.wsgi")  # of MLflow's own server code
def test_a_scorers_account_scores_and_cannot_promote(server, server_home, tiny_config, make_adapter, monkeypatch):
    """The account that mlflow/README.md gives to scorers."""
    from mlflow.server import get_app_client

    registry = Registry(server_home, "finsent")
    client = registry.client
    with tracking.start_run(tiny_config, server_home, kind="train") as run_id:
        version = registry.register(make_adapter(1), run_id=run_id, profile="nano")
    users = get_app_client("basic-auth", server.url)
    users.create_user("scorer", "another password")
    experiment = tracking.experiment_id(client, server_home, "finsent-score")
    users.grant_user_permission("scorer", "experiment", experiment, "EDIT")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "scorer")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "another password")
    registry = Registry(server_home, "finsent")
    assert registry.adapter_path(version).is_dir()
    with tracking.start_run(tiny_config, server_home, kind="score") as run_id:
        tracking.connect(server_home).log_metric(run_id, "rows_scored", 1)
    before = registry.champion()
    with pytest.raises(ConfigError, match=r"rejected the request .* to an account that may"):
        aliases.set_champion(registry, version, before)
    assert registry.champion() == before
    (account,) = access._mlflow_account(tiny_config, server_home)
    assert account[:3] == ("MLflow's account", "warn", "may not promote versions of 'finsent'")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    known = registry.aliases()
    assert list(access._mlflow_account(tiny_config, server_home)) == [("MLflow's account", "ok", "may promote", "")]
    assert registry.aliases() == known


def test_a_worker_uses_no_server_of_another_home(server, server_home, monkeypatch):
    monkeypatch.setenv(own_server.LOGIN_VARIABLE, server.url.replace("://", f"://admin:{PASSWORD}@"))
    monkeypatch.setenv(own_server.TOKEN_VARIABLE, "0a1b")
    with pytest.raises(ServiceError, match=r"serves another home\. Nothing was sent"):
        tracking.connect(server_home)
    monkeypatch.delenv(own_server.TOKEN_VARIABLE)
    tracking.connect(server_home).set_experiment_tag("0", own_server.TOKEN_TAG, "0a1b")
    monkeypatch.setenv(own_server.TOKEN_VARIABLE, "0a1b")
    tracking.connect(server_home)


def test_a_server_that_went_away_is_reported_within_seconds(server, server_home):
    registry = Registry(server_home, "finsent")
    registry.aliases()
    server.stop()
    started = time.monotonic()
    with pytest.raises(ServiceError, match="does not answer"):  # in the middle of work
        registry.set_tags("1", {"stage": "None"})
    with pytest.raises(ServiceError, match=server.url):
        tracking.connect(server_home)
    assert time.monotonic() - started < 5
