"""Ingestion: reads labelled sources into a new version of the table `tweets`, every row accounted for.

`ingest` is a chain of public parts, so that a flow can run them as tasks: `resolve_sources`, `read_source` for each source,
`group_near_duplicates`, `commit`, `write_report`. All sources are read and checked before a table is written; meanwhile rows lie
in a staging area on local disk. Each part can be retried.

`commit` assigns groups and splits, audits the result for leaks, and makes three commits: tweets, quarantine, signatures. It is
idempotent: after a crash in between, a rerun meets its own rows as duplicates, rejects the others again for the same reasons, and
records what is missing. The commit of the tweets takes the next transaction number of this application: of two machines that
computed on the same version, the second to commit groups its rows again, and discards its first rejections.
"""

import dataclasses
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from itertools import chain

import pyarrow.compute as pc

from finsent.config import Source
from finsent.data import tables
from finsent.data.corrections import INGEST_BUSY, INGEST_WAIT, TWEETS_APPLICATION, apply_decisions
from finsent.data.dataset import RecordedAudit, read_audit
from finsent.data.existing_rows import Grouping, ReadRows, check_heldout_sources, concat_reads, group_with_existing
from finsent.data.ingest_commit import commit_rows
from finsent.data.ingest_report import IngestReport, known_schemas, warn_high_quarantine_rate, write_report_file
from finsent.data.pooled_labels import check_pooled_labels
from finsent.data.quarantine import input_identity
from finsent.data.sources.reading import ResolvedSource, stage_sources
from finsent.data.sources.resolve import require_one_class, resolve
from finsent.data.splits import split_rule
from finsent.data.staging import Staging, open_staging
from finsent.errors import InputError
from finsent.files import locked
from finsent.steps.context import Context

_log = logging.getLogger(__name__)


def ingest(context: Context, sources: Sequence[Source] = (), *, dry_run: bool = False) -> IngestReport:
    """Read, check, deduplicate, split and commit `sources`, or the configured `data.sources` when none are given.

    A dry run does all of it but the commit.

    Raises:
        InputError: a file or column is wrong; nothing was written.
        ConfigError: the data was split by another rule, or a held-out source is misspelled; nothing was written.
        CheckFailed: a source changed its schema, its labels look mapped wrongly, or the leak audit failed; nothing was written.
    """
    with staging_area(context) as staging:
        resolved = resolve_sources(context, sources, dry_run=dry_run)
        grouping = group_near_duplicates(context, [read_source(context, staging, source) for source in resolved])
        report = commit(context, grouping, dry_run=dry_run)
    if dry_run:
        warn_high_quarantine_rate(report, grouping.read.reading)
        return dataclasses.replace(report, seconds=time.monotonic() - grouping.read.started)
    return write_report(context, grouping, report)


def staging_area(context: Context) -> AbstractContextManager[Staging]:
    """Local disk space for the rows of one ingestion; emptied at the end."""
    return open_staging(context.workspace.staging, context.config.data)


def resolve_sources(context: Context, sources: Sequence[Source] = (), *, dry_run: bool = False) -> list[list[ResolvedSource]]:
    """The files to read: one item for each call of `read_source`.

    Sources that share a name are one source, whose schema is checked as a whole: they are read in one call. Review decisions that
    a crash kept from the data are applied first, except in a dry run.

    Raises:
        InputError: no source, or one that is not there; or a table that somebody changed so that nothing can be appended.
    """
    sources = tuple(sources) or context.config.data.sources
    if not sources:
        raise InputError(
            "nothing to ingest: no source was named and `data.sources` is empty. Name a file, folder, glob or hf:// dataset."
        )
    if not dry_run:
        tables.require_writable_tables(context.workspace, ("tweets", "quarantine", "signatures"))
        apply_decisions(context.workspace)
    calls: list[list[ResolvedSource]] = []
    for source in sources:
        files = resolve(source)
        names = {file.name for file in files}
        shared = (at for at, call in enumerate(calls) for _, others in call if names & {file.name for file in others})
        # with all sources in between, so that rows keep their order: of several copies the first is kept
        first = next(shared, len(calls))
        calls[first:] = [[*chain.from_iterable(calls[first:]), (source, files)]]
    require_one_class(file for call in calls for _, files in call for file in files)
    return calls


