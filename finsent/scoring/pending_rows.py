"""Pending inbox rows of a model, and the bounds of their chunks.

The order of pending rows depends on the rows alone, and chunks are cut by the number of rows left. A run that continues
where a killed one ended therefore has the same chunks. On a CPU its probabilities are equal to the last bit. On a GPU they
are where `engine.compile` and `engine.batch_tokens` are set, and equal up to rounding where the planner chooses them: whether
compiling pays goes by the rows left, and the tokens of a pass by the memory that is free.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np

from finsent.data import tables
from finsent.data.predictions import ModelIdentity, predicted_by
from finsent.data.sources.records import QuarantinedRow
from finsent.data.validation.row_validation import Rejection, check_text
from finsent.text import text_hash
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

_SOURCE_PREFIX: Final = "inbox#"
_SetAside: TypeAlias = AbstractSet[tuple[str, str]]  # id and text of inbox rows that are in quarantine

# Three ASCII letters or more between white space are a word that text normalisation keeps: the text is not blank.
_PLAIN_WORD: Final = r"(?:^|[ \t\r\n])[A-Za-z]{3,}(?:[ \t\r\n]|$)"

# The last chunk is waited for; with 4 more chunks for each device it is a quarter of a device's remaining share.
_CHUNKS_PER_DEVICE: Final = 4
_MIN_CHUNK_ROWS: Final = 1000  # with fewer, a GPU would wait for its next chunk


@dataclass(frozen=True)
class PendingRows:
    """Inbox rows that a model has not scored."""

    rows: "pa.Table"
    """Columns id, text, text_hash; ordered by text_hash, id: equal texts are neighbours."""
    scored: int
    """Number of inbox rows that it has scored already."""
    bad: tuple[QuarantinedRow, ...]
    """Rows whose text cannot be scored and which are not in quarantine yet."""


def find_pending(home: Workspace, model: ModelIdentity, *, max_characters: int) -> PendingRows:
    """Inbox rows without a prediction of this model, without those that cannot be scored.

    By their ids: `inbox.receive` lets no id come again with another text. Of rows that another writer put in with one id, the
    first received counts, or what was scored; those of another text are set aside.
    """
    import pyarrow.compute as pc

    inbox = tables.read(home, "inbox", columns=["id", "text", "received_at"])
    done = tables.read(home, "predictions", columns=["id", "text_hash", "scored_at"], filters=predicted_by(model))
    scored = pc.is_in(inbox["id"], value_set=done["id"].combine_chunks())
    known = tables.read(
        home, "quarantine", columns=["source", "text"], filters=pc.starts_with(pc.field("source"), _SOURCE_PREFIX)
    )
    places = (place.removeprefix(_SOURCE_PREFIX) for place in known["source"].to_pylist())
    set_aside = set(zip(places, known["text"].to_pylist(), strict=True))
    others, reused = _scored_for_another(inbox.filter(scored), done, set_aside)
    left, again = _first_of_each_id(inbox.filter(pc.invert(scored)), set_aside)
    good, bad = _check(left, max_characters, set_aside)
    return PendingRows(_sort_by_text_hash(good), int(pc.sum(scored).as_py() or 0) - others, bad + again + reused)


def _scored_for_another(rows: "pa.Table", done: "pa.Table", set_aside: _SetAside) -> tuple[int, tuple[QuarantinedRow, ...]]:
    """Number of rows whose id was scored for another text, and those of them that are not set aside yet.

    Looked at are rows that came after their id was scored, and ids of several rows: of all others the text was scored.
    """
    import pyarrow.compute as pc

    first = done.group_by("id").aggregate([("scored_at", "min")])
    moments = first["scored_at_min"].take(pc.index_in(rows["id"], value_set=first["id"].combine_chunks()))
    counted = rows["id"].value_counts()
    several = counted.field("values").filter(pc.greater(counted.field("counts"), 1))
    later = pc.fill_null(pc.greater(rows["received_at"], moments), fill_value=True)
    asked = rows.filter(pc.or_(later, pc.is_in(rows["id"], value_set=several)))
    of_them = done.filter(pc.is_in(done["id"], value_set=asked["id"].combine_chunks()))
    hashes: dict[str, set[str | None]] = {}
    for row_id, digest in zip(of_them["id"].to_pylist(), of_them["text_hash"].to_pylist(), strict=True):
        hashes.setdefault(row_id, set()).add(digest)
    others, bad = 0, []
    for row_id, text in zip(asked["id"].to_pylist(), asked["text"].to_pylist(), strict=True):
        if hashes[row_id].isdisjoint({None, text_hash(text or "")}):
            others += 1
            if (row_id, text or "") not in set_aside:
                why = f"inbox id {row_id} was put there by another writer, and was scored for another text before"
                bad.append(QuarantinedRow("inbox", f"{_SOURCE_PREFIX}{row_id}", 0, text or "", "id reused", why))
    return others, tuple(bad)


def _first_of_each_id(rows: "pa.Table", set_aside: _SetAside) -> tuple["pa.Table", tuple[QuarantinedRow, ...]]:
    """Columns id and text of the first row received of each id, and the later ones of another text, unless set aside."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pc.count_distinct(rows["id"], mode="all").as_py() == len(rows):
        return rows.select(["id", "text"]), ()
    ordered = rows.sort_by([("received_at", "ascending"), ("text", "ascending")])
    first: dict[str, str] = {}
    places, bad = [], []
    for place, (row_id, text) in enumerate(zip(ordered["id"].to_pylist(), ordered["text"].to_pylist(), strict=True)):
        if row_id not in first:
            first[row_id] = text
            places.append(place)
        elif text != first[row_id] and (row_id, text or "") not in set_aside:
            why = f"inbox id {row_id} was put there by another writer for another text before"
            bad.append(QuarantinedRow("inbox", f"{_SOURCE_PREFIX}{row_id}", 0, text or "", "id reused", why))
    return ordered.take(pa.array(places, pa.int64())).select(["id", "text"]), tuple(bad)


