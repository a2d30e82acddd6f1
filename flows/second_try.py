"""A retraining that failed or died is tried again, with growing pauses and an end: the hourly run of `monitor` sees to it."""

import logging
from datetime import UTC, datetime
from typing import Final, Literal

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from finsent.monitoring.retrain_policy import MAX_ATTEMPTS, NO_SLOT, RetrainAttempt, second_try
from flows.fence import SECOND_TRY
from flows.tasks import retrying_task

DEPLOYMENT: Final = "retrain/retrain"

_log = logging.getLogger("finsent.flows")


@retrying_task("try a failed retraining again")
def try_again(now: datetime | None = None) -> str | None:
    """Start the retrain deployment with the parameters of its latest run, if that failed and the pause is over.

    Returns the id of the run; None where there is nothing to try again. One that was cancelled is left alone, and so is a
    deployment that is paused.
    """
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            return None
        begun = [kind for kind in StateType if kind != StateType.SCHEDULED]
        runs = client.read_flow_runs(
            deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
            flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=begun))),
            sort=FlowRunSort.START_TIME_DESC,
            limit=10 * MAX_ATTEMPTS,
        )
        runs = [run for run in runs if run.state is not None and run.state.message != NO_SLOT]
        decision = second_try([_attempt(run) for run in runs], now or datetime.now(UTC))
        if decision.decision == "skip" or deployment.paused:
            return None
        _log.warning(" ".join(decision.reasons))
        # the key: a retry of this task, or another `monitor`, starts no second one
        again = client.create_flow_run_from_deployment(
            deployment.id, parameters=runs[0].parameters, idempotency_key=f"{SECOND_TRY}{runs[0].id}"
        )
        return str(again.id)


def _attempt(run: FlowRun) -> RetrainAttempt:
    outcomes: dict[StateType | None, Literal["completed", "failed", "cancelled", "unfinished"]] = {
        StateType.COMPLETED: "completed",
        StateType.FAILED: "failed",
        StateType.CRASHED: "failed",
        StateType.CANCELLED: "cancelled",
    }
    moment = run.end_time or run.start_time or run.expected_start_time or datetime.now(UTC)
    return RetrainAttempt(outcomes.get(run.state_type, "unfinished"), moment)
