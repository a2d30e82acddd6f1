"""Read-only views for pages and commands: the versions of the data, and the rows in quarantine."""

import json
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
from finsent.data.dataset import read_report
from finsent.data.quarantine import AGAINST, rows_at
from finsent.data.table_access import UnreadableVersionError
from finsent.data.validation.row_validation import CONFLICT
from finsent.errors import InputError
from finsent.workspace import Workspace

_SEARCHED: Final = (128, 1024)  # rows searched for conflicts to show: usually the first ones are enough


@dataclass(frozen=True)
class VersionRecord:
    """One version of the data, as its commit recorded it."""

    version: int
    at: datetime
    """When it was committed, UTC."""
    rows: int | None
    """None where the version can no longer be read."""
    fingerprint: str
    leaks: int | None
    """Duplicate pairs across splits; None where no audit is recorded."""
    inputs: tuple[str, ...]
    """Names of the sources read for it; empty for a review or a removal, or where they are not recorded."""
    unreadable: str | None = None
    """Why the version can no longer be read, a sentence; None where it can."""
    removed: str | None = None
    """Name of the source that this version removed."""


@dataclass(frozen=True)
class QuarantineView:
    """Quarantined rows, the latest first."""

    total: int
    """Rows that match, shown or not."""
    reasons: dict[str, int]
    """Matching rows by reason."""
    rows: tuple[dict[str, Any], ...]
    """Rows shown, with all columns of the table."""


@dataclass(frozen=True)
class QuarantineExamples:
    """Quarantined rows by reason, with examples."""

    reasons: dict[str, int]
    """Rows by reason."""
    rows: dict[str, list[dict[str, Any]]]
    """Some rows of each reason."""
    conflicts: list[tuple[str, str]]
    """Some conflicts: one side, and the sides against it."""


def version_numbers(home: Workspace) -> list[int]:
    """Versions that an ingestion or a review made, the newest first; maintenance makes versions of the same rows, not listed."""
    return [int(commit["version"]) for commit in tables.commit_history(home, "tweets") if "fingerprint" in commit]


def previous_version(home: Workspace, version: int) -> int | None:
    """The version before this one; None for the first."""
    return next((number for number in version_numbers(home) if number < version), None)


def originating_version(home: Workspace, version: int, fingerprint: str) -> int:
    """The version that wrote the rows of `version`: itself, or an earlier one if only maintenance followed."""
    history = tables.commit_history(home, "tweets", version=version)
    return next((int(commit["version"]) for commit in history if commit.get("fingerprint") == fingerprint), version)


def list_versions(home: Workspace) -> list[VersionRecord]:
    """Every version that an ingestion or a review made, the newest first."""
    return [_version(home, commit) for commit in tables.commit_history(home, "tweets") if "fingerprint" in commit]


def _version(home: Workspace, commit: dict[str, Any]) -> VersionRecord:
    number = int(commit["version"])
    report = json.loads(commit["report"]) if "report" in commit else read_report(home, number)
    leaks = commit.get("leaks")
    rows, unreadable = None, None
    try:
        rows = tables.read(home, "tweets", version=number, columns=["ingested_at"]).num_rows
    except UnreadableVersionError as error:  # the log still says what it was
        unreadable = str(error)
    return VersionRecord(
        version=number,
        at=datetime.fromtimestamp(commit["timestamp"] / 1000, UTC),
        rows=rows,
        fingerprint=str(commit["fingerprint"]),
        leaks=int(leaks) if leaks not in (None, "null") else None,
        inputs=tuple(str(item.get("name")) for item in report.get("inputs", ())),
        unreadable=unreadable,
        removed=json.loads(commit["removed"])["source"] if "removed" in commit else None,
    )


def quarantine_view(
    home: Workspace,
    *,
    reason: str | None = None,
    source: str | None = None,
    limit: int | None = None,
    until: datetime | None = None,
) -> QuarantineView:
    """Quarantined rows, filtered by reason, source and latest time; at most `limit` of them are shown.

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
    shown = keys["position"][:limit].to_pylist()
    return QuarantineView(keys.num_rows, _by_reason(keys), tuple(rows_at(home, version, shown)))


def quarantine_examples(home: Workspace, until: datetime | None, limit: int, conflicts: int) -> QuarantineExamples:
    """Quarantined rows up to a time: `limit` examples of each reason, and both sides of `conflicts` conflicts.

    Examples are taken from the sources in turn, so that a few of them show more than the first file.
    """
    version, keys = _keys(home, until)
    reasons = _by_reason(keys)
    positions = {reason: _round_robin(keys.filter(pc.equal(keys["reason"], reason))) for reason in reasons}
    chosen = [position for some in positions.values() for position in some[:limit]]
    found = dict(zip(chosen, rows_at(home, version, chosen), strict=True))
    return QuarantineExamples(
        reasons=reasons,
        rows={reason: [found[position] for position in some[:limit]] for reason, some in positions.items()},
        conflicts=conflict_sides(_in_batches(home, version, positions.get(CONFLICT, [])), conflicts),
    )


def _keys(home: Workspace, until: datetime | None) -> tuple[int | None, pa.Table]:
    """Version read, and its rows without texts, the latest first: source, row, reason, ingested_at, position in the table."""
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


def _round_robin(keys: pa.Table) -> list[int]:
    """Positions, one of each source in turn."""
    codes = pa.concat_arrays([pa.array([], pa.string()), *keys["source"].chunks]).dictionary_encode().indices.to_numpy()
    by_source = np.argsort(codes, kind="stable")
    turn = np.empty(len(codes), np.int64)
    turn[by_source] = np.arange(len(codes)) - np.searchsorted(codes[by_source], codes[by_source])
    mixed: list[int] = keys["position"].to_numpy()[np.lexsort((codes, turn))].tolist()
    return mixed


def _in_batches(home: Workspace, version: int | None, positions: Sequence[int]) -> Iterator[dict[str, Any]]:
    """Rows at these positions, read lazily; each batch scans the table."""
    for start, stop in pairwise((0, *_SEARCHED)):
        yield from rows_at(home, version, positions[start:stop])


def latest_time(home: Workspace, version: int) -> datetime | None:
    """When the newest rows of a version were ingested, UTC."""
    found: datetime | None = pc.max(tables.read(home, "tweets", version=version, columns=["ingested_at"])["ingested_at"]).as_py()
    return found


def conflict_sides(rows: Iterable[dict[str, Any]], limit: int) -> list[tuple[str, str]]:
    """Both sides of up to `limit` conflicts, as the quarantine recorded them; each pair of sides once."""
    seen: set[frozenset[str]] = set()
    sides: list[tuple[str, str]] = []
    for row in rows:
        here, _, there = (AGAINST.sub("\0", str(row["detail"]), count=1)).partition("\0")
        first = there.split("; ")[0] if there else ""
        if len(sides) == limit:
            break
        if row["reason"] == CONFLICT and there and frozenset((here, first)) not in seen:
            seen.add(frozenset((here, first)))
            sides.append((here, there))
    return sides
