"""One trial of a search: a training in a nested MLflow run, evaluated after each epoch, scored on the validation split."""

import logging
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from finsent.config import Config
from finsent.errors import FinsentError
from finsent.evaluation.calibration import fit_temperature
from finsent.evaluation.metrics import compute_metrics
from finsent.models.manifest import write_manifest
from finsent.registry.tracking import connect, log_series, start_run
from finsent.training.batches import steps_in_total
from finsent.training.calibrate import make_manifest
from finsent.tuning import search
from finsent.tuning.search import TrialRecord
from finsent.tuning.space import Space, apply_params, settings_key
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import Trial

    from finsent.data.dataset import Split
    from finsent.training.trainer import TrainingResult

_log = logging.getLogger(__name__)

KIND: Final = "trial"
"""Tag `kind` of a trial's run."""


@dataclass(frozen=True)
class TrialData:
    """Rows that every trial of a search uses; the test split is no part of it."""

    version: int
    """Of the table `tweets`."""
    fingerprint: str
    """Of the rows of both splits."""
    train: "Split"
    validation: "Split"


def run_trial(
    study: "Study",
    config: Config,
    home: Workspace,
    data: TrialData,
    space: Space,
    parent_run: str,
    at_each_step: Callable[[], None] = lambda: None,
) -> None:
    """Run the next trial and record how it ended; settings that were tried before are not trained again.

    A training that diverges or exceeds the memory is a failed trial. Any other error, an interrupt, and what `at_each_step`
    raises, is raised; the trial is queued again then, and its checkpoints are kept for the next attempt.

    Raises:
        InputError: no rows, or only one class in them.
        BaseModelError: the base cannot be reached.
        ServiceError: the MLflow server does not answer.
    """
    trial = search.next_trial(study, space, config.recipe.seed)
    number = trial.user_attrs[search.NUMBER]
    earlier = search.tried(study, space).get(settings_key(space, trial.params))
    try:
        if earlier is None:
            folder = search.study_dir(home, study.study_name) / "trials" / str(number)
            record = _run(apply_params(config, trial.params), home, data, folder, trial, parent_run, at_each_step)
        else:  # all trials share the seed, so it would end alike
            reason = f"same settings as trial {earlier.number}, not trained again" + (
                f": {earlier.reason}" if earlier.reason else ""
            )
            record = replace(earlier, number=number, seconds=0.0, reason=reason)
    except BaseException:
        search.requeue_trial(study, trial.number, killed=False)
        raise
    search.finish_trial(study, trial, record)
    best = search.best_trial(study)
    so_far = f"{best.value:.4f} (trial {best.number})" if best else "none"
    ended = record.reason if record.value is None else f"loss {record.value:.4f}, macro-F1 {record.macro_f1:.4f}"
    if record.value is not None and record.reason:
        ended = f"{ended}, {record.reason}"
    _log.info("trial %d %s: %s; best so far %s", number, record.state, ended, so_far)


def _run(
    config: Config,
    home: Workspace,
    data: TrialData,
    folder: Path,
    trial: "Trial",
    parent_run: str,
    at_each_step: Callable[[], None],
) -> TrialRecord:
    """Train with the trial's settings in a nested MLflow run, and score a fresh load of the saved adapter."""
    from optuna import TrialPruned

    from finsent.registry.tracking import RunTag, tag_run

    client, started, number = connect(home), time.perf_counter(), trial.user_attrs[search.NUMBER]
    state, run_id, reason = "complete", "", None
    scores: dict[str, float] = {}
    tags: dict[RunTag, str] = {"mlflow.parentRunId": parent_run, "mlflow.runName": f"trial-{number}"}
    try:
        with start_run(config, home, kind=KIND, tags=tags) as run_id:
            try:
                with log_series(client, run_id) as log:

                    def report(step: int, values: dict[str, float]) -> None:
                        at_each_step()
                        log(step, values)

                    trained = _train(config, home, data, folder, trial, report)
                scores = _score(config, home, data, trained)
                for key, value in scores.items():
                    client.log_metric(run_id, f"tuned_{key}", value, step=trained.steps)
            except TrialPruned as pruned:
                state, reason = "pruned", str(pruned)
            tag_run(client, run_id, "trial_state", state)
    except FinsentError as error:
        if type(error) is not FinsentError:  # input, base or server: the next trial would meet the same
            raise
        state, reason = "failed", str(error)
        tag_run(client, run_id, "trial_state", state)
    shutil.rmtree(folder, ignore_errors=True)
    return TrialRecord(
        number=number,
        state=state,
        value=scores.get("loss"),
        params=dict(trial.params),
        accuracy=scores.get("accuracy"),
        macro_f1=scores.get("macro_f1"),
        seconds=round(time.perf_counter() - started, 3),
        run_id=run_id,
        reason=reason,
    )


def _train(
    config: Config, home: Workspace, data: TrialData, folder: Path, trial: "Trial", log: Callable[[int, dict[str, float]], None]
) -> "TrainingResult":
    """Train, with metrics going to `log`; pruned by the validation loss after an epoch, as `TrialPruned`."""
    import torch
    from optuna import TrialPruned

    from finsent.training.trainer import train

    recipe = config.recipe
    total = steps_in_total(len(data.train.texts), recipe.batch_size * recipe.accumulation, recipe.epochs)

    def report(step: int, values: dict[str, float]) -> None:
        log(step, values)
        loss = values.get("validation_loss")
        if loss is not None and search.should_prune(trial, step / total, loss):
            raise TrialPruned(f"validation loss {loss:.4f} after {step} of {total} steps, behind the median of the other trials")

    rows, validation = (
        data.train,
        data.validation,
    )
    try:
        return train(config, home, rows, validation, folder, report)
    except torch.OutOfMemoryError as error:
        raise FinsentError(f"GPU memory ran out: {error}") from error


def _score(config: Config, home: Workspace, data: TrialData, trained: "TrainingResult") -> dict[str, float]:
    """Loss, accuracy and macro-F1 of a fresh load of the saved adapter on the validation split.

    The loss is the cross-entropy, in nats, after temperature scaling fitted on the same rows, as `finsent train` does: a
    proper score (Gneiting and Raftery 2007), so it compares settings by every row's probability where macro-F1 counts
    flipped labels, and does not punish over-confidence that scaling takes away anyway.
    """
    from scipy.special import log_softmax

    from finsent.models.adapter import load_adapter
    from finsent.models.load import prepare_for_inference
    from finsent.models.predict import predict_logits

    # loading requires a manifest; this adapter is deleted once it is scored, so it records neither commit nor lock file
    manifest = make_manifest(config, data.version, data.fingerprint, trained)
    write_manifest(trained.adapter, manifest)
    texts, labels = data.validation.texts, data.validation.labels
    loaded = prepare_for_inference(load_adapter(trained.adapter, home), config.engine, rows=len(texts))
    logits = predict_logits(loaded, texts, token_budget=config.scoring.token_budget, progress=True)
    if not np.isfinite(logits).all():
        raise FinsentError("logits on the validation split are not all finite. Lower recipe.learning_rate.")
    metrics = compute_metrics(labels, logits.argmax(axis=1))
    scaled = log_softmax(logits.astype(np.float64) / fit_temperature(logits, labels), axis=1)
    loss = float(-scaled[np.arange(len(labels)), labels].mean())
    return {"loss": loss, "accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]}
