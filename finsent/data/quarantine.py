"""The quarantine: rejected rows with their reasons, each recorded once however often its file is read.

Files are identified by their contents: the same row of another file is recorded too, even if the file has the same name.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.dedup.assignment import ExistingRows, GroupRejection
from finsent.data.dedup.signature_index import texts_by_id
from finsent.data.sources.records import QuarantinedRow
from finsent.data.staging import StagedRows
from finsent.data.table_schemas import SCHEMAS
from finsent.data.validation.row_validation import CONFLICT
from finsent.data.validation.text_cleaning import mask_handles
from finsent.errors import shorten
from finsent.labels import LABELS
from finsent.text import text_id
from finsent.workspace import Workspace

APPLICATION: Final = "finsent-quarantine"
"""Delta application of every commit to the table."""
INBOX_PLACE: Final = "inbox#"
"""Before the id, `source` of a row of the inbox that scoring set aside."""
_KEY: Final = ("input", "source", "row", "text", "reason")
_BATCH: Final = 8192
AGAINST: Final = re.compile(r" against (?=(?:Neutral|Bullish|Bearish)(?: in |, accepted before))")
"""Stands between the two sides of a contradiction; a tweet may contain the word itself."""
_SHOWN: Final = 120  # characters of each side of a contradiction


def earlier_conflicts(home: Workspace) -> frozenset[str]:
    """Ids of texts that earlier ingestions quarantined as contradictory; without a review decision they are rejected again."""
    found: set[str] = set()
    for batch in tables.batches(home, "quarantine", ["id", "text"], filters=pc.field("reason") == CONFLICT):
        found.update(ids_of(batch))
    return frozenset(found)


def ids_of(batch: pa.RecordBatch) -> list[str]:
    """Text ids of some readable rows, from their columns `id` and `text`: rows from before 0.2 have no id."""
    return [given or text_id(batch["text"][row].as_py()) for row, given in enumerate(batch["id"].to_pylist())]


def labels_of(batch: pa.RecordBatch) -> list[str]:
    """Labels that some contradictory rows were read with, from their columns `label` and `detail`.

    In rows from before 0.2 the detail begins with the label.
    """
    pairs = zip(batch["label"].to_pylist(), batch["detail"].to_pylist(), strict=True)
    return [label or detail.partition(" ")[0].rstrip(",:") for label, detail in pairs]


def rows_at(home: Workspace, version: int | None, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Rows at these positions in a version of the table, in the order asked for."""
    wanted = np.unique(np.array(positions, np.int64))
    found: dict[int, dict[str, Any]] = {}
    start = 0
    for batch in tables.batches(home, "quarantine", SCHEMAS["quarantine"].names, version=version) if len(wanted) else ():
        first, last = np.searchsorted(wanted, (start, start + batch.num_rows))
        there = wanted[first:last]
        if len(there):
            found |= zip(there.tolist(), batch.take(pa.array(there - start)).to_pylist(), strict=True)
        start += batch.num_rows
    return [found[position] for position in positions]


def append_records(
    home: Workspace, rows: Sequence[QuarantinedRow] | Callable[[], Iterable[QuarantinedRow]], now: datetime
) -> int:
    """Append the rows that are not on record yet, in one commit; returns their number.

    Args:
        home: Where the tables are.
        rows: Rows, or a function that iterates over them anew at each call, so that they need not be in memory at once.
        now: Time of the ingestion.
    """
    again = rows if callable(rows) else lambda: rows
    inputs = {row.input for row in again()}
    if not inputs:
        return 0
    return tables.retry_on_conflict(home, "quarantine", APPLICATION, lambda before: _record(home, again(), inputs, now, before))


def input_identity(fingerprint: Mapping[str, str | int]) -> str:
    """Identity of an input, from `finsent.data.sources.formats.fingerprint_file`.

    Of a file its hash, of a Hub dataset its commit, of a database the hash of the query, since its result changes by itself.
    """
    key = next(key for key in ("query_sha256", "sha256", "revision") if key in fingerprint)
    return f"{key}:{fingerprint[key]}"


