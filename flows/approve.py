"""A person's word on a version that waits: the run suspends with a form, and whoever fills it in decides.

A suspended run leaves its worker and starts from the top when it is resumed, so that all before the form only reads.
"""

from datetime import UTC, datetime
from enum import Enum
from typing import Final

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.flow_runs import suspend_flow_run
from prefect.input import RunInput
from prefect.states import Completed
from pydantic import Field

from finsent.steps.promote import PromotionResult
from flows import links
from flows.artifacts import decision
from flows.events import emit_promoted
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.promote import concluded
from flows.steps import step

KEY: Final = "approval"
"""Names the form among the run's inputs: the same at every execution of the run."""
_ATTENTION: Final = 60  # seconds: the least that a form is open for


class Verdict(Enum):
    """What a person can say."""

    approve = "approve"
    reject = "reject"


class ApprovalForm(RunInput):
    """Let the version take over as champion, or turn it down. Both go into the ledger with name and reason."""

    verdict: Verdict = Field(description="`approve` makes it the champion at once; `reject` keeps it out for good.")
    who: str = Field(min_length=1, description="Who decides.")
    why: str = Field(min_length=1, description="What the decision rests on.")


@step()
def decide_version(setup: Setup, version: str, verdict: str, who: str, why: str) -> PromotionResult:
    """Record the decision and act on it; publish it, and tell the world of a promotion."""
    from finsent.steps import promote

    context = setup.load()
    decide = promote.approve if verdict == Verdict.approve.value else promote.reject
    result = decide(context, version, who, why)
    create_markdown_artifact(
        decision(result, context.registry.name),
        key="gate-decision",
        description=f"Version {result.model_version}: {result.decision}, {who}",
    )
    if result.decision == "promoted":
        emit_promoted(context.registry.name, result.model_version, result.champion_before)
    return result


@flow(name="approve", log_prints=False)
def approve(
    version: str | None = None, setup: Setup = FROM_ENVIRONMENT
) -> PromotionResult | State[PromotionResult] | State[None]:
    """Ask a person whether a version that passed the gate becomes champion. A request for approval starts it.

    Args:
        version: Registered version; left out, whichever waits.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    from finsent.steps.promote import decision_summary, get_approval_request

    context = setup.load()
    asked = get_approval_request(context, version)
    if asked is None:
        return Completed(name="Decided already", message=decision_summary(context, version))
    page = links.version_page(context.workspace, asked.model_name, asked.version)
    where = f"[Version {asked.version} in MLflow, with report and card]({page})" if page else links.how_to_open(context.workspace)
    seconds = (asked.expires_at - datetime.now(UTC)).total_seconds() if asked.expires_at else 0.0
    filled = suspend_flow_run(
        wait_for_input=ApprovalForm.with_initial_data(description=f"{asked.text}\n\n{where}"),
        timeout=max(int(seconds), _ATTENTION),
        key=f"{KEY}-{asked.version}",  # a newer challenger is another question
    )
    result = decide_version(setup, asked.version, filled.verdict.value, filled.who, filled.why)
    return concluded(result, result)
