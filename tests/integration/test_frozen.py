"""A training whose process is frozen for longer than its heartbeats and its lease allow, and thaws beside its successor.

The cheap twins: tests/training/test_exclusive.py, tests/flows/test_fence.py and test_flows.py.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from finsent.registry.client import Registry
from tests.conftest import TINY, Served
from tests.integration.prefect_servers import ENDED, Server, serving, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.long]
SETTINGS = {"profile": "nano", "overrides": [*TINY, "recipe.epochs=6", "recipe.checkpoint_every=2", "recipe.seed=3"]}
"""Some minutes of training, in which a checkpoint is soon there."""


@pytest.fixture
def server(served: Served) -> Iterator[Server]:
    with serving(served.home, "gpu") as started:
        yield started


def start(server: Server) -> str:
    """Start the deployment `train`; the run's id."""
    command = [sys.executable, "-m", "prefect", "deployment", "run", "train/train", "--param", f"settings={json.dumps(SETTINGS)}"]
    subprocess.run(command, env=server.env, check=True, capture_output=True, text=True)
    (newest, *_) = server.ask("flow_runs/filter", flows={"name": {"any_": ["train"]}}, sort="EXPECTED_START_TIME_DESC")
    return str(newest["id"])


def engine(run: str) -> psutil.Process | None:
    """The process of a flow run."""
    children = [child for child in psutil.Process().children(recursive=True) if child.status() != psutil.STATUS_ZOMBIE]
    return next((child for child in children if child.environ().get("PREFECT__FLOW_RUN_ID") == run), None)


def test_a_frozen_training_that_thaws_leaves_the_work_to_its_successor(served: Served, server: Server) -> None:
    registry = Registry(served.home, served.config.registered_model)
    known = {path.name for path in served.home.runs.iterdir()}

    def state(run: str) -> tuple[str, str]:
        (found,) = server.ask("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
        return found["state_type"], str(found["state"]["message"])

    def folders() -> list[Any]:
        return [path for path in served.home.runs.iterdir() if path.name not in known]

    first = start(server)
    wait_for("a checkpoint", lambda: [file for folder in folders() for file in folder.glob("checkpoint-*")], 180)
    process = engine(first)
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    wait_for("the end of its heartbeats", lambda: state(first)[0] == "CRASHED", 420)
    second = start(server)
    wait_for("the second training", lambda: state(second)[0] == "RUNNING", 60)
    time.sleep(130)  # the lease of the first one's place ends
    assert len(folders()) == 1, "the second one waits"
    assert "is stopped" in "".join(log["message"] for log in server.ask("logs/filter", logs={"flow_run_id": {"any_": [second]}}))

    process.send_signal(signal.SIGCONT)
    wait_for("the end of the first one's process", lambda: not process.is_running(), 60)
    assert state(first)[0] == "CRASHED"
    wait_for("the end of the second training", lambda: state(second)[0] in ENDED, 400)
    assert state(second)[0] == "COMPLETED", state(second)
    (folder,) = folders()  # the second one went on with the first one's checkpoint
    assert registry.version_of_run(folder.name) == registry.latest_version() == "2"
    said = [log["message"] for log in server.ask("logs/filter", logs={"flow_run_id": {"any_": [first]}})]
    assert [line for line in said if "is Crashed (heartbeat lost" in line and f"this process, {process.pid}, ends" in line], said
    assert os.environ.get("PREFECT_API_URL") is None
