"""Approval as people meet it: a worker's run asks, leaves the worker, and decides when the form has been sent to the server."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import Workspace
from tests.integration.prefect_servers import ENDED, Server, serving, wait_for
from tests.steps.promotion import WITH_APPROVAL, evaluate_new

pytestmark = [pytest.mark.integration, pytest.mark.long]


@dataclass(frozen=True)
class Served:
    server: Server
    home: Workspace


@pytest.fixture
def served(mlflow_home: Workspace, make_adapter: Callable[[int], Path]) -> Iterator[Served]:
    """Version 1 is champion, version 2 has its evidence; a server and the worker that decides run as `finsent up` starts them."""
    evaluate_new(mlflow_home, make_adapter(0), config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
    promote.approve(make_context(WITH_APPROVAL, mlflow_home), "1", "ada", "the first")
    evaluate_new(mlflow_home, make_adapter(0), champion="1", config=WITH_APPROVAL)
    with serving(mlflow_home, "gpu") as server:
        yield Served(server, mlflow_home)


def newest(server: Server, flow: str, *states: str) -> dict[str, Any] | None:
    """The newest run of a flow, once it is in one of the states."""
    runs = server.ask("flow_runs/filter", flows={"name": {"any_": [flow]}}, sort="START_TIME_DESC")
    return next((run for run in runs if run["state_type"] in states), None)


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(5, id="answered soon"),  # the process has left the worker by then: what goes on is a new one
        pytest.param(620, id="answered after heartbeats, leases and the worker's look at its runs"),
    ],
)
def test_the_gate_asks_through_the_server_and_the_form_promotes(served: Served, seconds: int) -> None:
    server = served.server
    command = [sys.executable, "-m", "prefect", "deployment", "run", "promote/promote", "--param", 'version="2"']
    subprocess.run(command, env=server.env, check=True, capture_output=True, text=True)
    asked = wait_for("the gate's decision", lambda: newest(server, "promote", *ENDED))
    assert (asked["state_type"], asked["state_name"]) == ("COMPLETED", "Waiting for approval"), asked["state"]["message"]
    waiting = wait_for("the form", lambda: newest(server, "approve", "PAUSED"))
    assert waiting["state_name"] == "Suspended"
    assert waiting["parameters"]["version"] == "2"
    assert Registry(served.home, "finsent").champion() == "1"

    time.sleep(seconds)
    run = newest(server, "approve", "PAUSED", *ENDED)
    assert run is not None
    assert (run["state_type"], run["state_name"]) == ("PAUSED", "Suspended"), run["state"]["message"]
    form = {"verdict": "approve", "who": "dana", "why": "read the report"}
    accepted = server.ask(f"flow_runs/{waiting['id']}/resume", run_input=form)
    assert accepted["status"] == "ACCEPT", accepted
    decided = wait_for("the decision", lambda: newest(server, "approve", *ENDED))
    assert (decided["state_type"], decided["state_name"]) == ("COMPLETED", "Promoted"), decided["state"]["message"]
    assert Registry(served.home, "finsent").champion() == "2"
    last = audit_log.read(served.home.audit_log)[-1]
    assert (last["action"], last["who"], last["why"]) == ("approve", "dana", "read the report")
    assert wait_for("scoring by the new champion", lambda: newest(server, "score", *ENDED))["state_type"] == "COMPLETED"
