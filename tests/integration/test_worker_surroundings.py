"""Every deployment by the real workers of `finsent up`, started from an empty folder with relative places and a dead proxy."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from finsent.cli.server_password import auth_string
from finsent.config.loader import parse_overrides
from finsent.data.sample import SAMPLE_DIR
from tests.conftest import TINY
from tests.integration.prefect_servers import ENDED, ROOT, Server, free_port, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]


@dataclass(frozen=True)
class Up:
    server: Server
    folder: Path

    def run(self, name: str, **parameters: Any) -> tuple[str, str, str]:
        """Type, name and message of the state that a deployment's run ends in."""
        import requests

        url = f"{self.server.env['PREFECT_API_URL']}/deployments/name/{name}/{name}"
        deployment = requests.get(url, headers=self.server.headers, timeout=20).json()["id"]
        run = self.server.ask(f"deployments/{deployment}/create_flow_run", parameters=parameters)["id"]

        def ended() -> dict[str, Any] | None:
            (found,) = self.server.ask("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
            return found if found["state_type"] in ENDED else None

        state = wait_for(f"the end of {name}", ended, 400)["state"]
        return state["type"], state["name"], str(state["message"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("empty")
    config = parse_overrides([*TINY, "gate.approval=required"])
    config["data"] = {"sources": [{"uri": "desk.csv.gz", "name": "desk"}]}
    (folder / "mine.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (folder / "desk.csv.gz").write_bytes((SAMPLE_DIR / "desk.csv.gz").read_bytes())
    env = {key: value for key, value in os.environ.items() if key not in {"HOME", "PREFECT_HOME"}}
    env |= {"FINSENT_HOME": "state", "FINSENT_TABLES": "rows", "FINSENT_CONFIG": "mine.yaml"}
    env |= dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")
    env |= {"PREFECT_WORKER_QUERY_SECONDS": "2", "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "180"}
    ports = ["--mlflow-port", str(free_port()), "--prefect-port", str(free_port())]
    command = [sys.executable, "-m", "finsent", "up", "--json", "--project", str(ROOT), *ports]
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        env = {"PREFECT_API_URL": said["prefect_api"], "PREFECT_API_AUTH_STRING": auth_string(folder / "state")}
        yield Up(Server(folder / "state", env), folder)
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)


def test_every_deployment_finds_its_places(running: Up) -> None:
    for name in ("score", "monitor", "maintain"):
        assert running.run(name)[:2] == ("COMPLETED", "Skipped")
    assert running.run("ingest")[0] == "COMPLETED"
    assert running.run("train")[0] == "COMPLETED"
    assert running.run("tune", trials=1)[0] == "COMPLETED"
    assert running.run("evaluate")[0] == "COMPLETED"
    assert running.run("promote")[:2] == ("COMPLETED", "Refused")
    assert running.run("approve")[:2] == ("COMPLETED", "Decided already")
    assert running.run("retrain", only_if_due=True)[:2] == ("COMPLETED", "Skipped")
    there = sorted(path.name for path in running.folder.iterdir())
    assert there == ["desk.csv.gz", "mine.yaml", "rows", "state"], "nothing beside what was named"
    assert {path.name for path in (running.folder / "rows").iterdir()} >= {"tweets", "quarantine"}