def read_source(context: Context, staging: Staging, source: Sequence[ResolvedSource]) -> ReadRows:
    """Read one item of `resolve_sources` into the staging area.

    Raises:
        InputError: a file, a column or all labels are wrong.
        CheckFailed: the source changed its schema, or its labels look mapped wrongly.
    """
    with staging.writer() as writer:
        reading = stage_sources(source, context.config.data, datetime.now(UTC), writer, known_schemas(context.workspace))
        staged = writer.finish([input_identity(item) for item in reading.inputs])
    return ReadRows(reading, staged, staging.started)


def group_near_duplicates(context: Context, parts: Sequence[ReadRows]) -> Grouping:
    """Group all rows read with those of the table as it stands now.

    Raises:
        ConfigError: the data was split by another rule or has masked handles, or a held-out source is misspelled.
        InputError: a label or a split in the table is unknown.
        CheckFailed: the labels of what one map was used for look mapped wrongly.
    """
    read, rule = concat_reads(parts, context.config.data), split_rule(context.config.data)
    stored = (
        pc.unique(tables.read(context.workspace, "tweets", columns=["source"])["source"]).to_pylist()
        if rule.split == "source"
        else []
    )
    check_heldout_sources(rule, chain(read.reading.read, stored))
    if context.config.data.check_labels:
        check_pooled_labels(context.workspace, read.reading.polarity)
    with locked(context.workspace.lock("ingest"), INGEST_WAIT, INGEST_BUSY):
        position = tables.position(context.workspace, "tweets", TWEETS_APPLICATION)
        return group_with_existing(context.workspace, context.config.data, rule, read, position)


def commit(context: Context, grouping: Grouping, *, dry_run: bool = False) -> IngestReport:
    """Assign groups and splits, audit, and write; the rows are grouped again where the table changed in between.

    Raises:
        ConfigError: the data was split by another rule or has masked handles.
        CheckFailed: the leak audit failed, rows do not add up, or other runs kept committing first: nothing was written. Or the
            rows, read back, differ from those audited.
    """

    def attempt(position: tables.Position) -> IngestReport | None:
        current = grouping
        if position != grouping.position:
            current = group_with_existing(
                context.workspace, context.config.data, split_rule(context.config.data), grouping.read, position
            )
        return commit_rows(context.workspace, context.config.data, current, dry_run=dry_run)

    # the lock keeps runs of this context.workspace apart, the transaction number those of other machines on the same tables
    with locked(context.workspace.lock("ingest"), INGEST_WAIT, INGEST_BUSY):
        return tables.retry_on_conflict(context.workspace, "tweets", TWEETS_APPLICATION, attempt)


def write_report(context: Context, grouping: Grouping, report: IngestReport) -> IngestReport:
    """Write the report file of the version, and warn where much was quarantined; returns the final report."""
    reading = grouping.read.reading
    if report.new_version:
        _log.info("version %s of the data: %d rows accepted", report.version, report.accepted)
    else:
        stays = "there is no data yet" if report.version is None else f"the data stays at version {report.version}"
        _log.info("nothing new: no row was accepted, and %s", stays)
        audit = (
            RecordedAudit() if report.version is None else read_audit(context.workspace, report.version, str(report.fingerprint))
        )
        if audit.leaks is not None:
            # the version was made by an earlier ingestion, and these rows are copies of its rows
            report = dataclasses.replace(report, naive_leak=audit.naive_leak)
    warn_high_quarantine_rate(report, reading)
    report = dataclasses.replace(report, seconds=time.monotonic() - grouping.read.started)
    write_report_file(context.workspace, report, split_rule(context.config.data), reading)
    return report
