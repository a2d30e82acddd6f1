"""Batch inference: the champion scores what it has not scored yet."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.errors import CheckFailed
from finsent.labels import LABELS
from finsent.logging_setup import track
from finsent.steps.context import Context
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from finsent.data.tables import Position
    from finsent.registry.client import Registry
    from finsent.scoring.pending import PendingRows
    from finsent.scoring.predictor import Predictor

_log = logging.getLogger(__name__)

_WAIT: Final = 3600.0  # seconds that an overlapping run waits for the one before it


@dataclass(frozen=True)
class ScoreReport:
    """What one scoring run did."""

    received: int
    """Tweets of the given files that the inbox did not have."""
    known: int
    """Tweets of the given files that it had."""
    scored: int
    skipped: int
    """Inbox rows that this version had scored before."""
    quarantined: int
    model_version: str
    run_id: str | None
    """MLflow run; None if nothing was due."""
    classes: dict[str, int]
    """Scored rows by label."""
    abstained: int
    """Scored rows less confident than the version's threshold, or than `scoring.abstain_below` where that is set."""
    seconds: float
    rows_per_second: float


@dataclass(frozen=True)
class _Scored:
    classes: Counter[str] = field(default_factory=Counter)
    abstained: int = 0
    texts: int = 0
    """Distinct ones of each chunk: what the model looked at."""
    tokens: int = 0

    def __add__(self, other: "_Scored") -> "_Scored":
        return _Scored(
            self.classes + other.classes,
            self.abstained + other.abstained,
            self.texts + other.texts,
            self.tokens + other.tokens,
        )


def score(
    context: Context,
    *,
    files: Sequence[Path | str] = (),
    text: str = "text",
    devices: Sequence[str] | None = None,
    progress: bool = True,
) -> ScoreReport:
    """Put `files` (tweets in column `text`) into the inbox, then score every inbox row without a prediction of the champion's.

    Each chunk of predictions is one commit: killed at any moment and run again, the table is as if nothing had
    happened. A run that overlaps with another on this home waits for it. While the model is at one chunk, the next is tokenised
    and the one before it is committed.

    Args:
        context: How to score, and where tables and registry are.
        files: Files of tweets to receive first.
        text: Their column that holds the tweet.
        devices: Devices to score on, a replica of the model on each; left out, all GPUs, at most `engine.devices`.
        progress: Show a bar on a terminal.

    Raises:
        NoChampionError: no version was promoted yet; nothing was received either.
        InputError: a file is wrong; nothing was received.
        ArtifactError: the champion is not what was registered.
        DeviceError: a replica of the model failed or died; what was committed before stands.
        CheckFailed: another run has been at work for an hour.
    """
    from finsent.data.inbox import receive
    from finsent.data.quarantine import append_records
    from finsent.scoring.pending import find_pending
    from finsent.scoring.writer import read_position, transaction_app

    started = time.perf_counter()
    config, home, registry = context.config, context.workspace, context.registry
    registry.require_champion()  # without one nothing is received either
    data = config.data
    incoming = receive(files, home, text=text, max_characters=data.max_characters, masked=data.mask_handles) if files else None
    with _alone(home):
        version = registry.require_champion()  # it may have changed while this run waited for the one before it
        before = read_position(home, transaction_app(registry.name, version))
        due = find_pending(home, registry.name, version, max_characters=config.data.max_characters)
        append_records(home, due.bad, datetime.now(UTC))
        skipped, run_id, done = due.scored, None, _Scored()
        if len(due.rows):
            run_id, done = _score_due(context, version, due, before, devices, progress=progress)
    seconds = time.perf_counter() - started
    scored = done.classes.total()
    return ScoreReport(
        received=incoming.received if incoming else 0,
        known=incoming.known if incoming else 0,
        scored=scored,
        skipped=skipped,
        quarantined=len(due.bad) + (incoming.quarantined if incoming else 0),
        model_version=version,
        run_id=run_id,
        classes={label: done.classes[label] for label in LABELS} if scored else {},
        abstained=done.abstained,
        seconds=seconds,
        rows_per_second=scored / seconds,
    )


def _score_due(
    context: Context,
    version: str,
    due: "PendingRows",
    before: "Position",
    devices: Sequence[str] | None,
    *,
    progress: bool,
) -> tuple[str, _Scored]:
    from finsent.models.manifest import abstain_threshold
    from finsent.registry.tracking import log_params, start_run
    from finsent.scoring.pending import find_pending
    from finsent.scoring.writer import read_position, transaction_app

    config, home, registry = context.config, context.workspace, context.registry
    name, done = registry.name, _Scored()
    with (
        _opened(context, version, due, devices) as opened,
        start_run(config, home, kind="score", tags={"model_version": version}) as run_id,
    ):
        engine = opened.engine
        settings = {
            "engine": engine.name,
            "precision": engine.precision,
            "devices": ", ".join(engine.devices),
            "plan": engine.plan,
            "abstain_threshold": f"{abstain_threshold(opened.manifest, config.scoring.abstain_below):.6g}",
        }
        log_params(registry.client, run_id, settings)
        started = time.perf_counter()
        while True:
            part, finished = _write_chunks(context, opened, due, before, version, run_id, progress=progress)
            done += part
            if finished:
                break
            _log.warning("another run is scoring with version %s of %s: looking again at what is due", version, name)
            before = read_position(home, transaction_app(name, version))
            due = find_pending(home, name, version, max_characters=config.data.max_characters)
        _log_figures(registry, version, run_id, done, time.perf_counter() - started)
    return run_id, done


