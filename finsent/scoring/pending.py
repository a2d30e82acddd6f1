"""What is due, and in which chunks.

The order of what is due depends on its rows alone, and chunks are cut from its start by how many rows are left. So a run that
takes up where a killed one ended cuts the same chunks, and the model sees the same batches: probabilities come out equal to
the last bit.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from finsent.data import tables
from finsent.data.contract import Rejection, check_text
from finsent.data.rows import Quarantined
from finsent.home import Home
from finsent.text import text_hash

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCE_PREFIX: Final = "inbox#"

# Enough for `is_blank` to say no: three ASCII letters or more between white space are words that outlast all folding
_PLAIN_WORD: Final = r"(?:^|[ \t\r\n])[A-Za-z]{3,}(?:[ \t\r\n]|$)"

_CHUNKS_PER_DEVICE: Final = (
    4  # chunks that each of several devices still gets: what the last one is waited for is a quarter of its share
)
_MIN_CHUNK_ROWS: Final = 1000  # rows; a GPU is through with fewer before its next chunk is there


@dataclass(frozen=True)
class PendingRows:
    """Inbox rows that a model version has not scored."""

    rows: "pa.Table"
    """Columns id, text, text_hash; ordered by text_hash, id: equal texts are neighbours."""
    scored: int
    """Inbox rows that it has scored already."""
    bad: tuple[Quarantined, ...]
    """Rows whose text cannot be scored, and which are not in quarantine yet."""


def find_pending(home: Home, model_name: str, model_version: str, *, max_characters: int) -> PendingRows:
    """Inbox rows without a prediction of this version, less those that cannot be scored."""
    import pyarrow.compute as pc

    inbox = tables.read(home, "inbox", columns=["id", "text"])
    by_version = [("model_name", "=", model_name), ("model_version", "=", model_version)]
    done = tables.read(home, "predictions", columns=["id"], filters=by_version)["id"]
    scored = pc.is_in(inbox["id"], value_set=done.combine_chunks())
    left = inbox.filter(pc.invert(scored))
    known = tables.read(home, "quarantine", columns=["source"], filters=pc.starts_with(pc.field("source"), _SOURCE_PREFIX))[
        "source"
    ]
    set_aside = {place.removeprefix(_SOURCE_PREFIX) for place in known.to_pylist()}
    good, bad = _check(left, max_characters, set_aside)
    return PendingRows(_sort_by_text_hash(good), len(inbox) - len(left), bad)


def _check(rows: "pa.Table", max_characters: int, set_aside: AbstractSet[str]) -> tuple["pa.Table", tuple[Quarantined, ...]]:
    """Rows that `check_text` takes, and those it refuses. It is asked only where Arrow cannot tell."""
    import pyarrow as pa
    import pyarrow.compute as pc

    short = pc.less_equal(pc.utf8_length(rows["text"]), max_characters)
    sure = pc.fill_null(pc.and_(short, pc.match_substring_regex(rows["text"], _PLAIN_WORD)), fill_value=False)
    takes = np.asarray(sure).copy()
    unsure = np.flatnonzero(~takes)
    asked = rows.take(pa.array(unsure))
    bad: list[Quarantined] = []
    for place, row_id, text in zip(unsure.tolist(), asked["id"].to_pylist(), asked["text"].to_pylist(), strict=True):
        checked = check_text(text, max_characters)
        if not isinstance(checked, Rejection):
            takes[place] = True
        elif row_id not in set_aside:
            why = f"{checked.detail}; inbox id {row_id}"
            bad.append(Quarantined("inbox", f"{_SOURCE_PREFIX}{row_id}", 0, text or "", checked.reason, why))
    return rows.filter(pa.array(takes)), tuple(bad)


def _sort_by_text_hash(rows: "pa.Table") -> "pa.Table":
    """With the hash of each text, in order of hash and id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # large: what is taken in another order becomes one piece, and of plain strings that holds 2 GB at most
    large = {name: rows[name].cast(pa.large_string()) for name in ("id", "text")}
    table = pa.table({**large, "text_hash": pa.array(map(text_hash, large["text"].to_pylist()), pa.string())})
    order = pc.sort_indices(table, sort_keys=[("text_hash", "ascending"), ("id", "ascending")])
    return table.combine_chunks().take(order)


def chunk_bounds(total: int, size: int, devices: int = 1) -> list[tuple[int, int]]:
    """First row and end of consecutive chunks of `total` rows, each of at most `size`.

    For several devices they get smaller towards the end, so that all end at about the same time (guided self-scheduling,
    Polychronopoulos and Kuck 1987). How large the next one is depends on the rows that are left, and on nothing before.
    """
    cuts: list[tuple[int, int]] = []
    start = 0
    while start < total:
        fair = max(_MIN_CHUNK_ROWS, (total - start) // (_CHUNKS_PER_DEVICE * devices)) if devices > 1 else size
        stop = min(total, start + min(size, fair))
        cuts.append((start, stop))
        start = stop
    return cuts
