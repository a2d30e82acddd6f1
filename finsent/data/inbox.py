"""The inbox: unlabelled tweets that wait for scoring. An id that is there already is not added again."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from finsent.config import DataConfig, Source
from finsent.data import tables
from finsent.data.contract import Rejection, check_text, check_time
from finsent.data.formats import read
from finsent.data.quarantine import Quarantined, record
from finsent.data.reading import reject
from finsent.data.sources import RawRow, Wanted, resolve
from finsent.errors import Refused
from finsent.home import Home
from finsent.progress import track
from finsent.text import text_id


@dataclass(frozen=True)
class InboxReport:
    """Where every row read ended: read = received + known + quarantined."""

    read: int
    received: int
    known: int
    """Rows whose id the inbox had already, or had earlier in the same files."""
    quarantined: int
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    version: int | None
    """Version of the table `inbox` after this; None when nothing was ever received."""


def receive(
    files: Sequence[Path | str],
    home: Home,
    *,
    text: str = "text",
    created_at: str | None = None,
    max_characters: int = DataConfig().max_characters,
) -> InboxReport:
    """Put unlabelled tweets into the inbox.

    Args:
        files: Files, folders, globs or `hf://` datasets; a column `id` is used where there is one, else the hash of the text.
        home: Where the tables are.
        text: Column that holds the tweet.
        created_at: Column that holds the time of writing; left out, `created_at` is used where it is there.
        max_characters: Longer texts are quarantined.

    Raises:
        InputError: a file or column is wrong; nothing was written.
    """
    rows, bad, number_read = _read(files, text, created_at, max_characters)
    home.lock("inbox").parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(home.lock("inbox")):
        there = set(tables.read(home, "inbox", columns=["id"])["id"].to_pylist())
        # the first of several rows with one id is kept
        new = {row["id"]: row for row in reversed(rows) if row["id"] not in there}
        now = datetime.now(UTC)
        record(home, bad, now)
        version = tables.version(home, "inbox")
        if new:
            table = pa.Table.from_pylist(
                [row | {"received_at": now} for row in reversed(new.values())], schema=tables.SCHEMAS["inbox"]
            )
            version = tables.append(home, "inbox", table)
    report = InboxReport(number_read, len(new), len(rows) - len(new), len(bad), dict(Counter(row.reason for row in bad)), version)
    if report.read != report.received + report.known + report.quarantined:
        raise Refused(f"rows do not add up: {report}. This is a fault in finsent, please report it.")
    return report


def _read(
    files: Sequence[Path | str], text: str, created_at: str | None, longest: int
) -> tuple[list[dict[str, Any]], list[Quarantined], int]:
    wanted = Wanted(
        {"text": text} | ({"created_at": created_at} if created_at else {}),
        {"id": "id"} | ({} if created_at else {"created_at": "created_at"}),
    )
    rows: list[dict[str, Any]] = []
    bad: list[Quarantined] = []
    number_read = 0
    now = datetime.now(UTC)
    for file in track([file for path in files for file in resolve(Source(uri=str(path)))], description="reading", unit="file"):
        for batch in read(file, wanted):
            number_read += len(batch)
            for raw in batch:
                checked = _check(raw, longest, now)
                if isinstance(checked, Rejection):
                    bad.append(reject(raw, checked, file))
                else:
                    rows.append(checked)
    return rows, bad, number_read


def _check(raw: RawRow, longest: int, now: datetime) -> dict[str, Any] | Rejection:
    if raw.fault is not None:
        return raw.fault
    text = check_text(raw.text, longest)
    if isinstance(text, Rejection):
        return text
    moment = check_time(raw.created_at, now)
    if isinstance(moment, Rejection):
        return moment
    given = "" if raw.id is None else str(raw.id).strip()
    return {"id": given or text_id(text), "created_at": moment, "text": text}
