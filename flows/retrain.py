"""Retraining: ingest, train, evaluate and promote as subflows. Scoring starts by the event of a promotion."""

from dataclasses import dataclass
from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State

from finsent.config import Source
from finsent.data.ingest_report import IngestReport
from finsent.monitoring.retrain_policy import RetrainDecision
from finsent.steps import monitor as step
from finsent.steps.context import Context
from finsent.steps.evaluate import EvaluationResult
from finsent.steps.promote import PromotionResult
from finsent.steps.train import TrainResult
from flows.evaluate import evaluate
from flows.ingest import ingest
from flows.promote import completed_state, promote
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, skipped
from flows.train import train


@dataclass(frozen=True)
class RetrainResult:
    """What each subflow of one retraining found."""

    data: IngestReport | None
    training: TrainResult | None
    """None where an earlier retraining had registered the version and died before its decision."""
    evaluation: EvaluationResult
    promotion: PromotionResult


@dataclass(frozen=True)
class RetrainSkipped:
    """Nothing to train on, or too soon."""

    data: IngestReport | None
    reasons: tuple[str, ...]


@retrying_task("decide whether retraining is due")
def check_due(context: Context) -> RetrainDecision:
    """Whether there is anything new to train on, and why or why not."""
    return step.check_due(context)


@retrying_task("look for an undecided version")
def find_undecided(context: Context, retraining_is_due: bool) -> str | None:
    """A version that an earlier retraining registered and the gate never decided on, unless newer data calls for another."""
    return step.find_undecided(context, retraining_is_due=retraining_is_due)


@retrying_task("count attempt to finish version {version}")
def count_attempt(context: Context, version: str) -> None:
    """Note at the version that this retraining goes on with it, so that one that always fails does not block training."""
    step.count_attempt(context, version)


@flow(name="retrain", flow_run_name=run_name("retrain {model} {profile} {data}"), log_prints=False)
def retrain(
    sources: tuple[Source, ...] = (), only_if_due: bool = False, settings: FlowSettings = FROM_ENVIRONMENT
) -> RetrainResult | State[RetrainResult] | State[RetrainSkipped]:
    """Read new labels, train on all of them, evaluate, and let the gate decide.

    A retraining that died after registering its version goes on with that version instead of training again.

    Args:
        sources: What to read; left empty, the configured `data.sources`. With neither, the data there is trained on.
        only_if_due: Stop after reading when nothing is new or the last training is too recent; schedules set it.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        data: Any = ingest(sources, settings=settings) if sources or context.config.data.sources else None
        due = check_due(context) if only_if_due else None
        undecided = find_undecided(context, due is None or due.decision == "retrain")
        if due is not None and due.decision == "skip" and undecided is None:
            return skipped(" ".join(due.reasons), RetrainSkipped(data, due.reasons))
        if undecided:
            count_attempt(context, undecided)
        training: Any = None if undecided else train(settings=settings)
        if isinstance(training, str):  # it waited for another one for too long
            return skipped(training, RetrainSkipped(data, (training,)))
        version = training.model_version if training else undecided
        name = f"retrain {context.config.registered_model} {context.config.profile}: version {version}"
        describe_run(context, name, profile=context.config.profile, version=version)
        evaluation = evaluate(version, settings=settings)
        promotion: Any = promote(version, settings=settings)
    return completed_state(promotion, RetrainResult(data, training, evaluation, promotion))
