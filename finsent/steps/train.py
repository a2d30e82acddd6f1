"""The training step: prepare, fit, calibrate, register. A data version in, a registered model version out."""

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.data.dataset import DataVersion, data_version, load_split, read_origin
from finsent.errors import InputError
from finsent.evaluation.metrics import compute_metrics
from finsent.models.manifest import write_manifest
from finsent.monitoring.retrain_inputs import TRAINED_BY, TRAINING_DIGEST
from finsent.registry.client import VersionTag
from finsent.registry.tracking import log_params, log_series, log_splits, start_run
from finsent.steps.context import Context
from finsent.training.calibrate import calibrate_adapter
from finsent.training.distributed import broadcast, init, shutdown, terminate_with_peers
from finsent.training.exclusive import hold_training
from finsent.training.run_dir import (
    find_resumable,
    hold_run_dir,
    is_finished,
    load_result_of_base,
    mark_finished,
    require_resumable,
    save_result,
    settings_digest,
)

if TYPE_CHECKING:
    from finsent.models.manifest import Manifest
    from finsent.training.trainer import TrainingResult

_log = logging.getLogger(__name__)
_HANDOVER_SECONDS = 600.0  # another process with the same settings may have taken the finished training up


@dataclass(frozen=True)
class TrainingJob:
    """What is trained on."""

    profile: str
    data: DataVersion
    digest: str
    """Of settings and data: an interrupted training with the same digest is resumed."""
    resume: str | None  # MLflow run named by the user
    prepared_at: float = field(default_factory=time.time)


@dataclass(frozen=True)
class CalibratedAdapter:
    """What the validation split says of a fresh load of the saved adapter."""

    manifest: "Manifest"
    """As sealed, with temperature and abstain threshold."""
    validation: dict[str, float]
    """Accuracy and macro-F1."""


@dataclass(frozen=True)
class TrainResult:
    """A registered version and how it came to be."""

    run_id: str
    model_version: str
    adapter_dir: Path
    rows: int
    steps: int
    resumed_from: int
    """Step of the checkpoint that training resumed from; 0 for a training from the start."""
    seconds: float
    """Time in the training loop."""
    rows_per_second: float
    validation: dict[str, float]
    """Accuracy and macro-F1 on the validation split, by a fresh load of the saved adapter."""
    temperature: float
    trainable_parameters: int


def train(context: Context, *, resume: str | None = None) -> TrainResult:
    """Train on the newest data version, calibrate a fresh load on the validation split, register the adapter.

    An interrupted training with the same settings and data is resumed from its checkpoint; `resume` names one by its MLflow run.
    Another one of this home is waited for. Under a launcher the main process calls this, and all others `train_worker`.

    Raises:
        InputError: no data yet, or `resume` does not fit.
        BaseModelError, ServiceError: the base, or the MLflow server, cannot be reached.
    """
    job = prepare(context, resume=resume)
    with hold_training(context.workspace, f"train {job.profile} data-v{job.data.version}"):
        run_id, trained = fit(context, job)
        return register(context, job, run_id, trained, calibrate(context, job, run_id, trained))


def prepare(context: Context, *, resume: str | None = None) -> TrainingJob:
    """Choose the data version, and check that it can be trained on and `resume` resumed.

    Raises:
        InputError: no data yet, no training or validation rows, or `resume` does not fit.
    """
    context.registry.aliases()  # a registry that does not answer, which the end needs, is found now
    data = data_version(context.workspace)
    if not data.rows.get("train") or not data.rows.get("validation"):
        raise InputError(
            f"data version {data.version} has {data.rows.get('train', 0)} training and {data.rows.get('validation', 0)} "
            "validation rows. Ingest more."
        )
    digest = settings_digest(context.config, data.fingerprint)
    if resume is not None:
        require_resumable(context.workspace.runs, resume, digest, context.registry.has_run)
    return TrainingJob(context.config.profile, data, digest, resume)


def fit(context: Context, job: TrainingJob) -> "tuple[str, TrainingResult]":
    """Run the training loop, or resume it from its newest checkpoint; one that is complete is not run again.

    Returns the MLflow run's id, and what the loop left in that run's folder.
    """
    from finsent.training.trainer import train as run_loop

    context.require_own_run()
    config, workspace, data, world, client = context.config, context.workspace, job.data, init(), context.registry.client
    resume = job.resume or find_resumable(workspace.runs, job.digest, context.registry.has_run, job.prepared_at)
    if resume is not None and (trained := load_result_of_base(workspace.runs / resume, config.model, workspace)) is not None:
        _log.warning("the training of run %s is complete but not registered: going on with its adapter", resume)
        broadcast(world, None)  # the other processes of the launch wait for their task
        shutdown(world)
        return resume, trained
    rows, validation = (load_split(workspace, split, data.version) for split in ("train", "validation"))
    opened: list[str] = []

    def end_runs() -> None:
        for run_id in opened:
            client.set_terminated(run_id, status="KILLED")

    with terminate_with_peers(world, end_runs), _open_run(context, job, resume) as run_id:
        opened.append(run_id)
        if resume is not None:
            _log.warning("resuming the interrupted training of run %s", run_id)
        log_splits(client, run_id, workspace, data.version, data.fingerprint, train=rows, validation=validation)
        broadcast(world, (data.version, run_id))  # to `train_worker` in the other processes
        with log_series(client, run_id) as log:

            def report(step: int, values: dict[str, float]) -> None:
                context.require_own_run()  # a process that was frozen finds out here that it was given up
                log(step, values)

            trained = run_loop(config, workspace, rows, validation, workspace.runs / run_id, report)
            save_result(workspace.runs / run_id, trained)  # before the last metrics are sent, which may fail
        shutdown(world)
    return run_id, trained


