"""Ingestion: labelled sources in, a new version of the table `tweets` out, every row accounted for.

Sources are read whole and checked before anything is written. Under the home's lock rows are then placed, the result is
audited for leaks, and two commits follow: the quarantine first, the tweets last. A crash in between loses and doubles nothing:
the rerun finds the quarantined rows recorded and the accepted ones still to come. The tweets' commit takes the next number of
this application: of two machines that placed rows against the same table, the second to commit places them again.
"""

import dataclasses
import json
import logging
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import pyarrow as pa

from finsent.config import Config, Source
from finsent.data import tables
from finsent.data.audit import count_leaks, naive_leak
from finsent.data.dataset import Audit, fingerprint_rows, read_audit, read_report, report_path
from finsent.data.grouping import Accepted, Placement, Row, place
from finsent.data.quarantine import Quarantined, earlier_conflicts, record
from finsent.data.reading import Reading, read_sources
from finsent.data.splits import SPLITS, SplitRule, split_rule
from finsent.errors import ConfigError, InputError, Refused
from finsent.home import Home
from finsent.labels import LABELS
from finsent.text import forms

_log = logging.getLogger(__name__)

_APPLICATION: Final = "finsent-ingest"


@dataclass(frozen=True)
class IngestReport:
    """Where every row read ended, and the version of the data after it."""

    read: int
    accepted: int
    duplicates: int
    quarantined: int
    reasons: dict[str, int]
    """Quarantined rows by reason."""
    by_source: dict[str, dict[str, int]]
    """read, accepted, duplicates, quarantined of each source."""
    splits: dict[str, dict[str, int]]
    """Rows of the whole version by split and label."""
    groups: int
    """Near-duplicate groups of the whole version."""
    conflicts: int
    """Groups quarantined because their members disagree on the label."""
    leaks: int
    """Exact and near-duplicate pairs across splits; anything but 0 is refused before it is written."""
    naive_leak: float | None
    """Share of test rows that a plain random split would have leaked, over the rows accepted before and all rows read for this
    version, copies included."""
    version: int | None
    """Version of the data after this; None when nothing has ever been accepted."""
    fingerprint: str | None
    """Fingerprint of that version."""
    new_version: bool
    """Whether this ingestion made the version."""
    seconds: float


def ingest(config: Config, home: Home, sources: Sequence[Source] = ()) -> IngestReport:
    """Read, check, deduplicate, split and commit `sources`, or the configured `data.sources` when none are given.

    Raises:
        InputError: a file or column is wrong; nothing was written.
        ConfigError: the data there was split by another rule; nothing was written.
        Refused: the leak audit failed; nothing was written.
    """
    started = time.monotonic()
    sources = tuple(sources) or config.data.sources
    if not sources:
        raise InputError(
            "nothing to ingest: no source was named and `data.sources` is empty. Name a file, folder, glob or hf:// dataset."
        )
    reading = read_sources(sources, config.data, datetime.now(UTC))
    home.lock("ingest").parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(home.lock("ingest")):
        # the lock keeps runs of this home apart, the number of the commit those of other machines on the same tables
        return tables.contend(home, "tweets", _APPLICATION, lambda position: _commit(config, home, reading, started, position))


def _commit(config: Config, home: Home, reading: Reading, started: float, position: tables.Position) -> IngestReport | None:
    """Place, audit and write; None if another run committed in between, which the placement then knows nothing of."""
    rule = split_rule(config.data)
    before = tables.version(home, "tweets")
    stored = tables.read(home, "tweets")
    _check_rule(home, rule)
    accepted = _accepted(stored)
    placement = place(reading.rows, accepted, earlier_conflicts(home), config.data, rule)
    quarantined = [*reading.quarantined, *(Quarantined.of(row, why) for row, why in placement.quarantined)]
    counts = _count(reading, placement, quarantined)
    now = datetime.now(UTC)
    new = _tweets(placement, now)
    everything = pa.concat_tables([stored, new])
    leaks = count_leaks(
        [*accepted.forms, *(row.forms for row, _, _ in placement.accepted)], everything["split"].to_pylist(), config.data
    )
    if leaks:
        raise Refused(
            f"{leaks} duplicate pairs lie across splits, and held-out must mean held-out. Nothing was written. "
            "Was the table changed by hand? Ingest into a new FINSENT_HOME."
        )
    if tables.position(home, "tweets", _APPLICATION).number != position.number:
        return None  # seen before the quarantine is written, what is on record there is right
    record(home, quarantined, now)
    report = IngestReport(
        **counts,
        splits=_by_split(everything),
        groups=len(set(everything["group"].to_pylist())),
        conflicts=placement.conflicts,
        leaks=leaks,
        naive_leak=naive_leak(placement.naive_groups),
        version=before if everything.num_rows else None,
        fingerprint=fingerprint_rows(everything) if everything.num_rows else None,
        new_version=bool(new.num_rows),
        seconds=0.0,
    )
    if new.num_rows:
        written = append_tweets(home, new, position, report, rule)
        if written is None:
            return None
        report = dataclasses.replace(report, version=written.version)
    return _finish(home, report, reading, rule, started)


