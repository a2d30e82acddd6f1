"""Human approval of a version that passed the gate: the run suspends with a form, and whoever fills it in decides.

A suspended run leaves its worker and starts from the top when it is resumed, so everything before the form only reads.
"""

from datetime import UTC, datetime
from enum import Enum
from itertools import count
from typing import Any, Final

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import State, StateType
from prefect.flow_runs import suspend_flow_run
from prefect.input import Keyset, RunInput, keyset_from_base_key, read_flow_run_input
from prefect.states import Completed
from pydantic import Field, ValidationError

from finsent.registry.approvals import ApprovalRequest
from finsent.steps import promote as step
from finsent.steps.context import Context
from finsent.steps.promote import PromotionResult
from flows import artifacts
from flows.promote import STATE_NAMES, announce, completed_state, show_decision
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, show, skipped

KEY: Final = "approval"
"""Names the forms among the run's inputs, with the version and a number: each can be filled in once."""
_SHORTEST_WAIT: Final = 60  # seconds that a form stays open at least
_TIME_TO_CLOSE: Final = 24 * 3600  # seconds after the approval's end: Prefect shows a form whose time has passed as Failed
_NOT_BLANK: Final = r"\S"  # also in the form's schema, by which the server checks what is sent


class Verdict(Enum):
    """The two answers."""

    approve = "approve"
    reject = "reject"


class ApprovalForm(RunInput):
    """Make the version champion, or reject it. Both go into the audit log with name and reason."""

    verdict: Verdict = Field(description="`approve` makes it the champion at once; `reject` bars it for good.")
    who: str = Field(min_length=1, pattern=_NOT_BLANK, description="Who decides.")
    why: str = Field(min_length=1, pattern=_NOT_BLANK, description="What the decision rests on.")


@retrying_task("{verdict} version {version}")
def decide_version(context: Context, version: str, verdict: str, who: str, why: str) -> PromotionResult:
    """Record the decision in the audit log and act on it."""
    decide = step.approve if verdict == Verdict.approve.value else step.reject
    return decide(context, version, who, why)


@retrying_task("show what version {request.version} waits for")
def show_request(request: ApprovalRequest) -> None:
    """Publish what is asked and how to answer, in the place of the gate's decision, which this follows."""
    version, title = request.version, f"Version {request.version} of {request.model_name} waits for a person"
    until = f", until {request.expires_at:%Y-%m-%d %H:%M} UTC" if request.expires_at else ""
    commands = f"`finsent approve {version} --why ...` or `finsent reject {version} --why ...`"
    answer = f"Open this run and press **Resume**, or run {commands}."
    create_markdown_artifact(f"# {title}{until}\n\n{answer}\n\n{request.text}", key="gate-decision", description=title)


@retrying_task("close forms that nobody needs any more")
def close_forms(context: Context) -> None:
    """Complete suspended runs about a version that was decided meanwhile, or whose approval has expired: red means broken."""
    suspended = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PAUSED]))
    tagged = FlowRunFilterTags(all_=[f"model:{context.registry.name}"])
    with get_client(sync_client=True) as client:
        for run in client.read_flow_runs(
            flow_filter=FlowFilter(name=FlowFilterName(any_=["approve"])),
            flow_run_filter=FlowRunFilter(state=suspended, tags=tagged),
        ):
            version = next(tag.removeprefix("version:") for tag in run.tags if tag.startswith("version:"))
            request = step.get_approval_request(context, version)
            if request is None:
                ended: State[None] = Completed(name="Decided already", message=step.decision_summary(context, version))
            elif request.expires_at is not None and request.expires_at < datetime.now(UTC):
                asks = f"`finsent promote --version {version}` asks anew"
                ended = Completed(
                    name="Expired", message=f"Nobody answered until {request.expires_at:%Y-%m-%d %H:%M} UTC: {asks}."
                )
            else:
                continue
            client.set_flow_run_state(run.id, ended, force=True)
            client.update_flow_run(
                run.id, name=f"approve version {version} of {context.registry.name}: {str(ended.name).lower()}"
            )


@flow(name="approve", flow_run_name=run_name("approve {version} of {model}"), log_prints=False)
def approve(
    version: str | None = None, model: str | None = None, settings: FlowSettings = FROM_ENVIRONMENT
) -> PromotionResult | State[PromotionResult] | State[None]:
    """Ask a human whether a version that passed the gate becomes champion. A request for approval starts it.

    Args:
        version: Registered version; left out, whichever waits.
        model: Registered model that the version is of; left out, the configured one. Of another model nothing is asked.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        if model not in {None, context.registry.name}:
            return skipped(f"The request is about the model {model!r}, and this worker's is {context.registry.name!r}.")
        request = step.get_approval_request(context, version)
        if request is None:
            return Completed(name="Decided already", message=step.decision_summary(context, version))
        about = f"approve version {request.version} of {request.model_name}"
        filled = _ask(describe_run(context, f"{about}: waits for a person", version=request.version), request)
        result = decide_version(context, request.version, filled.verdict.value, filled.who, filled.why)
        announce(request.model_name, result)
        describe_run(context, f"{about}: {STATE_NAMES[result.decision].lower()}", version=request.version)
        show(show_decision, request.model_name, result, filled.who)
    return completed_state(result, result)


def _ask(context: Context, request: ApprovalRequest) -> ApprovalForm:
    """What the newest form was filled in with; suspends the run with a new one where there is none that can be acted on."""
    asked = next(n - 1 for n in count(1) if read_flow_run_input(_form(request, n)["schema"]) is None)
    problem = request.problem
    answer: Any = read_flow_run_input(_form(request, asked)["response"]) if asked else None
    if answer is not None:
        try:
            filled = ApprovalForm.model_validate(answer)
        except ValidationError as error:
            problem = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        else:
            if problem is None:
                return filled
    show(show_request, request)
    page = artifacts.version_page(context.workspace, request.model_name, request.version)
    opening = artifacts.how_to_open(context.workspace)
    where = f"[Version {request.version} in MLflow, with report and card]({page})" if page else opening
    seconds = (request.expires_at - datetime.now(UTC)).total_seconds() if request.expires_at else 0.0
    warning = f"**This cannot be decided as it is: {problem}**" if problem else ""
    filled_in: Any = suspend_flow_run(
        wait_for_input=ApprovalForm.with_initial_data(description="\n\n".join(filter(None, (warning, request.text, where)))),
        timeout=max(int(seconds), _SHORTEST_WAIT) + _TIME_TO_CLOSE,
        key=f"{KEY}-{request.version}-{asked + 1}",  # a newer challenger is another question
    )
    return ApprovalForm.model_validate(filled_in)


def _form(request: ApprovalRequest, number: int) -> Keyset:
    """Names of the form's schema and answer among the run's inputs."""
    return keyset_from_base_key(f"suspended-{KEY}-{request.version}-{number}")
