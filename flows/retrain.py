"""The chain from new labels to a decision: ingest, train, evaluate, promote. Scoring starts by the event of a promotion."""

from dataclasses import dataclass

from prefect import flow

from finsent.config import Source
from finsent.pipeline.evaluate import EvaluationResult
from finsent.pipeline.ingest import IngestReport
from finsent.pipeline.promote import PromotionResult
from finsent.pipeline.train import TrainResult
from flows.evaluate import evaluate_version
from flows.ingest import ingest_sources
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.promote import promote_version
from flows.train import train_version


@dataclass(frozen=True)
class Retrained:
    """What each step of one retraining found."""

    data: IngestReport | None
    training: TrainResult
    evaluation: EvaluationResult
    promotion: PromotionResult


@flow(name="retrain", log_prints=False)
def retrain(sources: tuple[Source, ...] = (), setup: Setup = FROM_ENVIRONMENT) -> Retrained:
    """Read new labels, train on all of them, evaluate, and let the gate decide.

    Args:
        sources: What to read; left empty, the configured `data.sources`. With neither, the data there is trained on.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    config, _ = setup.load()
    data = ingest_sources(setup, sources) if sources or config.data.sources else None
    training = train_version(setup, None)
    evaluation = evaluate_version(setup, training.model_version)
    return Retrained(data, training, evaluation, promote_version(setup, training.model_version))
