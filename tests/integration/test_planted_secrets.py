"""Secrets where operators keep them, one retraining by real servers and workers, then a search of every byte that was left."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow.parquet as pq
import pytest
import yaml

from finsent.cli.server_password import auth_string, password_path
from finsent.config.loader import parse_overrides
from finsent.data.sample import SAMPLE_DIR
from tests.conftest import TINY
from tests.integration.prefect_servers import ENDED, ROOT, Server, free_port, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIAPLANTEDKEYID0001",
    "AWS_SECRET_ACCESS_KEY": "planted/aws+secret0002",
    "DESK_PASSWORD": "planted-desk@password0003",
    "HF_TOKEN": "hf_plantedToken0004",
    "OPTUNA_STORAGE": "mysql://optuna:planted-optuna0005@127.0.0.1:9/optuna",
    "PGPASSWORD": "planted-pg0006",
    "SLACK_WEBHOOK_URL": "https://hooks.invalid/services/planted-hook0007",
    "https_proxy": "http://me:planted-proxy0008@127.0.0.1:9",
}
"""What the shell of `finsent up` holds. Longer texts are secret from `planted` on."""
IN_URL = "planted-in-url0009"
"""Password in the address of a source, typed where it should not be."""


def forms(secret: str) -> list[bytes]:
    """The secret as it stands, in a URL, and in headers (base64, wherever it begins)."""
    plain = secret.encode()
    shifted = [base64.b64encode(b"x" * before + plain)[4 if before else 0 : -4] for before in range(3)]
    return [plain, quote(secret, safe="").encode(), *shifted]


def secrets_of(home: Path) -> dict[str, str]:
    planted = {name: (re.search(r"planted.*", value) or re.search(r".*", value))[0] for name, value in ENVIRONMENT.items()}  # type: ignore[index]
    planted["OPTUNA_STORAGE"] = planted["OPTUNA_STORAGE"].partition("@")[0]
    planted["https_proxy"] = planted["https_proxy"].partition("@")[0]
    return {**planted, "in URL": IN_URL, "server_password": auth_string(home).partition(":")[2]}


def contents(home: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file, the columns of tables unpacked."""
    for file in sorted(home.rglob("*")):
        if file.is_file() and file != password_path(home):
            yield file, file.read_bytes()
            if file.suffix == ".parquet":
                yield file, json.dumps(pq.read_table(file).to_pylist(), default=str).encode()


def test_no_secret_is_written_anywhere(tmp_path: Path) -> None:
    home = tmp_path / "home"
    config = parse_overrides([*TINY, "gate.approval=required"])
    config["data"] = {"sources": [{"uri": str(SAMPLE_DIR / "desk.csv.gz"), "name": "desk"}]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    env |= {**ENVIRONMENT, "FINSENT_HOME": str(home), "FINSENT_CONFIG": str(tmp_path / "mine.yaml")}
    env |= {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_LOGGING_LEVEL": "DEBUG", "PREFECT_SERVER_LOGGING_LEVEL": "DEBUG"}
    said: list[str] = []

    def finsent(*arguments: str, **more: str) -> str:
        command = [sys.executable, "-m", "finsent", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env={**env, **more}, cwd=tmp_path)
        said.append(done.stdout + done.stderr)
        return said[-1]

    ports = ["--mlflow-port", str(free_port()), "--prefect-port", str(free_port())]
    command = [sys.executable, "-m", "finsent", "up", "--json", "--project", str(ROOT), *ports]
    with (tmp_path / "up.err").open("w+", encoding="utf-8") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True)
        try:
            assert process.stdout is not None
            said.append(process.stdout.readline())
            up = json.loads(said[-1])
            server = Server(home, {"PREFECT_API_URL": up["prefect_api"], "PREFECT_API_AUTH_STRING": auth_string(home)})
            _work(server, finsent, up["mlflow"])
        finally:
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=120)
        errors.seek(0)
        said.append(errors.read())
    found = {
        (name, str(where))
        for where, content in [*contents(home), *((Path("said"), text.encode()) for text in said)]
        for name, secret in secrets_of(home).items()
        if any(form in content for form in forms(secret))
    }
    assert found == set()


def _work(server: Server, finsent: Any, mlflow: str) -> None:
    """Let every part handle what it should not show: runs that complete and such that fail, and commands."""

    def start(name: str, **parameters: Any) -> str:
        (deployment,) = server.ask("deployments/filter", deployments={"name": {"any_": [name]}})
        return str(server.ask(f"deployments/{deployment['id']}/create_flow_run", parameters=parameters)["id"])

    table = {"query": "SELECT text, label FROM desk"}
    runs = [
        start("retrain"),
        start("ingest", sources=[{"uri": "postgresql+psycopg2://reader:${DESK_PASSWORD}@127.0.0.1:9/desk", **table}]),
    ]
    login = mlflow.replace("://", f"://{auth_string(server.home)}@")
    finsent("ingest", f"postgresql+psycopg2://reader:{IN_URL}@127.0.0.1:9/desk", "--query", table["query"])
    finsent("ingest", "s3://planted/desk.csv", AWS_ENDPOINT_URL="http://127.0.0.1:9", AWS_ALLOW_HTTP="true")
    finsent("status", MLFLOW_TRACKING_URI=login)
    finsent("doctor")
    finsent("up")
    finsent("train", "--set", f"model.name=postgresql://x:{IN_URL}@y/z", "--traceback")

    def ended() -> list[dict[str, Any]]:
        found = server.ask("flow_runs/filter", flow_runs={"id": {"any_": runs}, "state": {"type": {"any_": [*ENDED]}}})
        return found if len(found) == len(runs) else []

    states = {run["name"].split()[0]: (run["state_type"], run["state"]["message"]) for run in wait_for("their ends", ended, 600)}
    assert sorted(state for state, _ in states.values()) == ["COMPLETED", "FAILED"], states
    finsent("status")
    finsent("train", "--json", MLFLOW_TRACKING_URI=login)
    finsent("score", str(SAMPLE_DIR / "desk.csv.gz"), "--json")
    finsent("history", "--json")
