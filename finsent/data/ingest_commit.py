"""Commits grouped rows: assignment, leak audit, then the tables tweets, quarantine and signatures, in that order.

A crash in between loses and doubles nothing: a rerun meets its own rows as duplicates, rejects the others again for the same
reasons, and records what is missing.
"""

import dataclasses
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig
from finsent.data import tables
from finsent.data.corrections import TWEETS_APPLICATION
from finsent.data.dataset import FINGERPRINTED, RecordedAudit, fingerprint_rows
from finsent.data.dedup.assignment import ACCEPTED, AssignmentResult
from finsent.data.dedup.grouping import assign_rows
from finsent.data.dedup.signature_index import add_signatures
from finsent.data.existing_rows import MASKED_KEY, Grouping
from finsent.data.ingest_report import IngestReport, build_report, report_metadata
from finsent.data.leakage import LeakAudit, audit_splits
from finsent.data.quarantine import append_records, quarantine_records
from finsent.data.splits import SPLIT_CODES, requested_splits, split_rule
from finsent.data.table_schemas import SCHEMAS, CommitKey
from finsent.errors import CheckFailed
from finsent.labels import LABELS
from finsent.workspace import Workspace

_TIME: Final = SCHEMAS["tweets"].field("ingested_at").type


def commit_rows(home: Workspace, config: DataConfig, grouping: Grouping, *, dry_run: bool = False) -> IngestReport | None:
    """Assign, audit and write, the last not in a dry run; None if another run committed since the rows were grouped.

    Raises:
        CheckFailed: the leak audit failed or rows do not add up, and nothing was written; or the rows, read back, differ from
            those audited.
    """
    staged, new, rule = grouping.read.staged, grouping.rows.new, split_rule(config)
    times = staged.times if rule.split == "time" else None
    result = assign_rows(grouping.rows, config, rule, requested_splits(staged.times, staged.sources, rule), times)
    accepted = result.outcome == ACCEPTED
    audit = _audit(config, grouping, result)
    if tables.position(home, "tweets", TWEETS_APPLICATION).number != grouping.position.number:
        return None  # the rejections refer to rows that another run has replaced
    now = datetime.now(UTC)
    existing, version = grouping.existing.rows, grouping.existing.version
    rejected = quarantine_records(result.rejections, staged, existing, home, version, masked=config.mask_handles)
    added = fingerprint_rows(_accepted_batches(grouping, result, now)) if accepted.any() else None
    report = build_report(home, grouping, result, audit, added)
    if dry_run:
        return dataclasses.replace(report, dry_run=True, new_version=False)
    if added:
        rows = pa.RecordBatchReader.from_batches(SCHEMAS["tweets"], _accepted_batches(grouping, result, now))
        version = append_tweets(home, rows, grouping, report, config)
        if version is None:
            return None
        report = dataclasses.replace(report, version=version)
    # only now: a run that lost the race may not find the same contradictions when it groups again
    append_records(home, lambda: chain(staged.rejected_rows(), rejected()), now)
    if added and version is not None:
        _check_written(home, version, now, added)
        add_signatures(home, new.ids.filter(pa.array(accepted)), new.signatures.take(np.flatnonzero(accepted)), config)
    return report


def _audit(config: DataConfig, grouping: Grouping, result: AssignmentResult) -> LeakAudit:
    """The leak audit of the table as it will be.

    Raises:
        CheckFailed: it found a leak.
    """
    rows, accepted = grouping.rows, result.outcome == ACCEPTED
    nodes = np.concatenate([rows.graph.old_nodes, rows.graph.new_nodes[accepted]])
    cut = np.concatenate([rows.existing.rows.signatures.truncated, rows.new.signatures.truncated[accepted]])
    audit = audit_splits(
        nodes,
        np.concatenate([rows.existing.splits, result.splits[accepted]]),
        rows.graph.signatures.with_truncated(nodes, cut),
        rows.templates,
        config,
        active=rows.graph.active if grouping.existing.audited else None,  # a table changed by other means is audited whole
    )
    if audit.leaks:
        raise CheckFailed(
            f"{audit.leaks} duplicate pairs lie across splits, and held-out must mean held-out. Nothing was written. "
            "Either an earlier release split these rows, whose near-duplicate form told texts apart by punctuation, or "
            "the table was changed by hand. Ingest all sources again into a new FINSENT_HOME, and train again there."
        )
    return audit


def append_tweets(
    home: Workspace, rows: pa.RecordBatchReader, grouping: Grouping, report: IngestReport, config: DataConfig
) -> int | None:
    """Commit accepted rows with their report and audit; the new version, or None if another run committed first."""
    rule = split_rule(config)
    metadata: dict[CommitKey, str] = {
        "fingerprint": str(report.fingerprint),
        "split_rule": json.dumps(rule.describe()),
        "report": json.dumps(report_metadata(report, rule, grouping.read.reading), ensure_ascii=False),
        MASKED_KEY: json.dumps(config.mask_handles),
        **RecordedAudit(report.leaks, report.naive_leak).metadata(),
    }
    written = tables.append_if_unchanged(home, "tweets", rows, TWEETS_APPLICATION, grouping.position, metadata)
    return None if written is None else written.version


def _check_written(home: Workspace, version: int, now: datetime, expected: str) -> None:
    """Compare the rows read back with those that were audited."""
    ours = pc.field("ingested_at") == pa.scalar(now, _TIME)
    there = fingerprint_rows(tables.batches(home, "tweets", FINGERPRINTED, version=version, filters=ours))
    if there != expected:
        raise CheckFailed(
            f"version {version} of the data, read back, is not what was audited (fingerprint {there} in place of {expected}). "
            "Do not train on it: check the storage, and restore the version before."
        )


def _accepted_batches(grouping: Grouping, result: AssignmentResult, now: datetime) -> Iterator[pa.RecordBatch]:
    """The accepted rows as the table `tweets` has them."""
    new = grouping.rows.new
    groups = pa.concat_arrays([new.ids, grouping.rows.existing.names])
    codes, labels = pa.array(SPLIT_CODES, pa.string()), pa.array(LABELS, pa.string())
    for start, batch in grouping.read.staged.numbered_batches():
        some = slice(start, start + batch.num_rows)
        kept = result.outcome[some] == ACCEPTED
        rows = batch.filter(pa.array(kept))
        if not rows.num_rows:
            continue
        columns = {
            **{name: rows.column(name) for name in ("id", "text", "source", "created_at", "flags", "source_id")},
            "label": labels.take(pa.array(new.labels[some][kept])),
            "group": groups.take(pa.array(result.groups[some][kept])),
            "split": codes.take(pa.array(result.splits[some][kept])),
            "ingested_at": pa.repeat(pa.scalar(now, _TIME), rows.num_rows),
        }
        yield pa.record_batch([columns[name] for name in SCHEMAS["tweets"].names], schema=SCHEMAS["tweets"])