def append_tweets(
    home: Home, new: pa.Table, position: tables.Position, report: IngestReport, rule: SplitRule
) -> tables.Position | None:
    """Commit accepted rows with what was found out about them; None if another run committed first."""
    audit = Audit(report.leaks, report.naive_leak)
    metadata = {"fingerprint": str(report.fingerprint), "split_rule": json.dumps(rule.describe()), **audit.metadata()}
    return tables.append_next(home, "tweets", new, _APPLICATION, position, metadata)


def _finish(home: Home, report: IngestReport, reading: Reading, rule: SplitRule, started: float) -> IngestReport:
    if report.new_version:
        _log.info("version %s of the data: %d rows accepted", report.version, report.accepted)
    else:
        _log.info("nothing new: no row was accepted, and the data stays at version %s", report.version)
        audit = read_audit(home, report.version, str(report.fingerprint)) if report.version is not None else Audit()
        if audit.leaks is not None:
            # the rows of this version were read by the ingestion that made it: these here are its copies
            report = dataclasses.replace(report, naive_leak=audit.naive_leak)
    report = dataclasses.replace(report, seconds=time.monotonic() - started)
    # the report of a version that an interrupted ingestion left without one is made up for here
    if report.version is not None and (
        report.new_version or read_report(home, report.version).get("fingerprint") != report.fingerprint
    ):
        details: dict[str, Any] = {**dataclasses.asdict(report), "split_rule": rule.describe(), "inputs": reading.inputs}
        path = report_path(home, report.version)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(json.dumps(details, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        part.replace(path)
    return report


def _check_rule(home: Home, rule: SplitRule) -> None:
    """Rows split by two rules in one table could sit on both sides of it."""
    written = tables.last_metadata(home, "tweets", "split_rule")
    there = json.loads(written) if written else {}
    wrong = [
        f"{key} = {value!r} (the data has {there[key]!r})"
        for key, value in rule.describe().items()
        if key in there and there[key] != value
    ]
    if wrong:
        raise ConfigError(
            f"the data in this home was split by another rule: {'; '.join(wrong)}. Set it back under `data`, or use another "
            "FINSENT_HOME: a row must never move between splits."
        )


def _accepted(stored: pa.Table) -> Accepted:
    texts = stored["text"].to_pylist()
    return Accepted(texts, [forms(text) for text in texts], *(stored[name].to_pylist() for name in ("label", "group", "split")))


def _tweets(placement: Placement, now: datetime) -> pa.Table:
    rows = placement.accepted
    return pa.table(
        {
            "id": [row.id for row, _, _ in rows],
            "text": [row.text for row, _, _ in rows],
            "label": [row.label for row, _, _ in rows],
            "source": [row.source for row, _, _ in rows],
            "created_at": [row.created_at for row, _, _ in rows],
            "group": [group for _, group, _ in rows],
            "split": [split for _, _, split in rows],
            "ingested_at": [now] * len(rows),
            "flags": [None] * len(rows),
        },
        schema=tables.SCHEMAS["tweets"],
    )


def _count(reading: Reading, placement: Placement, quarantined: Sequence[Quarantined]) -> dict[str, Any]:
    """Rows by outcome, over all and by source.

    Raises:
        Refused: a row was lost or counted twice, which must never be.
    """
    accepted = _names(row for row, _, _ in placement.accepted)
    duplicates, rejected = _names(placement.duplicates), Counter(item.source for item in quarantined)
    by_source = {
        name: {"read": read, "accepted": accepted[name], "duplicates": duplicates[name], "quarantined": rejected[name]}
        for name, read in reading.read.items()
    }
    for name, n in by_source.items():
        if n["read"] != n["accepted"] + n["duplicates"] + n["quarantined"]:
            raise Refused(
                f"rows of source {name!r} do not add up: {n}. Nothing was written; this is a fault in finsent, please report it."
            )
    totals = {key: sum(n[key] for n in by_source.values()) for key in ("read", "accepted", "duplicates", "quarantined")}
    return {**totals, "by_source": by_source, "reasons": dict(Counter(item.reason for item in quarantined).most_common())}


def _names(rows: Iterable[Row]) -> Counter[str]:
    return Counter(row.source for row in rows)


def _by_split(rows: pa.Table) -> dict[str, dict[str, int]]:
    counts = Counter(zip(rows["split"].to_pylist(), rows["label"].to_pylist(), strict=True))
    return {split: {label: counts[split, label] for label in LABELS} for split in SPLITS}
