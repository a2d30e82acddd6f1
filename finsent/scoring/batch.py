"""From due rows to rows of predictions: each distinct text of a chunk goes through the model once."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.data.table_schemas import SCHEMAS

if TYPE_CHECKING:
    import pyarrow as pa

    from finsent.model.manifest import Manifest


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
class Stamp:
    """What every prediction of a run carries."""

    model_name: str
    """Registered model."""
    model_version: str
    run_id: str
    """MLflow run that scores."""
    abstain_below: float
    """Predictions less confident than this are flagged."""


def chunk(rows: "pa.Table", start: int, stop: int) -> Chunk:
    """Due rows from `start` to before `stop`, their texts once each."""
    part = rows.slice(start, stop - start)
    new = _differs(part)
    return Chunk(part, part["text"].filter(new).to_pylist(), np.cumsum(new) - 1)


def distinct(rows: "pa.Table") -> int:
    """How many texts there are among due rows: what the model has to look at."""
    return int(_differs(rows).sum())


def _differs(rows: "pa.Table") -> NDArray[np.bool_]:
    """Whether each row has another text than the one before it."""
    import pyarrow.compute as pc

    new = np.ones(len(rows), dtype=np.bool_)
    if len(rows) > 1:
        hashes = rows["text_hash"]
        new[1:] = np.asarray(pc.not_equal(hashes.slice(1), hashes.slice(0, len(rows) - 1)))
    return new


def predictions(part: Chunk, logits: NDArray[np.float32], manifest: "Manifest", stamp: Stamp) -> "pa.Table":
    """Rows for the table of predictions, in the order of the chunk's.

    Probabilities are those at the adapter's temperature; confidence is the label's.

    Args:
        part: What was scored.
        logits: [distinct texts, 3].
        manifest: The adapter's: its labels and temperature.
        stamp: What every row carries.
    """
    import pyarrow as pa

    from finsent.model.engine import probabilities

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
