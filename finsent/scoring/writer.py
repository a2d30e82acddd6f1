"""Predictions of a chunk: distinct texts, logits to table rows, and the exactly-once commit to the Delta table.

Each chunk is one commit with the next transaction number of all scoring. The number is read before the pending rows are
derived. Of two runs that derived the same rows, the first to commit a number wins; the other one's commit is rejected by
that number, and it derives its pending rows again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from finsent.data import tables
from finsent.data.predictions import ModelIdentity, failed_by
from finsent.data.quarantine import INBOX_PLACE
from finsent.data.sources.records import QuarantinedRow
from finsent.data.table_schemas import SCHEMAS
from finsent.data.tables import Position
from finsent.errors import CheckFailed
from finsent.files import lock_holder, locked
from finsent.scoring.watermark import Watermark
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

    from finsent.models.manifest import Manifest


_log = logging.getLogger(__name__)

APPLICATION: Final = "finsent-score"
"""Application id of the Delta transactions that number all chunks: one for all models, so that no two score the same row."""
_PATIENCE: Final = 600.0
"""Seconds that an overlapping run waits for the next commit of the one before it, which a slow device may need for a chunk."""


@dataclass(frozen=True)
class Chunk:
    """Consecutive pending rows that are committed together."""

    rows: "pa.Table"
    """Columns id, text, text_hash; equal texts are neighbours."""
    texts: list[str]
    """Distinct ones, in the order of the rows."""
    text_index: NDArray[np.int64]
    """For each row, the index of its text in `texts`."""


@dataclass(frozen=True)
class PredictionMetadata:
    """Columns that are equal for all predictions of a run."""

    model: ModelIdentity
    run_id: str
    """MLflow run that scores."""
    abstain_below: float
    """Predictions less confident than this are flagged."""


def make_chunk(rows: "pa.Table", start: int, stop: int) -> Chunk:
    """Pending rows from `start` to before `stop`, each distinct text once."""
    part = rows.slice(start, stop - start)
    new = _starts_new_text(part)
    return Chunk(part, part["text"].filter(new).to_pylist(), np.cumsum(new) - 1)


def count_distinct_texts(rows: "pa.Table") -> int:
    """Number of distinct texts among pending rows."""
    return int(_starts_new_text(rows).sum())


def _starts_new_text(rows: "pa.Table") -> NDArray[np.bool_]:
    """Whether each row has another text than the one before it."""
    import pyarrow.compute as pc

    new = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        hashes = rows["text_hash"]
        new[1:] = np.asarray(pc.not_equal(hashes.slice(1), hashes.slice(0, len(rows) - 1)))
    return new


def without_failed(
    chunk: Chunk, logits: NDArray[np.float32], model: ModelIdentity
) -> tuple[Chunk, NDArray[np.float32], tuple[QuarantinedRow, ...]]:
    """The rows of a chunk whose logits are finite, with these, and the others for the quarantine: a NaN is no label."""
    import pyarrow as pa

    sound: NDArray[np.bool_] = np.asarray(np.isfinite(logits).all(axis=1))
    if sound.all():
        return chunk, logits, ()
    kept = sound[chunk.text_index]
    failed = chunk.rows.filter(pa.array(~kept)).to_pylist()
    why = f"version {model.version} gives no finite logits for it: its weights are damaged, or its number type overflows"
    place, by = INBOX_PLACE, failed_by(model.digest)
    bad = [
        QuarantinedRow("inbox", place + row["id"], 0, row["text"], "not finite", f"{why}; inbox id {row['id']}", input=by)
        for row in failed
    ]
    texts = [text for text, is_sound in zip(chunk.texts, sound, strict=True) if is_sound]
    index = (np.cumsum(sound) - 1)[chunk.text_index][kept]
    return Chunk(chunk.rows.filter(pa.array(kept)), texts, index), logits[sound], tuple(bad)


def build_predictions(
    chunk: Chunk, logits: NDArray[np.float32], manifest: "Manifest", metadata: PredictionMetadata
) -> "pa.Table":
    """Rows for the table of predictions, in the order of the chunk's; probabilities at the adapter's temperature.

    Args:
        chunk: What was scored.
        logits: [distinct texts, 3].
        manifest: The adapter's: its labels and temperature.
        metadata: Of the run.
    """
    import pyarrow as pa

    from finsent.models.abstention import abstains
    from finsent.models.predict import probabilities

    scores = probabilities(logits, manifest.temperature)[chunk.text_index]
    confidence = scores.max(axis=1)
    schema, count = SCHEMAS["predictions"], len(chunk.rows)
    columns = {
        "id": chunk.rows["id"],
        "text_hash": chunk.rows["text_hash"],
        "label": pa.array(manifest.labels).take(pa.array(scores.argmax(axis=1))),
        **{f"p_{label.lower()}": np.ascontiguousarray(scores[:, index]) for index, label in enumerate(manifest.labels)},
        "confidence": confidence,
        "abstained": abstains(confidence, metadata.abstain_below),
        "model_name": pa.repeat(metadata.model.name, count),
        "model_version": pa.repeat(metadata.model.version, count),
        "run_id": pa.repeat(metadata.run_id, count),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), schema.field("scored_at").type), count),
        "model_digest": pa.repeat(metadata.model.digest, count),
    }
    return pa.table(columns).cast(schema)


def read_position(home: Workspace) -> Position:
    """Current table version and transaction number; to be read before pending rows are derived."""
    return tables.position(home, "predictions", APPLICATION)


def commit_chunk(home: Workspace, rows: "pa.Table", after: Position, through: Watermark | None = None) -> Position | None:
    """Commit a chunk as the number that follows `after`; the new position, or None if another run took that number first.

    `through` is recorded in the same commit: the chunk is the last of what a run found.
    """
    return tables.append_if_unchanged(
        home, "predictions", rows, APPLICATION, after, None if through is None else through.metadata
    )


def record_watermark(home: Workspace, through: Watermark, after: Position) -> None:
    """Record that nothing is due, by a commit without rows; unless another run commits first, which looks by itself."""
    if after.version >= 0:  # there are predictions: without any, nothing is read again but the inbox
        commit_chunk(home, SCHEMAS["predictions"].empty_table(), after, replace(through, since=after.version))


@contextmanager
def after_others(home: Workspace, while_waiting: Callable[[], None]) -> Iterator[None]:
    """Wait for a run at work on this home, so that nothing is computed twice; beside one that makes no progress, go on.

    Exactly once is the commits' work, not the lock's: a run that was frozen and thaws finds its number taken, and looks again at
    what is due.
    """
    path, seen, since = home.lock("score"), -1, time.monotonic()

    def require_progress() -> None:
        nonlocal seen, since
        while_waiting()
        now, holder = read_position(home).number, lock_holder(path)  # no compaction's version
        if now != seen:
            seen, since = now, time.monotonic()
        if time.monotonic() - since > _PATIENCE or (holder is not None and holder.is_stopped):
            raise CheckFailed(f"a scoring run at work commits nothing. {holder or ''}")

    with ExitStack() as stack:
        try:
            stack.enter_context(locked(path, -1, "", purpose="score", while_waiting=require_progress))
        except CheckFailed as stuck:
            _log.warning("%s This run scores beside it; no row is scored twice by the same model.", stuck)
        yield
