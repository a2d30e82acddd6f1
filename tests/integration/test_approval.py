"""Approval by the form of a suspended run, on a real Prefect API: it asks, waits, and does what the person said."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from finsent.registry import audit_log, tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import Workspace
from flows.settings import FlowSettings
from tests.steps.promotion import WITH_APPROVAL, evaluate_new

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def prefect() -> Iterator[None]:
    """A Prefect API with a database of its own, for this module."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def waiting(mlflow_home: Workspace, make_adapter: Callable[[int], Path]) -> Workspace:
    """A home in which version 1 is champion and version 2 waits."""
    evaluate_new(mlflow_home, make_adapter(0), config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
    promote.approve(make_context(WITH_APPROVAL, mlflow_home), "1", "ada", "the first")
    evaluate_new(mlflow_home, make_adapter(0), champion="1", config=WITH_APPROVAL)
    assert promote.promote(make_context(WITH_APPROVAL, mlflow_home)).decision == "pending_approval"
    return mlflow_home


def start(home: Workspace, version: str) -> UUID:
    """A run of the deployment, as the trigger creates one; returns its id."""
    from prefect.client.orchestration import get_client

    from flows.approve import approve

    setup = FlowSettings(profile="nano", overrides=("gate.approval=required",), home=str(home.root))
    with get_client(sync_client=True) as client:
        deployment = client.create_deployment(client.create_flow(approve), name="approve")
        parameters = {"version": version, "settings": setup.model_dump(mode="json")}
        return client.create_flow_run_from_deployment(deployment, parameters=parameters).id


def execute(run_id: UUID) -> Any:
    """What a worker's process does with the run; returns the state that it is in then."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import Pause
    from prefect.flow_engine import run_flow
    from prefect.states import Pending

    from flows.approve import approve

    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, Pending())
        run = client.read_flow_run(run_id)
        with suppress(Pause):  # leaves the process; the worker goes on with other runs
            run_flow(approve, flow_run=run, parameters=dict(run.parameters), return_type="state")
        return client.read_flow_run(run_id).state


def resume(run_id: UUID, **filled: str) -> None:
    """Send the form, as the UI does."""
    from prefect.flow_runs import resume_flow_run

    resume_flow_run(run_id, run_input=filled)


def form_of(state: Any) -> tuple[str, dict[str, Any]]:
    """Description and schema of the form that the UI shows."""
    import json

    from prefect.client.orchestration import get_client

    details = state.state_details
    with get_client(sync_client=True) as client:
        description, schema = (
            json.loads(client.read_flow_run_input(details.flow_run_id, details.run_input_keyset[key]))
            for key in ("description", "schema")
        )
    return description, schema


def test_a_suspended_run_shows_a_form_and_approves(waiting: Workspace) -> None:
    before = audit_log.read(waiting.audit_log)
    run_id = start(waiting, "2")
    state = execute(run_id)
    assert (state.type.value, state.name) == ("PAUSED", "Suspended")
    assert state.state_details.pause_timeout is not None
    description, schema = form_of(state)
    assert "Version 2 passed the gate against champion 1" in description
    assert "can detect differences above 1.2 points" in description
    assert "mlflow ui" in description
    assert set(schema["required"]) == {"verdict", "who", "why"}
    assert schema["definitions"]["Verdict"]["enum"] == ["approve", "reject"]
    assert audit_log.read(waiting.audit_log) == before, "asking is no decision"

    resume(run_id, verdict="approve", who="dana", why="read the report")
    state = execute(run_id)
    assert (state.type.value, state.name) == ("COMPLETED", "Promoted")
    assert Registry(waiting, "finsent").champion() == "2"
    last = audit_log.read(waiting.audit_log)[-1]
    assert (last["action"], last["who"], last["why"]) == ("approve", "dana", "read the report")


def test_a_suspended_run_rejects(waiting: Workspace) -> None:
    run_id = start(waiting, "2")
    execute(run_id)
    resume(run_id, verdict="reject", who="dana", why="misreads negations")
    state = execute(run_id)
    assert (state.type.value, state.name) == ("COMPLETED", "Refused")
    assert "Rejected by dana: misreads negations" in state.message
    assert Registry(waiting, "finsent").champion() == "1"
    assert tracking.connect(waiting).get_model_version("finsent", "2").tags["approval"] == "rejected"


def test_a_run_whose_version_was_decided_meanwhile_ends_and_says_so(waiting: Workspace) -> None:
    run_id = start(waiting, "2")
    execute(run_id)
    promote.reject(make_context(WITH_APPROVAL, waiting), "2", "ada", "by command")
    entries = len(audit_log.read(waiting.audit_log))
    resume(run_id, verdict="approve", who="dana", why="too late")
    state = execute(run_id)
    assert (state.type.value, state.name) == ("COMPLETED", "Decided already")
    assert "Version 2 of 'finsent' was rejected" in state.message
    assert "by ada: by command" in state.message
    assert Registry(waiting, "finsent").champion() == "1"
    assert len(audit_log.read(waiting.audit_log)) == entries


def test_a_form_without_a_reason_is_not_taken(waiting: Workspace) -> None:
    run_id = start(waiting, "2")
    execute(run_id)
    with pytest.raises(RuntimeError, match="field 'why'"):
        resume(run_id, verdict="approve", who="dana", why="")
    assert Registry(waiting, "finsent").champion() == "1"
