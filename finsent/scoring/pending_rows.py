"""Pending inbox rows of a model, and the bounds of their chunks.

The order of pending rows depends on the rows alone, and chunks are cut by the number of rows left. A run that continues
where a killed one ended therefore has the same chunks. On a CPU its probabilities are equal to the last bit. On a GPU they
are where `engine.compile` and `engine.batch_tokens` are set, and equal up to rounding where the planner chooses them: whether
compiling pays goes by the rows left, and the tokens of a pass by the memory that is free.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from finsent.data import tables
from finsent.data.predictions import ModelIdentity, failed_by, predicted_by, predicted_in_line
from finsent.data.quarantine import INBOX_PLACE
from finsent.data.sources.records import QuarantinedRow
from finsent.data.table_changes import count_rows
from finsent.data.validation.row_validation import Rejection, check_text
from finsent.scoring.watermark import MODEL_COLUMNS, Arrivals, Watermark, find_arrivals, watermark_at
from finsent.text import text_hash
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.compute import Expression

EVERYTHING: Final = datetime(1, 1, 1, tzinfo=UTC)
"""To score again every row of the inbox that others have scored."""

# Three ASCII letters or more between white space are a word that text normalisation keeps: the text is not blank.
_PLAIN_WORD: Final = r"(?:^|[ \t\r\n])[A-Za-z]{3,}(?:[ \t\r\n]|$)"

# The last chunk is waited for; with 4 more chunks for each device it is a quarter of a device's remaining share.
_CHUNKS_PER_DEVICE: Final = 4
_MIN_CHUNK_ROWS: Final = 1000  # with fewer, a GPU would wait for its next chunk


@dataclass(frozen=True)
class PendingRows:
    """Inbox rows to be scored."""

    rows: "pa.Table"
    """Columns id, text, text_hash; ordered by text_hash, id: equal texts are neighbours."""
    settled: int
    """Number of other inbox rows: scored before, or in quarantine."""
    bad: tuple[QuarantinedRow, ...]
    """Rows whose text cannot be scored and which are not in quarantine yet."""
    watermark: Watermark | None
    """To be recorded with the last of these rows, or without rows, once the bad ones are in quarantine: it saves the next run
    from reading again what this one read. None where that was nothing, or where it cannot be."""


def find_pending(home: Workspace, model: ModelIdentity, *, max_characters: int, backfill: datetime | None = None) -> PendingRows:
    """Inbox rows without a prediction by a champion of the model's registry, without those that cannot be scored.

    To be called after `writer.read_position`.

    Read is what came since the watermark, or everything where that cannot be told. A prediction is told by the row's id:
    `inbox.receive` lets no id come again with another text. Of rows that another writer put in with one id, the first received
    counts, or what was scored; those of another text are set aside.

    Args:
        home: Where the tables are.
        model: Who is going to score them.
        max_characters: Longer texts cannot be scored.
        backfill: Rows received since then are due, too, that other champions have scored and this one not; `EVERYTHING` for all.
    """
    version = tables.version(home, "inbox")
    if version is None:
        return PendingRows(_sort_by_text_hash(tables.read(home, "inbox", columns=["id", "text"])), 0, (), None)
    found = _find(home, version, model, max_characters, backfill)
    bad = _not_set_aside(home, found.bad)
    watermark = watermark_at(home, version, model, found.since) if found.is_news else None
    settled = max(0, count_rows(home, "inbox", version) - len(found.good) - len(bad))  # rows removed meanwhile may be due
    return PendingRows(_sort_by_text_hash(found.good), settled, bad, watermark)


def count_pending(home: Workspace, model: ModelIdentity, *, max_characters: int, backfill: datetime | None = None) -> int:
    """Number of rows that `find_pending` would find."""
    version = tables.version(home, "inbox")
    return 0 if version is None else len(_find(home, version, model, max_characters, backfill).good)


def backfill_start(setting: str) -> datetime | None:
    """The `backfill` of `find_pending` for a value of `scoring.backfill`."""
    if setting == "all":
        return EVERYTHING
    return None if setting == "none" else datetime.now(UTC) - timedelta(days=int(setting.removesuffix("d")))


class _Found(NamedTuple):
    """Rows that are due, with columns id and text, and rows that cannot be scored."""

    good: "pa.Table"
    bad: tuple[QuarantinedRow, ...]
    since: datetime | None
    """Since when each row received has a prediction by the model, once these have one."""
    is_news: bool
    """Whether there was anything to look at: the next run is to be spared it."""


def _find(home: Workspace, version: int, model: ModelIdentity, max_characters: int, backfill: datetime | None) -> _Found:
    arrivals = find_arrivals(home, version, model)
    complete = _backfilled_since(arrivals, model, backfill)  # then only what came later has to be looked at
    asked = None if complete else backfill
    inbox, done = _read_rows(home, version, arrivals, asked, predicted_in_line(model), with_models=backfill is not None)
    since = complete or backfill
    good, bad = _select(inbox, done, None if since is None else (model, since), max_characters)
    if backfill is None and len(good):
        good = _without_failed(home, good, model)
    is_news = arrivals is None or len(arrivals.rows) > 0 or (backfill is not None and complete is None)
    return _Found(good, bad, since, is_news)


def _backfilled_since(arrivals: Arrivals | None, model: ModelIdentity, backfill: datetime | None) -> datetime | None:
    """Since when each row received has a prediction by this model, up to the watermark; None where that is not long enough."""
    if arrivals is None or backfill is None or not model.digest or arrivals.recorded.model != model.digest:
        return None
    since = arrivals.recorded.backfilled_since
    return since if since is not None and since <= backfill else None


def _read_rows(
    home: Workspace, version: int, arrivals: Arrivals | None, backfill: datetime | None, made: "Expression", *, with_models: bool
) -> tuple["pa.Table", "pa.Table"]:
    """Inbox rows among which are all that are due, and the predictions with their ids, out of those `made`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    asked, predicted = ["id", "text", "received_at"], ["id", "text_hash", "scored_at", *(MODEL_COLUMNS if with_models else ())]
    if arrivals is None or backfill == EVERYTHING:
        return tables.read(home, "inbox", version=version, columns=asked), tables.read(
            home, "predictions", columns=predicted, filters=made
        )
    if backfill is None and arrivals.predicted is not None:
        return arrivals.rows, arrivals.predicted
    ids = arrivals.rows["id"].chunks
    if backfill is not None:
        received = pc.field("received_at") >= pa.scalar(backfill, pa.timestamp("us", tz="UTC"))
        ids += tables.read(home, "inbox", version=version, columns=["id"], filters=received)["id"].chunks
    chosen = pc.field("id").isin(pc.unique(pa.chunked_array(ids, pa.string())))
    inbox = tables.read(home, "inbox", version=version, columns=asked, filters=chosen)
    return inbox, tables.read(home, "predictions", columns=predicted, filters=chosen & made)


