"""What is due, in which chunks, and what the model says of a chunk.

The order of what is due depends on its rows alone, and chunks are cut from its start. So a run that takes up where a
killed one ended cuts the same chunks, and the model sees the same batches: probabilities come out equal to the last bit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from finsent.data import tables
from finsent.data.contract import Rejection, check_text
from finsent.data.rows import Quarantined
from finsent.home import Home
from finsent.text import text_hash

if TYPE_CHECKING:
    import pyarrow as pa

    from finsent.model.adapter import Loaded

_PLACE: Final = "inbox#"


@dataclass(frozen=True)
class Due:
    """Inbox rows that a model version has not scored."""

    rows: "pa.Table"
    """Columns id, text, text_hash; ordered by text_hash, id: equal texts are neighbours."""
    scored: int
    """Inbox rows that it has scored already."""
    bad: tuple[Quarantined, ...]
    """Rows whose text cannot be scored, and which are not in quarantine yet."""


def find_due(home: Home, model_name: str, model_version: str, *, max_characters: int) -> Due:
    """Inbox rows without a prediction of this version, less those that cannot be scored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    inbox = tables.read(home, "inbox", columns=["id", "text"])
    by_version = [("model_name", "=", model_name), ("model_version", "=", model_version)]
    done = tables.read(home, "predictions", columns=["id"], filters=by_version)["id"]
    scored = pc.is_in(inbox["id"], value_set=done.combine_chunks())
    left = inbox.filter(pc.invert(scored))
    known = tables.read(home, "quarantine", columns=["source"], filters=pc.starts_with(pc.field("source"), _PLACE))["source"]
    set_aside = {place.removeprefix(_PLACE) for place in known.to_pylist()}
    good: list[tuple[str, str, str]] = []
    bad: list[Quarantined] = []
    for row_id, text in zip(left["id"].to_pylist(), left["text"].to_pylist(), strict=True):
        checked = check_text(text, max_characters)
        if not isinstance(checked, Rejection):
            good.append((text_hash(checked), row_id, checked))
        elif row_id not in set_aside:
            why = f"{checked.detail}; inbox id {row_id}"
            bad.append(Quarantined("inbox", f"{_PLACE}{row_id}", 0, text or "", checked.reason, why))
    good.sort()
    columns = {"id": [row[1] for row in good], "text": [row[2] for row in good], "text_hash": [row[0] for row in good]}
    kinds = pa.schema([("id", pa.string()), ("text", pa.string()), ("text_hash", pa.string())])
    return Due(pa.table(columns, schema=kinds), len(inbox) - len(left), tuple(bad))


def chunks(rows: "pa.Table", size: int) -> Iterator["pa.Table"]:
    """Consecutive parts of at most `size` rows."""
    for start in range(0, len(rows), size):
        yield rows.slice(start, size)


def score_rows(
    loaded: "Loaded",
    rows: "pa.Table",
    *,
    token_budget: int,
    abstain_below: float,
    model_name: str,
    model_version: str,
    run_id: str,
) -> "pa.Table":
    """Rows for the table of predictions, in the order of `rows`; each distinct text goes through the model once.

    Probabilities are those at the adapter's temperature; confidence is the label's.
    """
    import pyarrow as pa

    from finsent.model.engine import predict_logits, probabilities

    hashes = rows["text_hash"].to_pylist()
    first = {value: index for index, value in reversed(list(enumerate(hashes)))}
    texts = rows["text"].to_pylist()
    distinct = sorted(first.values())
    logits = predict_logits(loaded, [texts[index] for index in distinct], token_budget=token_budget)
    scaled = probabilities(logits, loaded.manifest.temperature)
    place = {hashes[index]: number for number, index in enumerate(distinct)}
    table = scaled[[place[value] for value in hashes]]
    confidence = table.max(axis=1)
    labels = loaded.manifest.labels
    count, now = len(rows), datetime.now(UTC)
    columns = {
        "id": rows["id"],
        "text_hash": rows["text_hash"],
        "label": [labels[index] for index in table.argmax(axis=1)],
        **{f"p_{label.lower()}": np.ascontiguousarray(table[:, index]) for index, label in enumerate(labels)},
        "confidence": confidence,
        "abstained": confidence < abstain_below,
        "model_name": [model_name] * count,
        "model_version": [model_version] * count,
        "run_id": [run_id] * count,
        "scored_at": pa.array([now] * count, tables.SCHEMAS["predictions"].field("scored_at").type),
    }
    return pa.table(columns).cast(tables.SCHEMAS["predictions"])
