"""The gate's decision. A refusal is a completed run with an artifact that says so, not a crash."""

from typing import Final, TypeVar

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from finsent.steps.promote import PromotionResult
from flows.artifacts import decision
from flows.events import emit_approval_requested, emit_promoted
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step

R = TypeVar("R")
STATES: Final = {"promoted": "Promoted", "pending_approval": "Waiting for approval", "refused": "Refused"}
"""Names of the final state. All are completed: a refusal is an answer."""


@step()
def promote_version(setup: Setup, version: str | None) -> PromotionResult:
    """Let the gate decide on the version's evidence; publish the decision, and tell the world of it."""
    from finsent.steps.promote import promote as run

    context = setup.load()
    result = run(context, version=version)
    create_markdown_artifact(
        decision(result, context.registry.name),
        key="gate-decision",
        description=f"Version {result.model_version}: {result.decision}",
    )
    if result.decision == "promoted":
        emit_promoted(context.registry.name, result.model_version, result.champion_before)
    elif result.decision == "pending_approval":
        emit_approval_requested(context.registry.name, result.model_version, result.champion_before, list(result.reasons))
    return result


@flow(name="promote", log_prints=False)
def promote(version: str | None = None, setup: Setup = FROM_ENVIRONMENT) -> PromotionResult | State[PromotionResult]:
    """Promote a version if it has proved itself.

    Args:
        version: Registered version; left out, the newest.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    result = promote_version(setup, version)
    return concluded(result, result)


def concluded(decision: PromotionResult, result: R) -> State[R]:
    """A completed state that the UI shows by the decision's name, with the reasons as its message."""
    return Completed(name=STATES[decision.decision], message=" ".join(decision.reasons), data=result)
