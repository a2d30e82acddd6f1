"""The training step: a data version in, a registered version out."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config
from finsent.errors import InputError
from finsent.home import Home
from finsent.labels import LABELS
from finsent.steps.context import Context

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from finsent.data.dataset import DataVersion, Split
    from finsent.model.manifest import Manifest
    from finsent.training.distributed import World
    from finsent.training.loop import Trained

_log = logging.getLogger(__name__)

PROBES = 16
"""Validation texts whose logits are recorded with the adapter, for the round-trip proof."""


@dataclass(frozen=True)
class TrainResult:
    """A registered version and how it came to be."""

    run_id: str
    model_version: str
    adapter_dir: Path
    rows: int
    steps: int
    resumed_from: int
    """Step of the checkpoint that an interrupted training went on from; 0 for one from the start."""
    seconds: float
    """Time in the training loop."""
    rows_per_second: float
    validation: dict[str, float]
    """Accuracy and macro-F1 on the validation split, by a fresh load of the saved adapter."""
    temperature: float
    trainable_parameters: int


def train(context: Context, *, resume: str | None = None) -> TrainResult:
    """Train on the newest data version, calibrate a fresh load on the validation split, register the adapter.

    An interrupted training of the same settings and data is taken up from its checkpoint by itself; `resume` names
    one by its MLflow run. Under a launcher the main process calls this, and all others `take_part`.

    Raises:
        InputError: no data yet, or `resume` does not fit.
        BaseModelError: the base cannot be reached.
        ServiceError: the MLflow server does not answer.
    """
    from finsent.data.dataset import data_version, load_split
    from finsent.registry.tracking import log_series
    from finsent.training.distributed import join, part, same_everywhere
    from finsent.training.folder import interrupted, require_resumable, settings_digest
    from finsent.training.loop import Rows
    from finsent.training.loop import train as run_loop

    config, home, client = context.config, context.workspace, context.registry.client
    data = data_version(home)
    rows, validation = load_split(home, "train", data.version), load_split(home, "validation", data.version)
    if not rows.texts or not validation.texts:
        raise InputError(
            f"data version {data.version} has {len(rows.texts)} training, {len(validation.texts)} validation rows: ingest more."
        )
    digest = settings_digest(config, data.fingerprint)
    if resume is not None:
        require_resumable(home.runs, resume, digest)
    else:
        resume = interrupted(home.runs, digest)
    world = join()
    with _ended_if_others_fail(context, world) as note, _run_and_folder(config, home, data, digest, resume) as run_id:
        note(run_id)
        if resume is not None:
            _log.warning("taking up the interrupted training of run %s from its checkpoint", run_id)
        log_splits(client, run_id, home, data.version, data.fingerprint, train=rows, validation=validation)
        same_everywhere(world, _Assignment(data.version, run_id))
        with log_series(client, run_id) as log:
            trained = run_loop(
                config, home, Rows(rows.texts, rows.labels), Rows(validation.texts, validation.labels), home.runs / run_id, log
            )
        part(world)
        logits, sealed = _finish_adapter(config, home, data, trained, validation)
        scores = _validation_scores(validation.labels, logits)
        _log_outcome(client, run_id, trained, scores, sealed)
        version = context.registry.register(trained.adapter, run_id=run_id, profile=config.profile)
    return TrainResult(
        run_id=run_id,
        model_version=version,
        adapter_dir=trained.adapter,
        rows=trained.rows,
        steps=trained.steps,
        resumed_from=trained.resumed_from,
        seconds=trained.seconds,
        rows_per_second=trained.rows_per_second,
        validation=scores,
        temperature=sealed.temperature,
        trainable_parameters=trained.trainable_parameters,
    )


def log_splits(
    client: "MlflowClient", run_id: str, home: Home, version: int, fingerprint: str, *, train: "Split", validation: "Split"
) -> None:
    """Link the run to the rows that it trains on and is looked at with."""
    from finsent.registry.tracking import log_dataset

    for split, name, context in ((train, "train", "training"), (validation, "validation", "validation")):
        log_dataset(
            client,
            run_id,
            home,
            table="tweets",
            version=version,
            fingerprint=fingerprint,
            context=context,
            split=name,
            rows=len(split.texts),
        )


def _log_outcome(client: "MlflowClient", run_id: str, trained: "Trained", scores: dict[str, float], manifest: "Manifest") -> None:
    """What was used and what came out, as the run's parameters and last metrics."""
    from finsent.registry.tracking import log_params

    facts = {
        "trainable_parameters": trained.trainable_parameters,
        "quantized_modules": trained.quantized_modules,
        "mixed_precision_used": trained.mixed_precision,
        "training_engine": trained.engine,
        "training_plan": trained.plan,
        "processes": trained.processes,
        "optimizer_steps": trained.steps,
        "base_fingerprint": trained.base.fingerprint,
    }
    log_params(client, run_id, {key: str(value) for key, value in facts.items()})
    summary = {
        **{f"validation_{key}": value for key, value in scores.items()},
        "temperature": manifest.temperature,
        "train_seconds": trained.seconds,
    }
    if manifest.abstain_below is not None:
        summary["abstain_below"] = manifest.abstain_below
    for key, value in summary.items():
        client.log_metric(run_id, key, value, step=trained.steps)


