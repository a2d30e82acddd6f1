"""The gate's decision: judge, record, move the alias, announce. A refusal is a completed run that says so, not a crash."""

from typing import Any, Final, TypeVar

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from finsent.registry.client import version_number
from finsent.steps import promote as step
from finsent.steps.context import Context
from finsent.steps.promote import PromotionResult
from flows.artifacts import decision
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import emit_approval_requested, emit_promoted, retrying_task, show

R = TypeVar("R")
STATE_NAMES: Final = {"promoted": "Promoted", "pending_approval": "Waiting for approval", "refused": "Refused"}
"""Names of the final state. All are completed: a refusal is an answer."""


@retrying_task("find newest version")
def find_newest(context: Context) -> str:
    """The newest registered version."""
    return context.registry.latest_version()


@retrying_task("judge version {version}")
def judge_version(context: Context, version: str) -> Any:
    """Let the gate decide on the version's evidence."""
    return step.judge(context, version)


@retrying_task("record decision on version {version}")
def record_decision(context: Context, version: str, judged: Any) -> Any:  # noqa: ARG001 - names the run
    """Write the decision to the audit log and the version's tags, and render report and model card with it."""
    return step.record(context, judged)


@retrying_task("move alias for version {version}")
def move_alias(context: Context, version: str, judged: Any) -> PromotionResult:  # noqa: ARG001 - names the run
    """Make the version champion, or challenger where a human must approve; archive it where it was refused."""
    return step.move_alias(context, judged)


@retrying_task("announce {result.decision} of version {result.model_version}")
def announce(model: str, result: PromotionResult) -> None:
    """Emit the event that starts scoring, or asks for approval."""
    if result.decision == "promoted":
        emit_promoted(model, result.model_version, result.champion_before)
    elif result.decision == "pending_approval":
        emit_approval_requested(model, result.model_version, result.champion_before, list(result.reasons))


@retrying_task("show decision on version {result.model_version}")
def show_decision(model: str, result: PromotionResult, who: str = "") -> None:
    """Publish the decision, rule by rule."""
    by = f", {who}" if who else ""
    create_markdown_artifact(
        decision(result, model), key="gate-decision", description=f"Version {result.model_version}: {result.decision}{by}"
    )


@flow(name="promote", flow_run_name=run_name("promote {version} of {model}"), log_prints=False)
def promote(version: str | None = None, settings: FlowSettings = FROM_ENVIRONMENT) -> PromotionResult | State[PromotionResult]:
    """Promote a version if the gate lets it pass.

    Args:
        version: Registered version; left out, the newest.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        model = context.config.registered_model
        version = version_number(version) or find_newest(context)
        describe_run(context, f"promote version {version} of {model}", version=version)
        judged = judge_version(context, version)
        recorded = record_decision(context, version, judged)
        result = move_alias(context, version, recorded)
        announce(model, result)
        show(show_decision, model, result)
    return completed_state(result, result)


def completed_state(decision: PromotionResult, result: R) -> State[R]:
    """A completed state that the UI shows by the decision's name, with the reasons as its message."""
    return Completed(name=STATE_NAMES[decision.decision], message=" ".join(decision.reasons), data=result)
