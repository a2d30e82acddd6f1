"""Writing predictions, each exactly once: a chunk is one Delta commit that carries a number of its model version.

The number is read before what is due is derived. Of two runs that derived the same, the first to commit a number wins;
the other's commit is not made, which it finds by the mark on the commit, and it derives anew.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.data import tables
from finsent.data.columns import SCHEMAS
from finsent.data.tables import Position
from finsent.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

    from finsent.models.manifest import Manifest


def transaction_app(model_name: str, model_version: str) -> str:
    """Id under which the chunks of a model version are numbered."""
    return f"finsent-score/{model_name}/{model_version}"


def read_position(home: Home, application: str) -> Position:
    """Where the table stands now. Read this before deriving what is due."""
    return tables.position(home, "predictions", application)


def commit_chunk(home: Home, rows: "pa.Table", application: str, after: Position) -> Position | None:
    """Commit a chunk as the number that follows `after`; the new position, or None if another run took that number first."""
    return tables.append_next(home, "predictions", rows, application, after)


@dataclass(frozen=True)
class Chunk:
    """Consecutive due rows that are committed together."""

    rows: "pa.Table"
    """Columns id, text, text_hash; equal texts are neighbours."""
    texts: list[str]
    """Distinct ones, in the order of the rows."""
    place: NDArray[np.int64]
    """For each row, where its text is in `texts`."""


@dataclass(frozen=True)
class PredictionMetadata:
    """What every prediction of a run carries."""

    model_name: str
    """Registered model."""
    model_version: str
    run_id: str
    """MLflow run that scores."""
    abstain_below: float
    """Predictions less confident than this are flagged."""


def make_chunk(rows: "pa.Table", start: int, stop: int) -> Chunk:
    """Due rows from `start` to before `stop`, their texts once each."""
    part = rows.slice(start, stop - start)
    new = _starts_new_text(part)
    return Chunk(part, part["text"].filter(new).to_pylist(), np.cumsum(new) - 1)


def count_distinct_texts(rows: "pa.Table") -> int:
    """How many texts there are among due rows: what the model has to look at."""
    return int(_starts_new_text(rows).sum())


def _starts_new_text(rows: "pa.Table") -> NDArray[np.bool_]:
    """Whether each row has another text than the one before it."""
    import pyarrow.compute as pc

    new = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        hashes = rows["text_hash"]
        new[1:] = np.asarray(pc.not_equal(hashes.slice(1), hashes.slice(0, len(rows) - 1)))
    return new


def build_predictions(part: Chunk, logits: NDArray[np.float32], manifest: "Manifest", stamp: PredictionMetadata) -> "pa.Table":
    """Rows for the table of predictions, in the order of the chunk's.

    Probabilities are those at the adapter's temperature; confidence is the label's.

    Args:
        part: What was scored.
        logits: [distinct texts, 3].
        manifest: The adapter's: its labels and temperature.
        stamp: What every row carries.
    """
    import pyarrow as pa

    from finsent.models.predict import probabilities

    table = probabilities(logits, manifest.temperature)[part.place]
    confidence = table.max(axis=1)
    schema, count = SCHEMAS["predictions"], len(part.rows)
    columns = {
        "id": part.rows["id"],
        "text_hash": part.rows["text_hash"],
        "label": pa.array(manifest.labels).take(pa.array(table.argmax(axis=1))),
        **{f"p_{label.lower()}": np.ascontiguousarray(table[:, index]) for index, label in enumerate(manifest.labels)},
        "confidence": confidence,
        "abstained": confidence < stamp.abstain_below,
        "model_name": pa.repeat(stamp.model_name, count),
        "model_version": pa.repeat(stamp.model_version, count),
        "run_id": pa.repeat(stamp.run_id, count),
        "scored_at": pa.repeat(pa.scalar(datetime.now(UTC), schema.field("scored_at").type), count),
    }
    return pa.table(columns).cast(schema)
