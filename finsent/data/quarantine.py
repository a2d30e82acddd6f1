"""The quarantine: rows that were not taken, each with the reason, recorded once however often its file is read."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from hashlib import blake2b
from itertools import islice
from typing import Final

import pyarrow as pa

from finsent.data import tables
from finsent.data.contract import Reason
from finsent.data.rows import Quarantined
from finsent.home import Home
from finsent.text import text_id

_CONFLICT: Reason = "contradictory label"
_APPLICATION: Final = "finsent-quarantine"
_KEY: Final = ("source", "row", "text", "reason")
_BATCH: Final = 8192


def earlier_conflicts(home: Home) -> frozenset[str]:
    """Ids of the texts that earlier ingestions quarantined as contradictory: they stay out until someone decides."""
    rows = tables.read(home, "quarantine", columns=["id", "text", "reason"], filters=[("reason", "=", _CONFLICT)])
    texts = dict(zip(rows["text"].to_pylist(), rows["id"].to_pylist(), strict=True))
    return frozenset(given or text_id(text) for text, given in texts.items())


def record(home: Home, rows: Sequence[Quarantined] | Callable[[], Iterable[Quarantined]], now: datetime) -> int:
    """Append the rows that are not on record yet, in one commit; how many those were.

    Args:
        home: Where the tables are.
        rows: Rows, or what gives them anew each time that it is called, so that they need not be in memory at once.
        now: When they came.
    """
    again = rows if callable(rows) else lambda: rows
    if next(iter(again()), None) is None:
        return 0
    return tables.contend(home, "quarantine", _APPLICATION, lambda before: _record(home, again(), now, before))


def _record(home: Home, rows: Iterable[Quarantined], now: datetime, before: tables.Position) -> int | None:
    seen = {
        _key(*row) for batch in tables.batches(home, "quarantine", _KEY) for row in zip(*batch.to_pydict().values(), strict=True)
    }
    new = (row for row in rows if _key(row.place, row.number, row.text, row.reason) not in seen)
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

    reader = pa.RecordBatchReader.from_batches(tables.SCHEMAS["quarantine"], batches())
    written = tables.append_next(home, "quarantine", reader, _APPLICATION, before)
    return None if written is None else count


def _key(place: str, number: int, text: str, reason: str) -> bytes:
    return blake2b(f"{place}\x1f{number}\x1f{reason}\x1f{text}".encode(), digest_size=16).digest()


def _batch(rows: Sequence[Quarantined], now: datetime) -> pa.RecordBatch:
    columns = {
        "source": [row.place for row in rows],
        "row": [row.number for row in rows],
        "text": [row.text for row in rows],
        "reason": [row.reason for row in rows],
        "detail": [row.detail for row in rows],
        "ingested_at": [now] * len(rows),
        "id": [row.id for row in rows],
    }
    return pa.record_batch(columns, schema=tables.SCHEMAS["quarantine"])
