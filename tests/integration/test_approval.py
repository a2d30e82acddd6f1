"""Approval by the form of a suspended run, on a real Prefect API: it asks, waits, and does what the person said."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from finsent.registry import audit_log, tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from finsent.workspace import Workspace, resolve_workspace
from flows.settings import FlowSettings
from tests.homes import BuildOnce, copy_home
from tests.steps.promotion import WITH_APPROVAL, evaluate_new

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect")]


@pytest.fixture
def waiting(build_once: BuildOnce, make_adapter: Callable[[int], Path], tmp_path: Path) -> Workspace:
    """A home in which version 1 is champion and version 2 waits."""

    def build(folder: Path) -> None:
        home = resolve_workspace({"FINSENT_HOME": str(folder)})
        evaluate_new(home, make_adapter(0), config=WITH_APPROVAL)
        promote.promote(make_context(WITH_APPROVAL, home))
        promote.approve(make_context(WITH_APPROVAL, home), "1", "ada", "the first")
        evaluate_new(home, make_adapter(0), champion="1", config=WITH_APPROVAL)
        assert promote.promote(make_context(WITH_APPROVAL, home)).decision == "pending_approval"

    return copy_home(build_once("waiting", build), tmp_path / "home")


def start(home: Workspace, version: str, file: Path | None = None) -> UUID:
    """A run of the deployment, as the trigger creates one; returns its id."""
    from prefect.client.orchestration import get_client

    from flows.approve import approve

    given = {"config_file": str(file)} if file else {"overrides": ("gate.approval=required",)}
    setup = FlowSettings(profile="nano", home=str(home.root), **given)
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


def later() -> type[datetime]:
    """A clock by which the approval has expired."""

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(hours=WITH_APPROVAL.gate.approval_expires_hours + 1)

    return Later


def resume(run_id: UUID, **filled: str) -> None:
    """Send the form, as the UI does."""
    from prefect.flow_runs import resume_flow_run

    resume_flow_run(run_id, run_input=filled)


def name_of(run_id: UUID) -> str:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run_id).name)


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
    assert state.state_details.pause_timeout is not None, "a form that nobody fills in ends with its time"
    left = (state.state_details.pause_timeout - datetime.now(UTC)).total_seconds() / 3600
    assert -0.1 < left - WITH_APPROVAL.gate.approval_expires_hours - 24 <= 0, (
        "and leaves a day to close it before it shows as Failed"
    )
    assert name_of(run_id) == "approve version 2 of finsent: waits for a person"
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
    assert name_of(run_id) == "approve version 2 of finsent: promoted"


def test_a_suspended_run_rejects_and_takes_no_form_without_a_reason(waiting: Workspace) -> None:
    run_id = start(waiting, "2")
    execute(run_id)
    for why in ("", "  ", "\n\t"):
        with pytest.raises(RuntimeError, match="field 'why'"):
            resume(run_id, verdict="approve", who="dana", why=why)
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


@pytest.mark.long
def test_forms_that_nobody_needs_any_more_are_closed(waiting: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decided by command, or never answered: Prefect would show such a form as waiting, then as Failed."""
    from prefect.client.orchestration import get_client

    from flows import approve as module

    def closed(run_id: UUID) -> tuple[str, str, str]:
        module.close_forms.fn(make_context(WITH_APPROVAL, waiting))
        with get_client(sync_client=True) as client:
            run = client.read_flow_run(run_id)
        return run.state.type.value, run.state.name, run.name

    run_id = start(waiting, "2")
    execute(run_id)
    assert closed(run_id)[:2] == ("PAUSED", "Suspended"), "it is still needed"
    with monkeypatch.context() as patch:
        patch.setattr(module, "datetime", later())
        assert closed(run_id) == ("COMPLETED", "Expired", "approve version 2 of finsent: expired")
    run_id = start(waiting, "2")
    execute(run_id)
    promote.reject(make_context(WITH_APPROVAL, waiting), "2", "ada", "by command")
    assert closed(run_id) == ("COMPLETED", "Decided already", "approve version 2 of finsent: decided already")


def test_an_answer_that_cannot_be_used_is_asked_for_again(waiting: Workspace) -> None:
    """As by a server that does not check the form, or one of another version."""
    from prefect.client.orchestration import get_client
    from prefect.states import Scheduled

    run_id = start(waiting, "2")
    details = execute(run_id).state_details
    with get_client(sync_client=True) as client:
        blank = '{"verdict": "approve", "who": "dana", "why": "  "}'
        client.create_flow_run_input(run_id, details.run_input_keyset["response"], blank)
        client.set_flow_run_state(run_id, Scheduled(name="Resuming"))
    state = execute(run_id)
    assert (state.type.value, state.name) == ("PAUSED", "Suspended")
    assert "cannot be decided as it is: why: String should match pattern" in form_of(state)[0]
    assert Registry(waiting, "finsent").champion() == "1"
    resume(run_id, verdict="reject", who="dana", why="misreads negations")
    assert execute(run_id).name == "Refused", "the newest answer counts"


@pytest.mark.long
def test_rules_that_were_edited_while_it_waited_are_named_and_the_form_comes_back(waiting: Workspace, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("gate: {approval: required}\n", encoding="utf-8")
    run_id = start(waiting, "2", file)
    execute(run_id)
    file.write_text("gate: {approval: required, alpha: 0.2}\n", encoding="utf-8")
    resume(run_id, verdict="approve", who="dana", why="read the report")
    state = execute(run_id)
    assert (state.type.value, state.name) == ("PAUSED", "Suspended")
    assert "evaluated under other rules" in form_of(state)[0]
    assert "gate.alpha 0.05, now 0.2" in form_of(state)[0]
    assert Registry(waiting, "finsent").champion() == "1"
    file.write_text("gate: {approval: required}\n", encoding="utf-8")
    resume(run_id, verdict="approve", who="dana", why="read the report again")
    assert execute(run_id).name == "Promoted"
    assert audit_log.read(waiting.audit_log)[-1]["why"] == "read the report again"


def test_an_answer_outlasts_a_decision_that_failed(waiting: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow was away when the form came back: trying the run again in the UI decides, and does not ask again."""
    from finsent.errors import ServiceError
    from flows import approve as module

    def away(*_: Any) -> None:
        raise ServiceError("MLflow does not answer")

    run_id = start(waiting, "2")
    execute(run_id)
    resume(run_id, verdict="approve", who="dana", why="read the report")
    with monkeypatch.context() as patch:
        patch.setattr(module.step, "approve", away)
        patch.setattr(module, "decide_version", module.decide_version.with_options(retries=0))
        assert execute(run_id).type.value == "FAILED"
    assert execute(run_id).name == "Promoted"


def test_an_approval_that_comes_too_late_is_void_and_says_so(waiting: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.registry import approvals

    run_id = start(waiting, "2")
    execute(run_id)
    resume(run_id, verdict="approve", who="dana", why="back from holiday")
    monkeypatch.setattr(approvals, "datetime", later())
    state = execute(run_id)
    assert (state.type.value, state.name) == ("COMPLETED", "Refused")
    assert "comes too late" in state.message
    assert Registry(waiting, "finsent").champion() == "1"
    assert audit_log.read(waiting.audit_log)[-1]["action"] == audit_log.APPROVAL_VOID


def test_a_request_about_another_model_asks_nothing(waiting: Workspace) -> None:
    from flows.approve import approve

    state = approve("2", "another", FlowSettings(home=str(waiting.root)), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Skipped")
    assert "'another'" in str(state.message)
