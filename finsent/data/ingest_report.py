"""The report of an ingestion: where every row ended, what the version holds, and what is recorded with it."""

import copy
import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.dataset import add_fingerprints, recorded_report, report_path
from finsent.data.dedup.assignment import ACCEPTED, DUPLICATE, AssignmentResult
from finsent.data.dedup.grouping import is_in
from finsent.data.existing_rows import Grouping
from finsent.data.leakage import LeakAudit, NaiveSplit, group_sizes, naive_split
from finsent.data.sources.broken_rows import FAULTS_OF_FILES
from finsent.data.sources.file_counts import FileCounts, format_example, is_next_to_nothing
from finsent.data.sources.reading import ReadSummary
from finsent.data.splits import EXCLUDED, SPLIT_CODES, SPLITS, SplitCodes, SplitRule
from finsent.data.staging import NO_TIME, StagedRows
from finsent.data.validation.schema_drift import SourceSchema, schema_from_dict
from finsent.errors import CheckFailed, shorten
from finsent.files import atomic_write
from finsent.labels import LABELS
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

_HIGH_QUARANTINE_RATE: Final = 0.2  # share of a source's rows


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
    """read, accepted, duplicates, quarantined, unlabelled of each source."""
    splits: dict[str, dict[str, int]]
    """Rows of the whole version by split and label."""
    groups: int
    """Near-duplicate groups of the whole version."""
    conflicts: int
    """Groups quarantined because their members disagree on the label."""
    split_conflicts: int
    """Groups of new rows that touched two splits."""
    group_sizes: dict[str, int]
    """Rows that were not in the data before, by the size of their near-duplicate group, copies included."""
    leaks: int
    """Exact and near-duplicate pairs across splits; an ingestion that would have any is refused before it is written."""
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
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files of which no row could be read, and what to do about each."""
    unread_columns: dict[str, list[str]] = field(default_factory=dict)
    """Columns that are not read, of sources that are read for the first time."""
    unread_dates: dict[str, str] = field(default_factory=dict)
    """One of them that is called as dates are, of each source that none are read of."""
    dry_run: bool = False
    """Whether this says what would have been written, and nothing was."""
    dates_not_filled: int = 0
    """Stored rows without a creation time that came again with one: a stored row never changes."""
    unlabelled: int = 0
    """Rows whose label is blank: left out, and not quarantined."""
    files: list[FileCounts] = field(default_factory=list)
    """What became of the rows of each file."""
    left_out: list[str] = field(default_factory=list)
    """Files of folders whose endings are not read."""

    @property
    def nothing_readable(self) -> bool:
        """Whether every row that was read belongs to a file of which no row could be read."""
        return bool(self.unreadable) and self.accepted == self.duplicates == 0 and set(self.reasons) <= FAULTS_OF_FILES

    @property
    def next_to_nothing(self) -> bool:
        """Whether under a tenth of the labelled rows are in the data now or were before: a wrong file or a wrong setting."""
        return is_next_to_nothing(self.read, self.accepted + self.duplicates, self.unlabelled)


def build_report(
    home: Workspace, grouping: Grouping, result: AssignmentResult, audit: LeakAudit, added: str | None
) -> IngestReport:
    """The report before the commit; the new version and the duration are filled in later.

    Args:
        home: Where the tables are.
        grouping: The rows.
        result: Where each new row ended.
        audit: Of the table as it will be.
        added: Fingerprint of the accepted rows; None when there are none.

    Raises:
        CheckFailed: a row was lost or counted twice.
    """
    existing, new, graph, snapshot = grouping.rows.existing, grouping.rows.new, grouping.rows.graph, grouping.existing
    taken = result.outcome == ACCEPTED
    splits = np.concatenate([existing.splits, result.splits[taken]])
    # a row whose id was accepted earlier is a second reading, not a copy
    fresh = ~is_in(new.ids, existing.rows.ids)
    components = graph.components[np.concatenate([graph.old_nodes, graph.new_nodes[fresh]])]
    is_new = np.arange(len(components)) >= len(existing.rows)
    naive = naive_split(components, is_new, previous_naive_split(home))
    # a table that was only created holds no version of the data; one whose rows were all dropped by review does
    has_version = bool(len(splits) or snapshot.version)
    fingerprint = add_fingerprints(snapshot.fingerprint, added) if added else snapshot.fingerprint
    return IngestReport(
        **count_rows(grouping.read.reading, grouping.read.staged, result),
        splits=rows_by_split(splits, np.concatenate([existing.rows.labels, new.labels[taken]])),
        groups=len(existing.names) + len(np.unique(result.groups[taken & (result.groups < len(new))])),
        conflicts=result.conflicts,
        split_conflicts=result.split_conflicts,
        group_sizes=group_sizes(components, is_new),
        leaks=audit.leaks,
        audit=audit.describe(),
        naive_leak=naive.leak,
        naive_rows=naive.rows,
        version=snapshot.version if has_version else None,
        fingerprint=fingerprint if has_version else None,
        new_version=added is not None,
        seconds=time.monotonic() - grouping.read.started,
        unreadable=dict(grouping.read.reading.unreadable),
        unread_columns=dict(grouping.read.reading.unread_columns),
        unread_dates=dict(grouping.read.reading.unread_dates),
        files=count_files(grouping.read.reading.files, grouping.read.staged, result),
        left_out=list(grouping.read.reading.left_out),
        dates_not_filled=_dates_not_filled(home, grouping, result),
    )


def _dates_not_filled(home: Workspace, grouping: Grouping, result: AssignmentResult) -> int:
    staged = grouping.read.staged
    dated = (result.outcome == DUPLICATE) & (staged.times != NO_TIME)
    if not dated.any():
        return 0
    ids = pc.unique(staged.ids.filter(pa.array(dated)))
    undated = tables.read(home, "tweets", columns=["id"], filters=pc.field("created_at").is_null())["id"]
    return int(pc.sum(pc.is_in(ids, value_set=undated.combine_chunks())).as_py() or 0)


def count_rows(reading: ReadSummary, staged: StagedRows, result: AssignmentResult) -> dict[str, Any]:
    """Rows by outcome, over all and by source.

    Raises:
        CheckFailed: a row was lost or counted twice.
    """
    names = staged.sources.dictionary.to_pylist()
    sources = staged.sources.indices.to_numpy()

    def by_source(outcome: int) -> dict[str, int]:
        return dict(zip(names, np.bincount(sources[result.outcome == outcome], minlength=len(names)).tolist(), strict=True))

    accepted, duplicates = by_source(ACCEPTED), by_source(DUPLICATE)
    rejected = Counter(names[source] for source in sources[[item.row for item in result.rejections]].tolist())
    counts = {
        name: {
            "read": read,
            "accepted": accepted.get(name, 0),
            "duplicates": duplicates.get(name, 0),
            "quarantined": reading.rejected.get(name, 0) + rejected[name],
            "unlabelled": reading.unlabelled.get(name, 0),
        }
        for name, read in reading.read.items()
    }
    for name, n in counts.items():
        if n["read"] != n["accepted"] + n["duplicates"] + n["quarantined"] + n["unlabelled"]:
            raise CheckFailed(
                f"rows of source {name!r} do not add up: {n}. Nothing was written; this is a fault in finsent, please report it."
            )
    totals = {
        key: sum(n[key] for n in counts.values()) for key in ("read", "accepted", "duplicates", "quarantined", "unlabelled")
    }
    reasons = Counter(reading.reasons) + Counter(item.reason for item in result.rejections)
    return {**totals, "by_source": counts, "reasons": dict(reasons.most_common()), "flags": dict(reading.flags)}


def count_files(files: Sequence[FileCounts], staged: StagedRows, result: AssignmentResult) -> list[FileCounts]:
    """The counts of each file with what became of its readable rows, which are staged file by file in this order."""
    ends = np.cumsum([item.readable for item in files], dtype=np.int64)
    counted = []
    for file, end in zip(files, ends.tolist(), strict=True):
        outcomes = result.outcome[end - file.readable : end]
        copied = copy.deepcopy(file)  # it is counted again where a commit is retried
        copied.taken, copied.duplicates = (int(np.count_nonzero(outcomes == kind)) for kind in (ACCEPTED, DUPLICATE))
        counted.append(copied)
    rejections = sorted(result.rejections, key=lambda item: item.row)
    of_file = np.searchsorted(ends, [item.row for item in rejections], side="right").tolist()
    shown: dict[tuple[int, str], int] = {}
    for at, item in zip(of_file, rejections, strict=True):
        counted[at].reasons[item.reason] = counted[at].reasons.get(item.reason, 0) + 1
        if item.reason not in counted[at].examples:
            shown.setdefault((at, item.reason), item.row)
    rows = np.array(list(shown.values()), np.int64)
    examples = zip(shown, staged.column("number", rows), staged.column("text", rows), strict=True)
    for (at, reason), number, text in examples:
        counted[at].examples[reason] = format_example(number, text)
    return counted


def rows_by_split(splits: SplitCodes, labels: SplitCodes) -> dict[str, dict[str, int]]:
    """Rows by split and label; the excluded ones only where there are any."""
    counts = np.bincount(splits.astype(np.int64) * len(LABELS) + labels, minlength=len(SPLIT_CODES) * len(LABELS))
    table = counts.reshape(len(SPLIT_CODES), len(LABELS)).tolist()
    by_split = {split: dict(zip(LABELS, row, strict=True)) for split, row in zip(SPLIT_CODES, table, strict=True)}
    return by_split if any(by_split[EXCLUDED].values()) else {split: by_split[split] for split in SPLITS}


def report_metadata(report: IngestReport, rule: SplitRule, reading: ReadSummary) -> dict[str, Any]:
    """What is recorded with the version, as plain JSON values."""
    return dataclasses.asdict(report) | {
        "split_rule": rule.describe(),
        "inputs": reading.inputs,
        "schemas": reading.schemas,
    }


def write_report_file(home: Workspace, report: IngestReport, rule: SplitRule, reading: ReadSummary) -> None:
    """Write the JSON report of a new version; of an existing one only where an interrupted ingestion left none."""
    if report.version is None:
        return
    path = report_path(home, report.version)
    # a version that a review made has no report on record
    found = report_metadata(report, rule, reading) if report.new_version else recorded_report(home, report.version)
    if report.new_version or (found and not path.exists()):
        atomic_write(path, json.dumps(found, indent=2, ensure_ascii=False) + "\n")


def warn_high_quarantine_rate(report: IngestReport, reading: ReadSummary) -> None:
    """Warn of files that are unreadable as a whole, and of sources with a high quarantine rate.

    The latter usually means a wrong column or label mapping.
    """
    for advice in report.unreadable.values():
        _log.warning("%s Its rows are in the quarantine.", advice)
    for name, n in report.by_source.items():
        if n["quarantined"] > _HIGH_QUARANTINE_RATE * n["read"]:
            why = ", ".join(f"{reason} ({count:,})" for reason, count in list(report.reasons.items())[:3])
            labels = ", ".join(
                f"{shorten(label)!r} ({n:,})" for label, n in list(reading.unknown_labels.get(name, {}).items())[:5]
            )
            _log.warning(
                "%s: %d of %d rows were quarantined; in this ingestion: %s%s. See `finsent data quarantine`.",
                name,
                n["quarantined"],
                n["read"],
                why,
                f"; labels that are not understood: {labels}" if labels else "",
            )


def previous_naive_split(home: Workspace) -> NaiveSplit | None:
    """The naive-split estimate of the last ingestion that made a version."""
    for commit in tables.commit_history(home, "tweets"):
        report = json.loads(commit.get("report", "{}"))
        if "naive_rows" in report:
            return NaiveSplit(report["naive_leak"], report["naive_rows"])
    return None


def known_schemas(home: Workspace) -> dict[str, SourceSchema]:
    """The schema of each source when it was last read into the data, of those that were not removed since."""
    found: dict[str, SourceSchema] = {}
    removed: set[str] = set()
    for commit in tables.commit_history(home, "tweets"):
        if "removed" in commit:
            removed.add(json.loads(commit["removed"])["source"])
        for name, stored in json.loads(commit.get("report", "{}")).get("schemas", {}).items():
            if name not in removed:
                found.setdefault(name, schema_from_dict(stored))
    return found
