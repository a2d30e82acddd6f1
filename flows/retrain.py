"""The chain from new labels to a decision: ingest, train, evaluate, promote. Scoring starts by the event of a promotion."""

from dataclasses import dataclass

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed

from finsent.config import Source
from finsent.pipeline.accounting import IngestReport
from finsent.pipeline.evaluate import EvaluationResult
from finsent.pipeline.retrain import retrain_decision
from finsent.pipeline.train import TrainResult
from finsent.steps.promote import PromotionResult
from flows.evaluate import evaluate_version
from flows.ingest import ingest_sources
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.promote import concluded, promote_version
from flows.steps import step
from flows.train import train_version


@dataclass(frozen=True)
class Retrained:
    """What each step of one retraining found."""

    data: IngestReport | None
    training: TrainResult
    evaluation: EvaluationResult
    promotion: PromotionResult


@step()
def due(setup: Setup) -> tuple[bool, str]:
    """Whether there is anything new to train on, and why or why not."""
    context = setup.load()
    decision = retrain_decision(context, scheduled=True)
    return decision.decision == "retrain", " ".join(decision.reasons)


@flow(name="retrain", log_prints=False)
def retrain(
    sources: tuple[Source, ...] = (), only_if_due: bool = False, setup: Setup = FROM_ENVIRONMENT
) -> Retrained | State[Retrained]:
    """Read new labels, train on all of them, evaluate, and let the gate decide.

    Args:
        sources: What to read; left empty, the configured `data.sources`. With neither, the data there is trained on.
        only_if_due: Stop after reading when nothing is new or the last training is too recent; schedules set it.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    config = setup.load().config
    data = ingest_sources(setup, sources) if sources or config.data.sources else None
    if only_if_due:
        wanted, why = due(setup)
        if not wanted:
            return Completed(name="Skipped", message=why)
    training = train_version(setup, None)
    evaluation = evaluate_version(setup, training.model_version)
    promotion = promote_version(setup, training.model_version)
    return concluded(promotion, Retrained(data, training, evaluation, promotion))