def _select(
    inbox: "pa.Table", done: "pa.Table", backfill: tuple[ModelIdentity, datetime] | None, max_characters: int
) -> tuple["pa.Table", tuple[QuarantinedRow, ...]]:
    """Columns id and text of the rows that are due, each id once, and the rows that cannot be scored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    scored = pc.is_in(inbox["id"], value_set=done["id"].combine_chunks())
    reused = _scored_for_another(inbox.filter(scored), done)
    left, again = _first_of_each_id(inbox.filter(pc.invert(scored)))
    if backfill is not None:
        model, since = backfill
        theirs = inbox.filter(pc.and_(scored, _received_since(inbox, since)))
        mine = done.filter(predicted_by(model))["id"].combine_chunks()
        theirs = theirs.filter(pc.invert(pc.is_in(theirs["id"], value_set=mine)))
        texts = {(row.place, row.text) for row in reused}
        if texts:
            others = [
                (f"{INBOX_PLACE}{row_id}", text or "") in texts
                for row_id, text in zip(theirs["id"].to_pylist(), theirs["text"].to_pylist(), strict=True)
            ]
            theirs = theirs.filter(pc.invert(pa.array(others, pa.bool_())))
        left = pa.concat_tables([left, _first_of_each_id(theirs)[0]])
    good, bad = _check(left, max_characters)
    return good, bad + again + reused


def _without_failed(home: Workspace, rows: "pa.Table", model: ModelIdentity) -> "pa.Table":
    """The rows without those for which a champion of the registry had no finite logits: they are history, as those scored."""
    import pyarrow as pa
    import pyarrow.compute as pc

    line = {model.digest, *(model.line.digests if model.line is not None else ())}
    failed = (pc.field("reason") == "not finite") & pc.field("input").isin(pa.array(sorted(map(failed_by, line))))
    places = tables.read(home, "quarantine", columns=["source"], filters=failed)["source"].to_pylist()
    ids = pa.array([place.removeprefix(INBOX_PLACE) for place in places], pa.string())
    return rows.filter(pc.invert(pc.is_in(rows["id"], value_set=ids))) if len(ids) else rows


def _received_since(inbox: "pa.Table", since: datetime) -> "pa.ChunkedArray":
    """Whether each row was received since then; of `EVERYTHING` are those, too, to which another writer gave no time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    received = pc.greater_equal(inbox["received_at"], pa.scalar(since, pa.timestamp("us", tz="UTC")))
    return pc.fill_null(received, fill_value=since == EVERYTHING)


def _not_set_aside(home: Workspace, found: tuple[QuarantinedRow, ...]) -> tuple[QuarantinedRow, ...]:
    """The rows that are not in quarantine yet."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not found:
        return ()
    chosen = pc.field("source").isin(pa.array(sorted({row.place for row in found})))
    known = tables.read(home, "quarantine", columns=["source", "text"], filters=chosen)
    there = set(zip(known["source"].to_pylist(), known["text"].to_pylist(), strict=True))
    return tuple(row for row in found if (row.place, row.text) not in there)


def _scored_for_another(rows: "pa.Table", done: "pa.Table") -> tuple[QuarantinedRow, ...]:
    """Rows whose id was scored for another text.

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
    bad = []
    for row_id, text in zip(asked["id"].to_pylist(), asked["text"].to_pylist(), strict=True):
        if hashes[row_id].isdisjoint({None, text_hash(text or "")}):
            why = f"inbox id {row_id} was put there by another writer, and was scored for another text before"
            bad.append(QuarantinedRow("inbox", f"{INBOX_PLACE}{row_id}", 0, text or "", "id reused", why))
    return tuple(bad)


def _first_of_each_id(rows: "pa.Table") -> tuple["pa.Table", tuple[QuarantinedRow, ...]]:
    """Columns id and text of the first row received of each id, and the later ones of another text."""
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
        elif text != first[row_id]:
            why = f"inbox id {row_id} was put there by another writer for another text before"
            bad.append(QuarantinedRow("inbox", f"{INBOX_PLACE}{row_id}", 0, text or "", "id reused", why))
    return ordered.take(pa.array(places, pa.int64())).select(["id", "text"]), tuple(bad)


def _check(rows: "pa.Table", max_characters: int) -> tuple["pa.Table", tuple[QuarantinedRow, ...]]:
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
        else:
            why = f"{checked.detail}; inbox id {row_id}"
            bad.append(QuarantinedRow("inbox", f"{INBOX_PLACE}{row_id}", 0, text or "", checked.reason, why))
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
