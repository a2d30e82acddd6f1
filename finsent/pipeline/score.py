"""Batch inference: the champion scores what it has not scored yet."""

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.config import Config
from finsent.errors import Refused
from finsent.home import Home
from finsent.labels import LABELS
from finsent.progress import track

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from finsent.data.tables import Position
    from finsent.model.adapter import Loaded
    from finsent.scoring.batch import Due

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
    """Scored rows less confident than `scoring.abstain_below`."""
    seconds: float
    rows_per_second: float


@dataclass(frozen=True)
class _Scored:
    classes: Counter[str]
    abstained: int


def score(
    config: Config, home: Home, *, files: Sequence[Path | str] = (), text: str = "text", progress: bool = True
) -> ScoreReport:
    """Put `files` (tweets in column `text`) into the inbox, then score every inbox row without a prediction of the champion's.

    Each chunk of predictions is one commit: killed at any moment and run again, the table is as if nothing had
    happened. A run that overlaps with another on this home waits for it.

    Raises:
        NoChampionError: no version was promoted yet; nothing was received either.
        InputError: a file is wrong; nothing was received.
        ArtifactError: the champion is not what was registered.
        Refused: another run has been at work for an hour.
    """
    from finsent.data.inbox import receive
    from finsent.data.quarantine import record
    from finsent.registry.versions import require_champion
    from finsent.scoring.batch import find_due
    from finsent.scoring.sink import application, position

    started = time.perf_counter()
    name = config.registered_model
    require_champion(home, name)  # without one nothing is received either
    data = config.data
    incoming = receive(files, home, text=text, max_characters=data.max_characters, masked=data.mask_handles) if files else None
    with _alone(home):
        version = require_champion(home, name)  # it may have changed while this run waited for the one before it
        before = position(home, application(name, version))
        due = find_due(home, name, version, max_characters=config.data.max_characters)
        record(home, due.bad, datetime.now(UTC))
        skipped, run_id, done = due.scored, None, _Scored(Counter(), 0)
        if len(due.rows):
            run_id, done = _score_due(config, home, version, due, before, progress=progress)
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
    config: Config, home: Home, version: str, due: "Due", before: "Position", *, progress: bool
) -> tuple[str, _Scored]:
    from finsent.model.adapter import load_adapter
    from finsent.registry.tracking import connect, start_run
    from finsent.registry.versions import adapter_path
    from finsent.scoring.batch import find_due
    from finsent.scoring.sink import application, position

    name = config.registered_model
    loaded = load_adapter(adapter_path(home, name, version), home)
    done = _Scored(Counter(), 0)
    with start_run(config, home, kind="score", tags={"model_version": version}) as run_id:
        started = time.perf_counter()
        while True:
            part, finished = _write_chunks(config, home, loaded, due, before, version, run_id, progress=progress)
            done = _Scored(done.classes + part.classes, done.abstained + part.abstained)
            if finished:
                break
            _log.warning("another run is scoring with version %s of %s: looking again at what is due", version, name)
            before = position(home, application(name, version))
            due = find_due(home, name, version, max_characters=config.data.max_characters)
        _log_figures(connect(home), name, version, run_id, done, time.perf_counter() - started)
    return run_id, done


def _write_chunks(
    config: Config,
    home: Home,
    loaded: "Loaded",
    due: "Due",
    before: "Position",
    version: str,
    run_id: str,
    *,
    progress: bool,
) -> tuple[_Scored, bool]:
    """Score and commit chunk by chunk; False as soon as another run committed in between."""
    from finsent.scoring.batch import chunks, score_rows
    from finsent.scoring.sink import application, write

    size, done = config.scoring.chunk_rows, _Scored(Counter(), 0)
    parts = chunks(due.rows, size)
    for part in track(parts, description="scoring", total=-(-len(due.rows) // size), unit="chunk") if progress else parts:
        rows = score_rows(
            loaded,
            part,
            token_budget=config.scoring.token_budget,
            abstain_below=config.scoring.abstain_below,
            model_name=config.registered_model,
            model_version=version,
            run_id=run_id,
        )
        after = write(home, rows, application(config.registered_model, version), before)
        if after is None:
            return done, False
        before = after
        done = _Scored(done.classes + Counter(rows["label"].to_pylist()), done.abstained + sum(rows["abstained"].to_pylist()))
    return done, True


def _log_figures(client: "MlflowClient", name: str, version: str, run_id: str, done: _Scored, seconds: float) -> None:
    from mlflow.entities import LoggedModelInput

    from finsent.registry.versions import get_version, logged_model_id

    total = done.classes.total()
    figures = {
        "rows_scored": float(total),
        "rows_per_second": total / seconds,
        **{f"share_{label.lower()}": done.classes[label] / total for label in LABELS if total},
        **({"share_abstained": done.abstained / total} if total else {}),
    }
    for key, value in figures.items():
        client.log_metric(run_id, key, value)
    client.log_inputs(run_id, models=[LoggedModelInput(logged_model_id(get_version(client, name, version)))])


@contextmanager
def _alone(home: Home) -> Iterator[None]:
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
        raise Refused(f"another run has been scoring for an hour (lock {str(path)!r}). Look at what it does.") from error
    try:
        yield
    finally:
        lock.release()
