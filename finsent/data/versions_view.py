"""Looking at what ingestion has left: the versions of the data, and the rows that were quarantined."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.contract import CONFLICT
from finsent.data.dataset import read_report
from finsent.data.quarantine import rows_at
from finsent.errors import InputError
from finsent.home import Home

_LOOKED_AT: Final = (128, 1024)  # rows looked at for contradictions to show: mostly the first are enough
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
    """Rows shown, with all columns of the table."""


@dataclass(frozen=True)
class QuarantineExamples:
    """What the quarantine holds, and some of it."""

    reasons: dict[str, int]
    """Rows by reason."""
    rows: dict[str, list[dict[str, Any]]]
    """Some rows of each reason."""
    conflicts: list[tuple[str, str]]
    """Some contradictions: one side, and what stands against it."""


def version_numbers(home: Home) -> list[int]:
    """Versions that an ingestion or a review made, the newest first; upkeep makes versions too, of the same rows."""
    return [int(commit["version"]) for commit in tables.commit_history(home, "tweets") if "fingerprint" in commit]


def previous_version(home: Home, version: int) -> int | None:
    """The version before this one; None if it is the first."""
    return next((number for number in version_numbers(home) if number < version), None)


def originating_version(home: Home, version: int, fingerprint: str) -> int:
    """The version in which the rows that `version` holds were made: itself, or an earlier one if only upkeep followed."""
    made = (
        int(commit["version"])
        for commit in tables.commit_history(home, "tweets", version=version)
        if commit.get("fingerprint") == fingerprint
    )
    return next(made, version)


def list_versions(home: Home) -> list[VersionRecord]:
    """Every version that an ingestion or a review made, the newest first."""
    return [_version(home, commit) for commit in tables.commit_history(home, "tweets") if "fingerprint" in commit]


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


def quarantine_view(
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
    version, keys = _keys(home, until)
    for column, wanted in (("reason", reason), ("source", source)):
        if wanted is not None:
            there = sorted(pc.unique(keys[column]).to_pylist())
            if wanted not in there:
                known = ", ".join(repr(value) for value in there) or "none, the quarantine is empty"
                raise InputError(f"no quarantined row has {column} {wanted!r}. There are: {known}.")
            keys = keys.filter(pc.equal(keys[column], wanted))
    shown = keys["position"].slice(0, limit).to_pylist()
    return QuarantineView(keys.num_rows, _by_reason(keys), tuple(rows_at(home, version, shown)))


def quarantine_examples(home: Home, until: datetime | None, limit: int, conflicts: int) -> QuarantineExamples:
    """What the quarantine holds up to a time, with `limit` rows of each reason and `conflicts` contradictions, both sides.

    They are taken from the sources in turn, so that a few of them show more than the first file.
    """
    version, keys = _keys(home, until)
    reasons = _by_reason(keys)
    positions = {reason: _mixed(keys.filter(pc.equal(keys["reason"], reason))) for reason in reasons}
    chosen = [position for some in positions.values() for position in some[:limit]]
    found = dict(zip(chosen, rows_at(home, version, chosen), strict=True))
    return QuarantineExamples(
        reasons=reasons,
        rows={reason: [found[position] for position in some[:limit]] for reason, some in positions.items()},
        conflicts=conflict_sides(_some_at_a_time(home, version, positions.get(CONFLICT, [])), conflicts),
    )


def _keys(home: Home, until: datetime | None) -> tuple[int | None, pa.Table]:
    """Rows without their texts, the latest first: source, row, reason, ingested_at, position in this version of the table."""
    version = tables.version(home, "quarantine")
    keys = tables.read(home, "quarantine", version=version, columns=["source", "row", "reason", "ingested_at"])
    keys = keys.append_column("position", pa.array(np.arange(keys.num_rows)))
    if until is not None:
        keys = keys.filter(pc.less_equal(keys["ingested_at"], until))
    order = [("ingested_at", "descending"), ("source", "ascending"), ("row", "ascending"), ("position", "ascending")]
    return version, keys.sort_by(order)


def _by_reason(keys: pa.Table) -> dict[str, int]:
    counted = Counter({item["values"]: item["counts"] for item in pc.value_counts(keys["reason"]).to_pylist()})
    return dict(counted.most_common())


def _mixed(keys: pa.Table) -> list[int]:
    """Positions, source by source in turn."""
    codes = pa.concat_arrays([pa.array([], pa.string()), *keys["source"].chunks]).dictionary_encode().indices.to_numpy()
    by_source = np.argsort(codes, kind="stable")
    turn = np.empty(len(codes), np.int64)
    turn[by_source] = np.arange(len(codes)) - np.searchsorted(codes[by_source], codes[by_source])
    mixed: list[int] = keys["position"].to_numpy()[np.lexsort((codes, turn))].tolist()
    return mixed


def _some_at_a_time(home: Home, version: int | None, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows as long as somebody asks for more; the table is gone through each time."""
    for start, stop in pairwise((0, *_LOOKED_AT)):
        yield from rows_at(home, version, positions[start:stop])


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