def calibrate(context: Context, job: TrainingJob, run_id: str, trained: "TrainingResult") -> CalibratedAdapter:
    """Calibrate a fresh load of the saved adapter on the validation split, write its card, seal its manifest. Idempotent."""
    from finsent.reporting.model_card import render_model_card

    config, workspace, data = context.config, context.workspace, job.data
    validation = load_split(workspace, "validation", data.version)
    with _open_run(context, job, run_id, timeout=_HANDOVER_SECONDS):
        fitted = calibrate_adapter(config, workspace, (data.version, data.fingerprint), trained, validation, validation.groups)
        logits, manifest = fitted[0], fitted[1].model_copy(update=read_origin(workspace, data.version))
        (trained.adapter / "README.md").write_text(render_model_card(manifest), encoding="utf-8")
        manifest = write_manifest(trained.adapter, manifest)
    metrics = compute_metrics(validation.labels, logits.argmax(axis=1))
    return CalibratedAdapter(manifest, {"accuracy": metrics["accuracy"], "macro_f1": metrics["macro_f1"]})


def register(
    context: Context,
    job: TrainingJob,
    run_id: str,
    trained: "TrainingResult",
    calibration: CalibratedAdapter,
) -> TrainResult:
    """Log what came out and register the adapter. Idempotent: the same adapter of the same run keeps its version.

    Raises:
        ServiceError: the MLflow server does not answer; calling this again does not train again.
    """
    folder = context.workspace.runs / run_id
    with _open_run(context, job, run_id, timeout=_HANDOVER_SECONDS):
        context.require_own_run(at_once=True)
        _log_outcome(context, run_id, trained, calibration)
        tags: dict[VersionTag, str] = {TRAINING_DIGEST: job.digest}
        tags[TRAINED_BY] = context.run_tags.get("prefect.root_flow", "train")
        done = context.registry.version_of_run(run_id) if is_finished(folder) else None
        version = done or context.registry.register(trained.adapter, run_id=run_id, profile=job.profile, tags=tags)
        mark_finished(folder, job.digest)
    return TrainResult(
        run_id=run_id,
        model_version=version,
        adapter_dir=trained.adapter,
        rows=trained.rows,
        steps=trained.steps,
        resumed_from=trained.resumed_from,
        seconds=trained.seconds,
        rows_per_second=trained.rows_per_second,
        validation=calibration.validation,
        temperature=calibration.manifest.temperature,
        trainable_parameters=trained.trainable_parameters,
    )


def train_worker(context: Context) -> None:
    """Compute this process's share of a distributed training that the main process runs; write and report nothing.

    Tables and workspace must be those of the main process.
    """
    from finsent.training.trainer import train as run_loop

    world = init()
    task: tuple[int, str] | None = broadcast(world, None)
    if task is not None:  # else there is nothing to train
        (version, run_id), home = task, context.workspace
        rows, validation = (load_split(home, split, version) for split in ("train", "validation"))
        run_loop(context.config, home, rows, validation, home.runs / run_id, lambda *_: None)
    shutdown(world)


@contextmanager
def _open_run(context: Context, job: TrainingJob, resume: str | None, *, timeout: float = 0) -> Iterator[str]:
    """Open the MLflow run and lock its folder. A run to resume is locked first: another process may be training in it."""
    runs, tags = context.workspace.runs, context.run_tags
    with ExitStack() as stack:
        if resume is not None:
            stack.enter_context(hold_run_dir(runs / resume, job.digest, timeout=timeout))
        opened = start_run(context.config, context.workspace, kind="train", data=job.data, tags=tags, resume=resume)
        run_id = stack.enter_context(opened)
        if resume is None:
            stack.enter_context(hold_run_dir(runs / run_id, job.digest))
        yield run_id


def _log_outcome(context: Context, run_id: str, trained: "TrainingResult", calibration: CalibratedAdapter) -> None:
    """Log what was used and what came out as the run's parameters and last metrics."""
    client, manifest = context.registry.client, calibration.manifest
    log_params(client, run_id, trained.settings())
    summary = {
        **{f"validation_{key}": value for key, value in calibration.validation.items()},
        "temperature": manifest.temperature,
        "train_seconds": trained.seconds,
        **({} if manifest.abstain_below is None else {"abstain_below": manifest.abstain_below}),
    }
    for key, value in summary.items():
        client.log_metric(run_id, key, value, step=trained.steps)