@dataclass(frozen=True)
class _Assignment:
    """What the main process tells the others."""

    data_version: int
    run_id: str


def take_part(context: Context) -> None:
    """Compute this process's share of a training that the main process of the launch runs; write and say nothing.

    Tables and home must be those of the main process.
    """
    from finsent.data.dataset import load_split
    from finsent.training.distributed import join, part, same_everywhere
    from finsent.training.loop import Rows
    from finsent.training.loop import train as run_loop

    config, home = context.config, context.workspace
    world = join()
    task: _Assignment = same_everywhere(world, None)
    rows, validation = (load_split(home, split, task.data_version) for split in ("train", "validation"))
    folder = home.runs / task.run_id
    run_loop(config, home, Rows(rows.texts, rows.labels), Rows(validation.texts, validation.labels), folder, lambda *_: None)
    part(world)


@contextmanager
def _ended_if_others_fail(context: Context, world: "World") -> Iterator[Callable[[str], None]]:
    """Leave no run open where another process fails and the launcher ends this one; yields what takes the run's id."""
    from finsent.training.distributed import ends_with_the_others

    runs: list[str] = []

    def last_words() -> None:
        for run_id in runs:
            context.registry.client.set_terminated(run_id, status="KILLED")

    with ends_with_the_others(world, last_words):
        yield runs.append


@contextmanager
def _run_and_folder(config: Config, home: Home, data: "DataVersion", digest: str, resume: str | None) -> Iterator[str]:
    """Open the MLflow run and hold its folder. One that is taken up is held first: another process may be at work in it."""
    from finsent.registry.tracking import start_run
    from finsent.training.folder import at_work

    if resume is not None:
        with at_work(home.runs / resume, digest), start_run(config, home, kind="train", data=data, resume=resume):
            yield resume
    else:
        with start_run(config, home, kind="train", data=data) as run_id, at_work(home.runs / run_id, digest):
            yield run_id


def manifest_of(
    config: Config, version: int, fingerprint: str, trained: "Trained", *, git_sha: str | None, lock_hash: str
) -> "Manifest":
    """What an adapter that was just trained on version `version` of the data is made from; its files are not listed yet."""
    from finsent.model.manifest import Manifest

    return Manifest(
        base_name=config.model.name,
        base_revision=trained.base.revision,
        base_fingerprint=trained.base.fingerprint,
        embedded=config.model.embedded,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=config.model.max_length,
        padding_side=config.model.padding_side,
        pad_token_id=trained.pad_token_id,
        data_version=version,
        data_fingerprint=fingerprint,
        split_rule=f"near-duplicate groups by hash, salt {config.data.split_salt!r}",
        config=config.model_dump(mode="json"),
        git_sha=git_sha,
        lock_hash=lock_hash,
    )


def _finish_adapter(
    config: Config, home: Home, data: "DataVersion", trained: "Trained", validation: "Split"
) -> "tuple[NDArray[np.float32], Manifest]":
    """Load what was saved afresh, fit temperature and abstain threshold on its validation logits, record the probe, seal it.

    Returns:
        Validation logits [rows, 3] of the fresh load, and the manifest as sealed.
    """
    from finsent.evaluation.abstention import fit_abstain_threshold
    from finsent.evaluation.calibration import fit_temperature
    from finsent.model.adapter import load_adapter
    from finsent.model.engine import predict_logits, probabilities
    from finsent.model.head import head_sha256
    from finsent.model.manifest import ABSTAIN_BELOW, PROBE, write_manifest
    from finsent.model.opening import open_engine
    from finsent.provenance import lock_hash
    from finsent.registry.tracking import git_sha
    from finsent.reporting.model_card import render_model_card

    manifest = manifest_of(config, data.version, data.fingerprint, trained, git_sha=git_sha(), lock_hash=lock_hash())
    write_manifest(trained.adapter, manifest)
    loaded = load_adapter(trained.adapter, home)
    probes = validation.texts[:PROBES]
    # the reference engine's: the round trip is proved by the same
    probe = {"texts": probes, "logits": predict_logits(loaded, probes).tolist(), "head_sha256": head_sha256(loaded.model)}
    (trained.adapter / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    loaded = open_engine(loaded, config.engine, rows=len(validation.texts))
    logits = predict_logits(loaded, validation.texts, token_budget=config.scoring.token_budget, progress=True)
    temperature = fit_temperature(logits, validation.labels)
    target = config.evaluation.target_precision
    threshold = fit_abstain_threshold(probabilities(logits, temperature), validation.labels, target, validation.groups)
    if threshold is None:
        _log.warning(
            "no threshold of confidence is shown to give a precision of %g on %d validation rows: the version abstains below %g",
            target,
            len(validation.labels),
            ABSTAIN_BELOW,
        )
    calibrated = manifest.model_copy(update={"temperature": temperature, "abstain_below": threshold})
    (trained.adapter / "README.md").write_text(render_model_card(calibrated), encoding="utf-8")
    return logits, write_manifest(trained.adapter, calibrated)


def _validation_scores(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> dict[str, float]:
    from finsent.evaluation.metrics import compute_metrics

    metrics = compute_metrics(labels, logits.argmax(axis=1))
    return {"accuracy": metrics.accuracy, "macro_f1": metrics.macro_f1}