def _check(rows: "pa.Table", max_characters: int, set_aside: _SetAside) -> tuple["pa.Table", tuple[QuarantinedRow, ...]]:
    """Rows that `check_text` accepts and those that it rejects; Arrow accepts the plain cases, which is faster."""
    import pyarrow as pa
    import pyarrow.compute as pc

    short = pc.less_equal(pc.utf8_length(rows["text"]), max_characters)
    sure = pc.fill_null(pc.and_(short, pc.match_substring_regex(rows["text"], _PLAIN_WORD)), fill_value=False)
    takes = np.asarray(sure).copy()
    unsure = np.flatnonzero(~takes)
    asked = rows.take(pa.array(unsure))
    bad: list[QuarantinedRow] = []
    for place, row_id, text in zip(unsure.tolist(), asked["id"].to_pylist(), asked["text"].to_pylist(), strict=True):
        checked = check_text(text, max_characters)
        if not isinstance(checked, Rejection):
            takes[place] = True
        elif (row_id, text or "") not in set_aside:
            why = f"{checked.detail}; inbox id {row_id}"
            bad.append(QuarantinedRow("inbox", f"{_SOURCE_PREFIX}{row_id}", 0, text or "", checked.reason, why))
    return rows.filter(pa.array(takes)), tuple(bad)


def _sort_by_text_hash(rows: "pa.Table") -> "pa.Table":
    """Rows with the hash of each text, ordered by hash and id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    # `take` makes one array of each column, and one of plain strings holds 2 GB at most: hence large_string.
    large = {name: rows[name].cast(pa.large_string()) for name in ("id", "text")}
    table = pa.table({**large, "text_hash": pa.array(map(text_hash, large["text"].to_pylist()), pa.string())})
    order = pc.sort_indices(table, sort_keys=[("text_hash", "ascending"), ("id", "ascending")])
    return table.combine_chunks().take(order)


def chunk_bounds(total: int, size: int, devices: int = 1) -> list[tuple[int, int]]:
    """First row and end of consecutive chunks of `total` rows, each of at most `size`.

    For several devices they shrink towards the end, so that all finish at about the same time (guided self-scheduling,
    Polychronopoulos and Kuck 1987). The size of the next chunk depends only on the rows left.
    """
    bounds: list[tuple[int, int]] = []
    start = 0
    while start < total:
        fair = max(_MIN_CHUNK_ROWS, (total - start) // (_CHUNKS_PER_DEVICE * devices)) if devices > 1 else size
        stop = min(total, start + min(size, fair))
        bounds.append((start, stop))
        start = stop
    return bounds
