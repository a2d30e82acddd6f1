"""The quarantine: rows that were not taken, each with the reason, recorded once however often its file is read.

A file is known by its contents: the same row of another file, be it of the same name, is recorded too.
"""

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
from finsent.data.contract import CONFLICT, Reason, shorten
from finsent.data.dedup.assignment import ExistingRows, GroupRejection
from finsent.data.dedup.signature_index import texts_by_id
from finsent.data.masking import mask_handles
from finsent.data.rows import Quarantined
from finsent.data.staging import StagedRows, column, input_of
from finsent.data.table_schemas import SCHEMAS
from finsent.home import Home
from finsent.labels import LABELS
from finsent.text import text_id

_APPLICATION: Final = "finsent-quarantine"
_KEY: Final = ("input", "source", "row", "text", "reason")
_BATCH: Final = 8192


def earlier_conflicts(home: Home) -> frozenset[str]:
    """Ids of the texts that earlier ingestions quarantined as contradictory: they stay out until someone decides."""
    found: set[str] = set()
    for batch in tables.batches(home, "quarantine", ["id", "text"], filters=pc.field("reason") == CONFLICT):
        found.update(ids_of(batch))
    return frozenset(found)


def ids_of(batch: pa.RecordBatch) -> list[str]:
    """Identities of the texts of some readable rows, of their columns `id` and `text`: rows from before 0.2 have no id."""
    return [given or text_id(batch["text"][row].as_py()) for row, given in enumerate(batch["id"].to_pylist())]


def labels_of(batch: pa.RecordBatch) -> list[str]:
    """Classes that some contradictory rows were read as, of their columns `label` and `detail`.

    In rows from before there was that column the detail begins with it.
    """
    pairs = zip(batch["label"].to_pylist(), batch["detail"].to_pylist(), strict=True)
    return [label or detail.partition(" ")[0].rstrip(",:") for label, detail in pairs]


def rows_at(home: Home, version: int | None, positions: Sequence[int]) -> list[dict[str, Any]]:
    """Rows by where they stand in a version of the table, in the order asked for; of the others none is kept."""
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


def append_records(home: Home, rows: Sequence[Quarantined] | Callable[[], Iterable[Quarantined]], now: datetime) -> int:
    """Append the rows that are not on record yet, in one commit; how many those were.

    Args:
        home: Where the tables are.
        rows: Rows, or what gives them anew each time that it is called, so that they need not be in memory at once.
        now: When they came.
    """
    again = rows if callable(rows) else lambda: rows
    inputs = {row.input for row in again()}
    if not inputs:
        return 0
    return tables.retry_on_conflict(home, "quarantine", _APPLICATION, lambda before: _record(home, again(), inputs, now, before))


def input_identity(fingerprint: Mapping[str, str | int]) -> str:
    """Identity of what was read, from `finsent.data.sources.fingerprint_file`.

    Of a file its hash, of a Hub dataset its commit; of a database the hash of the query: what it gives changes by itself.
    """
    key = next(key for key in ("query_sha256", "sha256", "revision") if key in fingerprint)
    return f"{key}:{fingerprint[key]}"


def _record(
    home: Home, rows: Iterable[Quarantined], inputs: AbstractSet[str | None], now: datetime, before: tables.Position
) -> int | None:
    seen = _on_record(home, inputs)

    def is_new(row: Quarantined) -> bool:
        own, any_input = (_key(given, row.place, row.number, row.text, row.reason) for given in (row.input, None))
        if own in seen or any_input in seen:  # rows from before 0.2 do not say their input: it may be any
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
    written = tables.append_if_unchanged(home, "quarantine", reader, _APPLICATION, before)
    return None if written is None else count


def _on_record(home: Home, inputs: AbstractSet[str | None]) -> set[bytes]:
    """Keys of the rows that are on record for these inputs, or for none."""
    of_these = pa.array([*inputs, None], pa.string())
    found: set[bytes] = set()
    for batch in tables.batches(home, "quarantine", _KEY):
        some = batch.filter(pc.is_in(batch["input"], value_set=of_these))
        found.update(_key(*row) for row in zip(*some.to_pydict().values(), strict=True))
    return found


def _key(given: str | None, place: str, number: int, text: str, reason: str) -> bytes:
    return blake2b(f"{given or ''}\x1f{place}\x1f{number}\x1f{reason}\x1f{text}".encode(), digest_size=16).digest()


def _batch(rows: Sequence[Quarantined], now: datetime) -> pa.RecordBatch:
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
    }
    return pa.record_batch(columns, schema=SCHEMAS["quarantine"])


# merged from finsent.data.quarantine: Rows that are readable and quarantined all the same, because of others: told with both sides shown.

_SHOWN: Final = 120
_CHUNK: Final = 4096


def quarantine_records(
    refusals: Sequence[GroupRejection],
    spooled: StagedRows,
    before: ExistingRows,
    home: Home,
    version: int | None = None,
    *,
    masked: bool = False,
) -> Callable[[], Iterator[Quarantined]]:
    """What gives the rows refused, for the quarantine. Stored texts are read here and now: not while a table is written.

    Rows accepted `before` are those of `version` of the tweets, or of the latest. With `masked` (`data.mask_handles`) they are
    shown with `@user` for handles, as the spooled ones are already.
    """
    old_ids = before.rows.ids.take(pa.array(sorted({row for item in refusals for old, row in item.against if old}), pa.int64()))
    old_texts: dict[str, str] = {}
    if len(old_ids):
        for batch in texts_by_id(home, old_ids, version):
            old_texts |= dict(zip(*batch.to_pydict().values(), strict=True))
    if masked:
        old_texts = {name: mask_handles(text) for name, text in old_texts.items()}

    def told() -> Iterator[Quarantined]:
        for start in range(0, len(refusals), _CHUNK):
            yield from _tell(refusals[start : start + _CHUNK], spooled, before, old_texts)

    return told


def _tell(
    refusals: Sequence[GroupRejection], spooled: StagedRows, before: ExistingRows, old_texts: dict[str, str]
) -> Iterator[Quarantined]:
    shown = {item.row for item in refusals} | {row for item in refusals for old, row in item.against if not old}
    numbers = np.array(sorted(shown), np.int64)
    names = ("source", "place", "number", "text", "label", "id", "file")
    rows = dict(zip(numbers.tolist(), zip(*(column(spooled, name, numbers) for name in names), strict=True), strict=True))

    def side(old: bool, row: int) -> str:
        if not old:
            _, place, number, text, label, *_ = rows[row]
            return f"{label} in {place} row {number}, {shorten(text, _SHOWN)!r}"
        text = old_texts[before.rows.ids[row].as_py()]
        return f"{LABELS[before.rows.labels[row]]}, accepted before, {shorten(text, _SHOWN)!r}"

    for item in refusals:
        source, place, number, text, label, identity, file = rows[item.row]
        if item.against:
            detail = f"{side(False, item.row)} against {'; '.join(side(*other) for other in item.against)}"
        else:
            detail = item.detail or f"{side(False, item.row)}: an earlier ingestion quarantined this text as contradictory"
        reason: Reason = item.reason
        yield Quarantined(source, place, number, text, reason, detail, identity, input_of(spooled, file), label)
