"""Looking at what ingestion has left: the versions of the data, and the rows that were quarantined."""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.dataset import read_report
from finsent.errors import InputError
from finsent.home import Home

CONFLICT: Final = "contradictory label"
# between the two sides of a contradiction; a tweet may hold the word itself
_AGAINST: Final = re.compile(r" against (?=(?:Neutral|Bullish|Bearish)(?: in |, accepted before))")


@dataclass(frozen=True)
class VersionRecord:
    """One version of the data, as its commit recorded it."""

    version: int
    at: datetime
    """When it was committed, UTC."""
    rows: int
    fingerprint: str
    leaks: int | None
    """Duplicate pairs across splits; None where no audit is recorded."""
    inputs: tuple[str, ...]
    """What was read for it; empty where nothing was, as for a review, or where that is not recorded."""


@dataclass(frozen=True)
class QuarantineView:
    """Quarantined rows, the latest first."""

    total: int
    """Rows that the question fits, shown or not."""
    reasons: dict[str, int]
    """Those rows by reason."""
    rows: tuple[dict[str, Any], ...]
    """Rows shown: source, row, text, reason, detail, ingested_at."""


def version_numbers(home: Home) -> list[int]:
    """Versions that an ingestion or a review made, the newest first; upkeep makes versions too, of the same rows."""
    return [int(commit["version"]) for commit in tables.commits(home, "tweets") if "fingerprint" in commit]


def previous_version(home: Home, version: int) -> int | None:
    """The version before this one; None if it is the first."""
    return next((number for number in version_numbers(home) if number < version), None)


def origin(home: Home, version: int, fingerprint: str) -> int:
    """The version in which the rows that `version` holds were made: itself, or an earlier one if only upkeep followed."""
    made = (
        int(commit["version"])
        for commit in tables.commits(home, "tweets", version=version)
        if commit.get("fingerprint") == fingerprint
    )
    return next(made, version)


def list_versions(home: Home) -> list[VersionRecord]:
    """Every version that an ingestion or a review made, the newest first."""
    return [_version(home, commit) for commit in tables.commits(home, "tweets") if "fingerprint" in commit]


def _version(home: Home, commit: dict[str, Any]) -> VersionRecord:
    number = int(commit["version"])
    report = read_report(home, number)
    leaks = commit.get("leaks")
    return VersionRecord(
        version=number,
        at=datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
        rows=tables.read(home, "tweets", version=number, columns=["ingested_at"]).num_rows,
        fingerprint=str(commit["fingerprint"]),
        leaks=int(leaks) if leaks not in (None, "null") else None,
        inputs=tuple(str(item.get("name")) for item in report.get("inputs", ())),
    )


def quarantined(
    home: Home,
    *,
    reason: str | None = None,
    source: str | None = None,
    limit: int | None = None,
    until: datetime | None = None,
) -> QuarantineView:
    """Quarantined rows of a reason, a source, up to a time; all where nothing is asked. At most `limit` of them are shown.

    Raises:
        InputError: no row has this reason or source.
    """
    rows = tables.read(home, "quarantine")
    for column, wanted in (("reason", reason), ("source", source)):
        if wanted is not None:
            there = sorted(pc.unique(rows[column]).to_pylist())
            if wanted not in there:
                known = ", ".join(repr(value) for value in there) or "none, the quarantine is empty"
                raise InputError(f"no quarantined row has {column} {wanted!r}. There are: {known}.")
            rows = rows.filter(pc.equal(rows[column], wanted))
    if until is not None:
        rows = rows.filter(pc.less_equal(rows["ingested_at"], until))
    counted = Counter({item["values"]: item["counts"] for item in pc.value_counts(rows["reason"]).to_pylist()})
    shown = rows.sort_by([("ingested_at", "descending"), ("source", "ascending"), ("row", "ascending")]).slice(0, limit)
    return QuarantineView(rows.num_rows, dict(counted.most_common()), tuple(shown.to_pylist()))


def latest_time(home: Home, version: int) -> datetime | None:
    """When the newest rows of a version were ingested."""
    found: datetime | None = pc.max(tables.read(home, "tweets", version=version, columns=["ingested_at"])["ingested_at"]).as_py()
    return found


def conflict_sides(rows: Iterable[dict[str, Any]], limit: int) -> list[tuple[str, str]]:
    """Both sides of up to `limit` contradictions, as the quarantine recorded them; the same two sides are shown once."""
    seen: set[frozenset[str]] = set()
    sides: list[tuple[str, str]] = []
    for row in rows:
        here, _, there = (_AGAINST.sub("\0", str(row["detail"]), count=1)).partition("\0")
        first = there.split("; ")[0] if there else ""
        if len(sides) == limit:
            break
        if row["reason"] == CONFLICT and there and frozenset((here, first)) not in seen:
            seen.add(frozenset((here, first)))
            sides.append((here, there))
    return sides
