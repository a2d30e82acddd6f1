"""One trial of a search: a training with its own settings, looked at after each epoch, scored on the validation split."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from finsent.config import Config
from finsent.errors import FinsentError
from finsent.home import Home

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from finsent.data.dataset import Split
    from finsent.training.trainer import TrainingResult

_log = logging.getLogger(__name__)

OnLook = Callable[[float, float], bool]
"""`on_look(share, validation_loss)`, `share` of the training being done: whether to end the trial here."""
KIND: Final = "trial"
"""Tag `kind` of the runs."""


@dataclass(frozen=True)
class TrialData:
    """What every trial of a search works on; the test split is no part of it."""

    version: int
    """Of the table `tweets`."""
    fingerprint: str
    """Of the rows of both splits."""
    train: "Split"
    validation: "Split"


@dataclass(frozen=True)
class Outcome:
    """How a trial ended."""

    state: str
    """`complete`, `pruned` or `failed`."""
    run_id: str
    seconds: float
    scores: dict[str, float]
    """loss (what is minimised), accuracy, macro_f1; empty unless complete."""
    reason: str | None = None
    """Why it was pruned or failed."""


class _Hopeless(Exception):  # noqa: N818 - ends a training from within its report; no error
    pass


def run_trial(config: Config, home: Home, data: TrialData, folder: Path, parent: str, name: str, on_look: OnLook) -> Outcome:
    """Train with these settings in a nested MLflow run, and score a fresh load of what came out.

    A training that diverges or does not fit into memory is an outcome; anything else that goes wrong is raised. The folder is
    kept for the next attempt then, and is removed otherwise.

    Raises:
        InputError: no rows, or only one class in them.
        BaseModelError: the base cannot be reached.
        ServiceError: the MLflow server does not answer.
    """
    from finsent.registry.tracking import connect, log_series, start_run

    client, started = connect(home), time.perf_counter()
    run_id, outcome = "", None
    tags = {"mlflow.parentRunId": parent, "mlflow.runName": name}
    try:
        with start_run(config, home, kind=KIND, tags=tags) as run_id:
            try:
                with log_series(client, run_id) as log:
                    trained = _train(config, home, data, folder, _looking(config, len(data.train.texts), log, on_look))
                scores = _score(config, home, data, trained)
                for key, value in scores.items():
                    client.log_metric(run_id, f"tuned_{key}", value, step=trained.steps)
                outcome = Outcome("complete", run_id, time.perf_counter() - started, scores)
            except _Hopeless as reason:
                outcome = Outcome("pruned", run_id, time.perf_counter() - started, {}, str(reason))
            client.set_tag(run_id, "trial_state", outcome.state)
    except FinsentError as error:
        if type(error) is not FinsentError:  # input, base or server: the next trial would meet the same
            raise
        client.set_tag(run_id, "trial_state", "failed")
        outcome = Outcome("failed", run_id, time.perf_counter() - started, {}, str(error))
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _train(
    config: Config, home: Home, data: TrialData, folder: Path, report: Callable[[int, dict[str, float]], None]
) -> "TrainingResult":
    import torch

    from finsent.training.trainer import LabelledTexts, train

    rows, validation = (
        LabelledTexts(data.train.texts, data.train.labels),
        LabelledTexts(data.validation.texts, data.validation.labels),
    )
    try:
        return train(config, home, rows, validation, folder, report)
    except torch.OutOfMemoryError as error:
        raise FinsentError(f"GPU memory ran out: {error}") from error


def _looking(
    config: Config, rows: int, log: Callable[[int, dict[str, float]], None], on_look: OnLook
) -> Callable[[int, dict[str, float]], None]:
    """What the training reports to: figures go to `log`, the validation loss after each epoch to `on_look` too."""
    from finsent.training.batches import steps_in_total

    total = steps_in_total(rows, config.recipe.batch_size * config.recipe.accumulation, config.recipe.epochs)

    def report(step: int, values: dict[str, float]) -> None:
        log(step, values)
        loss = values.get("validation_loss")
        if loss is not None and on_look(step / total, loss):
            raise _Hopeless(f"validation loss {loss:.4f} after {step} of {total} steps, behind the median of the other trials")

    return report


def _score(config: Config, home: Home, data: TrialData, trained: "TrainingResult") -> dict[str, float]:
    """Figures of a fresh load of the saved adapter on the validation split.

    The loss is the cross-entropy after temperature scaling fitted on the same rows, as `finsent train` does afterwards: a
    proper score (Gneiting and Raftery 2007), so it tells settings apart by every row's probability where macro-F1 counts
    flipped labels, and without a share for over-confidence that scaling takes away anyway.
    """
    from finsent.evaluation.calibration import fit_temperature
    from finsent.evaluation.metrics import compute_metrics
    from finsent.models.adapter import load_adapter
    from finsent.models.load import prepare_for_inference
    from finsent.models.manifest import write_manifest
    from finsent.models.predict import predict_logits
    from finsent.pipeline.train import manifest_of

    # of an adapter that is thrown away once it is scored
    manifest = manifest_of(config, data.version, data.fingerprint, trained, git_sha=None, lock_hash="")
    write_manifest(trained.adapter, manifest)
    texts, labels = data.validation.texts, data.validation.labels
    loaded = prepare_for_inference(load_adapter(trained.adapter, home), config.engine, rows=len(texts))
    logits = predict_logits(loaded, texts, token_budget=config.scoring.token_budget, progress=True)
    if not np.isfinite(logits).all():
        raise FinsentError("logits on the validation split are not all finite. Lower recipe.learning_rate.")
    metrics = compute_metrics(labels, logits.argmax(axis=1))
    loss = cross_entropy(logits / fit_temperature(logits, labels), labels)
    return {"loss": loss, "accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}


def cross_entropy(logits: "NDArray[np.floating]", labels: "NDArray[np.int64]") -> float:
    """Mean negative log-likelihood, in nats, of labels [N] under logits [N, classes]."""
    from scipy.special import log_softmax

    return float(-log_softmax(logits.astype(np.float64), axis=1)[np.arange(len(labels)), labels].mean())