def _record(
    home: Workspace, rows: Iterable[QuarantinedRow], inputs: AbstractSet[str | None], now: datetime, before: tables.Position
) -> int | None:
    seen = _on_record(home, inputs)

    def is_new(row: QuarantinedRow) -> bool:
        own, any_input = (_key(given, row.place, row.number, row.text, row.reason) for given in (row.input, None))
        if own in seen or any_input in seen:  # rows from before 0.2 have no input: it may be any
            return False
        seen.add(own)
        return True

    new = (row for row in rows if is_new(row))
    first = next(new, None)
    if first is None:
        return 0
    count = 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal count
        some = [first, *islice(new, _BATCH)]
        while some:
            count += len(some)
            yield _batch(some, now)
            some = list(islice(new, _BATCH))

    reader = pa.RecordBatchReader.from_batches(SCHEMAS["quarantine"], batches())
    written = tables.append_if_unchanged(home, "quarantine", reader, APPLICATION, before)
    return None if written is None else count


def _on_record(home: Workspace, inputs: AbstractSet[str | None]) -> set[bytes]:
    """Keys of the rows that are on record for these inputs, or without an input."""
    of_these = pa.array([*inputs, None], pa.string())
    found: set[bytes] = set()
    for batch in tables.batches(home, "quarantine", _KEY):
        some = batch.filter(pc.is_in(batch["input"], value_set=of_these))
        found.update(_key(*row) for row in zip(*some.to_pydict().values(), strict=True))
    return found


def shown_text(text: str) -> str:
    """A text as the sides of a contradiction show it."""
    return repr(shorten(text, _SHOWN))


def _key(given: str | None, place: str, number: int, text: str, reason: str) -> bytes:
    return blake2b(f"{given or ''}\x1f{place}\x1f{number}\x1f{reason}\x1f{text}".encode(), digest_size=16).digest()


def _batch(rows: Sequence[QuarantinedRow], now: datetime) -> pa.RecordBatch:
    columns = {
        "source": [row.place for row in rows],
        "row": [row.number for row in rows],
        "text": [row.text for row in rows],
        "reason": [row.reason for row in rows],
        "detail": [row.detail for row in rows],
        "ingested_at": [now] * len(rows),
        "id": [row.id for row in rows],
        "input": [row.input for row in rows],
        "label": [row.label for row in rows],
        "source_id": [row.source_id for row in rows],
    }
    return pa.record_batch(columns, schema=SCHEMAS["quarantine"])


def quarantine_records(
    rejections: Sequence[GroupRejection],
    staged: StagedRows,
    existing: ExistingRows,
    home: Workspace,
    version: int | None = None,
    *,
    masked: bool = False,
) -> Callable[[], Iterator[QuarantinedRow]]:
    """Records of rows that are readable and rejected because of others, with both sides shown; an iterator for each call.

    The texts of existing rows are read here from `version` of the tweets, or the latest, not while a table is written. With
    `masked` (`data.mask_handles`) they are shown with `@user` for handles, as the staged texts are already.
    """
    rows = sorted({row for item in rejections for is_old, row in item.against if is_old})
    ids = existing.rows.ids.take(pa.array(rows, pa.int64()))
    texts: dict[str, str] = {}
    for batch in texts_by_id(home, ids, version) if len(ids) else ():
        texts |= zip(*batch.to_pydict().values(), strict=True)
    if masked:
        texts = {row_id: mask_handles(text) for row_id, text in texts.items()}

    def records() -> Iterator[QuarantinedRow]:
        for start in range(0, len(rejections), _BATCH):
            yield from _records(rejections[start : start + _BATCH], staged, existing, texts)

    return records


def _records(
    rejections: Sequence[GroupRejection], staged: StagedRows, existing: ExistingRows, texts: Mapping[str, str]
) -> Iterator[QuarantinedRow]:
    shown = {item.row for item in rejections} | {row for item in rejections for is_old, row in item.against if not is_old}
    numbers = np.array(sorted(shown), np.int64)
    names = ("source", "place", "number", "text", "label", "id", "input", "source_id")
    rows = dict(zip(numbers.tolist(), zip(*(staged.column(name, numbers) for name in names), strict=True), strict=True))

    def side(is_old: bool, row: int) -> str:
        if is_old:
            text = texts[existing.rows.ids[row].as_py()]
            return f"{LABELS[existing.rows.labels[row]]}, accepted before, {shown_text(text)}"
        _, place, number, text, label, *_ = rows[row]
        return f"{label} in {place} row {number}, {shown_text(text)}"

    for item in rejections:
        source, place, number, text, label, identity, given, own_id = rows[item.row]
        if item.against:
            detail = f"{side(False, item.row)} against {'; '.join(side(*other) for other in item.against)}"
        else:
            detail = item.detail or f"{side(False, item.row)}: an earlier ingestion quarantined this text as contradictory"
        yield QuarantinedRow(source, place, number, text, item.reason, detail, identity, given, label, own_id)