@contextmanager
def _opened(context: Context, version: str, due: "PendingRows", devices: Sequence[str] | None) -> Iterator["Predictor"]:
    from finsent.scoring.predictor import ModelSpec, load_local
    from finsent.scoring.workers import choose_devices, model_workers
    from finsent.scoring.writer import count_distinct_texts

    config, folder = context.config, context.registry.adapter_path(version)
    opening = ModelSpec(folder, context.workspace, config.engine, count_distinct_texts(due.rows), config.scoring.token_budget)
    devices = devices or choose_devices(config.engine, opening.rows)
    if len(devices) == 1:
        yield load_local(opening, devices[0])
    else:
        with model_workers(opening, devices) as opened:
            yield opened


def _write_chunks(
    context: Context,
    opened: "Predictor",
    due: "PendingRows",
    before: "Position",
    version: str,
    run_id: str,
    *,
    progress: bool,
) -> tuple[_Scored, bool]:
    """Score and commit chunk by chunk; False as soon as another run committed in between."""
    from finsent.models.manifest import abstain_threshold
    from finsent.scoring.chunks import score_chunks
    from finsent.scoring.pending import chunk_bounds
    from finsent.scoring.writer import PredictionMetadata

    config = context.config
    cuts, done = chunk_bounds(len(due.rows), config.scoring.chunk_rows, len(opened.engine.devices)), _Scored()
    # from the adapter itself, so that a run that goes on where another was killed draws the same line
    threshold = abstain_threshold(opened.manifest, config.scoring.abstain_below)
    stamp = PredictionMetadata(config.registered_model, version, run_id, threshold)
    parts = score_chunks(context.workspace, opened, due.rows, cuts, stamp, before)
    for part in track(parts, description="scoring", total=len(cuts), unit="chunk") if progress else parts:
        if part is None:
            return done, False
        done += _Scored(_classes(part.rows), _abstained(part.rows), part.texts, part.tokens)
    return done, True


def _classes(rows: "pa.Table") -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in rows["label"].value_counts().to_pylist()})


def _abstained(rows: "pa.Table") -> int:
    import pyarrow.compute as pc

    return int(pc.sum(rows["abstained"]).as_py() or 0)


def _log_figures(registry: "Registry", version: str, run_id: str, done: _Scored, seconds: float) -> None:
    from mlflow.entities import LoggedModelInput

    from finsent.registry.client import logged_model_id

    total = done.classes.total()
    figures = {
        "rows_scored": float(total),
        "rows_per_second": total / seconds,
        "tokens_per_second": done.tokens / seconds,
        **({"share_distinct": done.texts / total} if total else {}),
        **{f"share_{label.lower()}": done.classes[label] / total for label in LABELS if total},
        **({"share_abstained": done.abstained / total} if total else {}),
    }
    for key, value in figures.items():
        registry.client.log_metric(run_id, key, value)
    registry.client.log_inputs(run_id, models=[LoggedModelInput(logged_model_id(registry.get_version(version)))])


@contextmanager
def _alone(home: Workspace) -> Iterator[None]:
    from filelock import FileLock, Timeout

    path = home.lock("score")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("another scoring run is at work: waiting for it")
            lock.acquire(timeout=_WAIT)
    except Timeout as error:
        raise CheckFailed(f"another run has been scoring for an hour (lock {str(path)!r}). Look at what it does.") from error
    try:
        yield
    finally:
        lock.release()


# merged from finsent.steps.score: Label a few texts at once, without touching any table.


@dataclass(frozen=True)
class Prediction:
    """One text's label."""

    text: str
    label: str
    confidence: float
    """Calibrated probability of the label."""
    abstained: bool
    """Whether the confidence is below the version's threshold, or `scoring.abstain_below` where that is set."""
    probabilities: dict[str, float]
    """Calibrated probability of each class."""


@dataclass(frozen=True)
class PredictResult:
    """Labels and who gave them."""

    model_name: str
    model_version: str
    predictions: tuple[Prediction, ...]


def predict(context: Context, texts: Sequence[str], *, version: str | None = None) -> PredictResult:
    """Label texts by a version, the champion if none is named.

    Raises:
        NoChampionError: there is no champion yet.
        InputError: there is no such version.
        ArtifactError: the adapter does not match its manifest.
    """
    from finsent.models.manifest import abstain_threshold
    from finsent.models.predict import predict_logits, probabilities
    from finsent.scoring.predictor import load_with_fp8_check

    config, registry = context.config, context.registry
    version = version or registry.require_champion()
    loaded = load_with_fp8_check(config.engine, context.workspace, registry.adapter_path(version), rows=len(texts))
    labels, threshold = loaded.manifest.labels, abstain_threshold(loaded.manifest, config.scoring.abstain_below)
    rows = probabilities(predict_logits(loaded, texts), loaded.manifest.temperature)
    found = []
    for text, row in zip(texts, rows.tolist(), strict=True):
        by_label = dict(zip(labels, row, strict=True))
        label = max(by_label, key=lambda name: by_label[name])
        found.append(Prediction(text, label, by_label[label], by_label[label] < threshold, by_label))
    return PredictResult(config.registered_model, version, tuple(found))
