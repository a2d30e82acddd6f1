"""The account of an ingestion: where every row ended, what the version holds, and what was recorded of it before."""

import dataclasses
import json
import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from finsent.data import tables
from finsent.data.contract import shorten
from finsent.data.dedup.assignment import ACCEPTED, DUPLICATE, AssignmentResult
from finsent.data.leakage import NaiveSplit
from finsent.data.reading import Reading
from finsent.data.schema import SourceSchema, from_dict
from finsent.data.splits import EXCLUDED, SPLIT_CODES, SPLITS, SplitCodes, SplitRule
from finsent.data.staging import StagedRows
from finsent.errors import Refused
from finsent.home import Home
from finsent.labels import LABELS

_log = logging.getLogger(__name__)

_MANY: Final = 0.2  # share of a source's rows


@dataclass(frozen=True)
class IngestReport:
    """Where every row read ended, and the version of the data after it."""

    read: int
    accepted: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    flags: dict[str, int]
    """Readable rows by what was noticed about their text."""
    by_source: dict[str, dict[str, int]]
    """read, accepted, duplicates, quarantined of each source."""
    splits: dict[str, dict[str, int]]
    """Rows of the whole version by split and label."""
    groups: int
    """Near-duplicate groups of the whole version."""
    conflicts: int
    """Groups quarantined because their members disagree on the label."""
    split_conflicts: int
    """Groups of new rows that touched two splits."""
    group_sizes: dict[str, int]
    """Rows that were not there before by the size of their near-duplicate group, copies included."""
    leaks: int
    """Exact and near-duplicate pairs across splits; anything but 0 is refused before it is written."""
    audit: dict[str, dict[str, int]]
    """Those pairs, exact and near, by pair of splits."""
    naive_leak: float | None
    """Share of test rows that a plain random split would have leaked, over all rows read so far, copies included."""
    naive_rows: int
    """How many rows that is over."""
    version: int | None
    """Version of the data after this; None when nothing has ever been accepted."""
    fingerprint: str | None
    """Fingerprint of that version."""
    new_version: bool
    """Whether this ingestion made the version."""
    seconds: float


def count_rows(reading: Reading, spooled: StagedRows, placement: AssignmentResult) -> dict[str, Any]:
    """Rows by outcome, over all and by source.

    Raises:
        Refused: a row was lost or counted twice, which must never be.
    """
    names = spooled.sources.dictionary.to_pylist()
    sources = spooled.sources.indices.to_numpy()

    def by_source(outcome: int) -> dict[str, int]:
        return dict(zip(names, np.bincount(sources[placement.outcome == outcome], minlength=len(names)).tolist(), strict=True))

    accepted, duplicates = by_source(ACCEPTED), by_source(DUPLICATE)
    refused = Counter(names[source] for source in sources[[item.row for item in placement.rejections]].tolist())
    counts = {
        name: {
            "read": read,
            "accepted": accepted.get(name, 0),
            "duplicates": duplicates.get(name, 0),
            "quarantined": reading.rejected.get(name, 0) + refused[name],
        }
        for name, read in reading.read.items()
    }
    for name, n in counts.items():
        if n["read"] != n["accepted"] + n["duplicates"] + n["quarantined"]:
            raise Refused(
                f"rows of source {name!r} do not add up: {n}. Nothing was written; this is a fault in finsent, please report it."
            )
    totals = {key: sum(n[key] for n in counts.values()) for key in ("read", "accepted", "duplicates", "quarantined")}
    reasons = Counter(reading.reasons) + Counter(item.reason for item in placement.rejections)
    return {**totals, "by_source": counts, "reasons": dict(reasons.most_common()), "flags": dict(reading.flags)}


def rows_by_split(splits: SplitCodes, labels: SplitCodes) -> dict[str, dict[str, int]]:
    """Rows by split and label; what is excluded only where there is some."""
    counts = np.bincount(splits.astype(np.int64) * len(LABELS) + labels, minlength=len(SPLIT_CODES) * len(LABELS))
    table = counts.reshape(len(SPLIT_CODES), len(LABELS)).tolist()
    by_split = {split: dict(zip(LABELS, row, strict=True)) for split, row in zip(SPLIT_CODES, table, strict=True)}
    return by_split if any(by_split[EXCLUDED].values()) else {split: by_split[split] for split in SPLITS}


def report_metadata(report: IngestReport, rule: SplitRule, reading: Reading) -> dict[str, Any]:
    """What is recorded with the version, as JSON's types."""
    return {
        **dataclasses.asdict(report),
        "split_rule": rule.describe(),
        "inputs": reading.inputs,
        "schemas": reading.schemas,
    }


def warn_high_quarantine_rate(report: IngestReport, reading: Reading) -> None:
    """A source of which much was quarantined is more likely a wrong setting than a heap of bad rows."""
    for name, n in report.by_source.items():
        if n["quarantined"] > _MANY * n["read"]:
            why = ", ".join(f"{reason} ({count:,})" for reason, count in list(report.reasons.items())[:3])
            labels = ", ".join(f"{shorten(label)!r} ({n:,})" for label, n in list(reading.unknown.get(name, {}).items())[:5])
            _log.warning(
                "%s: %d of %d rows were quarantined; in this ingestion: %s%s. See `finsent data quarantine`.",
                name,
                n["quarantined"],
                n["read"],
                why,
                f"; labels that are not understood: {labels}" if labels else "",
            )


def previous_naive_split(home: Home) -> NaiveSplit | None:
    """What was known of a naive split at the last ingestion that made a version."""
    for commit in tables.commit_history(home, "tweets"):
        report = json.loads(commit.get("report", "{}"))
        if "naive_rows" in report:
            return NaiveSplit(report["naive_leak"], report["naive_rows"])
    return None


def known_schemas(home: Home) -> dict[str, SourceSchema]:
    """What each source looked like when it was last read into the data."""
    found: dict[str, SourceSchema] = {}
    for commit in tables.commit_history(home, "tweets"):
        for name, stored in json.loads(commit.get("report", "{}")).get("schemas", {}).items():
            found.setdefault(name, from_dict(stored))
    return found
