"""The quarantine: rows that were not taken, each with the reason, recorded once however often its file is read."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Self

import pyarrow as pa

from finsent.data import tables
from finsent.data.contract import Reason, Rejection
from finsent.data.grouping import Row
from finsent.home import Home
from finsent.text import text_id

_CONFLICT: Reason = "contradictory label"
_APPLICATION: Final = "finsent-quarantine"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row that was not taken. `place` and `number` say where it stands; `source` is what reports count it under."""

    source: str
    place: str
    number: int
    text: str
    reason: Reason
    detail: str

    @classmethod
    def of(cls, row: Row, why: Rejection) -> Self:
        """A readable row that others contradict."""
        return cls(row.source, row.place, row.number, row.text, why.reason, why.detail)


def earlier_conflicts(home: Home) -> frozenset[str]:
    """Ids of the texts that earlier ingestions quarantined as contradictory: they stay out until someone decides."""
    rows = tables.read(home, "quarantine", columns=["text", "reason"], filters=[("reason", "=", _CONFLICT)])
    return frozenset(text_id(text) for text in set(rows["text"].to_pylist()))


def record(home: Home, rows: Sequence[Quarantined], now: datetime) -> int:
    """Append the rows that are not on record yet, in one commit; how many those were."""
    return tables.contend(home, "quarantine", _APPLICATION, lambda before: _record(home, rows, now, before)) if rows else 0


def _record(home: Home, rows: Sequence[Quarantined], now: datetime, before: tables.Position) -> int | None:
    known = tables.read(home, "quarantine", columns=["source", "row", "text", "reason"]).to_pylist()
    seen = {(row["source"], row["row"], row["text"], row["reason"]) for row in known}
    new = [row for row in rows if (row.place, row.number, row.text, row.reason) not in seen]
    if not new:
        return 0
    columns = {
        "source": [row.place for row in new],
        "row": [row.number for row in new],
        "text": [row.text for row in new],
        "reason": [row.reason for row in new],
        "detail": [row.detail for row in new],
        "ingested_at": [now] * len(new),
    }
    table = pa.table(columns, schema=tables.SCHEMAS["quarantine"])
    return None if tables.append_next(home, "quarantine", table, _APPLICATION, before) is None else len(new)
