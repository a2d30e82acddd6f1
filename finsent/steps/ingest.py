"""Ingestion: labelled sources in, a new version of the table `tweets` out, every row accounted for.

Sources are read whole and checked before anything is written to a table; meanwhile rows lie in a spool on local disk. Under the
home's lock they are then placed, the result is audited for leaks, and three commits follow: the tweets, then the quarantine,
then the signatures that the next ingestion compares with. A crash in between loses and doubles nothing: the rerun meets its own
rows as duplicates, refuses the others again for the same reasons, and records what is not on record. The tweets' commit takes
the next number of this application: of two machines that placed rows against the same table, the second to commit places them
again, and what it had refused until then is forgotten. What was written is read back and held against the audit.
"""

import dataclasses
import json
import logging
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import Config, Source
from finsent.data import tables
from finsent.data.corrections import APPLICATION, apply_decisions, load_decisions
from finsent.data.dataset import (
    FINGERPRINTED,
    RecordedAudit,
    add_fingerprints,
    fingerprint_rows,
    read_audit,
    recorded_report,
    report_path,
)
from finsent.data.dedup.assignment import ACCEPTED, AssignmentResult, NearDuplicateGraph, RowArrays
from finsent.data.dedup.grouping import assign_rows, build_graph, is_in
from finsent.data.dedup.near_duplicates import TemplateLookup
from finsent.data.dedup.signature_index import add_signatures
from finsent.data.existing_rows import Mask, TweetsSnapshot, apply_decisions_to_staged, load_snapshot, template_lookup
from finsent.data.held_out import check_held_out
from finsent.data.ingest_report import (
    IngestReport,
    count_rows,
    known_schemas,
    previous_naive_split,
    report_metadata,
    rows_by_split,
    warn_high_quarantine_rate,
)
from finsent.data.leakage import LeakAudit, audit_splits, group_sizes, naive_split
from finsent.data.quarantine import append_records, earlier_conflicts, input_identity, quarantine_records
from finsent.data.reading import Reading, spool_sources
from finsent.data.splits import SPLIT_CODES, SplitCodes, SplitRule, split_rule, splits_by_source, splits_by_time
from finsent.data.staging import StagedRows, open_staging, readable_batches, rejected_rows
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import ConfigError, InputError, Refused
from finsent.home import Home
from finsent.labels import LABELS

_log = logging.getLogger(__name__)

_MASKED: Final = "masked"


def ingest(config: Config, home: Home, sources: Sequence[Source] = ()) -> IngestReport:
    """Read, check, deduplicate, split and commit `sources`, or the configured `data.sources` when none are given.

    Raises:
        InputError: a file or column is wrong; nothing was written.
        ConfigError: the data there was split by another rule, or a source that is held out is spelled wrongly; nothing was
            written.
        Refused: a source is not what it was, its labels look mapped wrongly, or the leak audit failed; nothing was written.
    """
    started = time.monotonic()
    sources = tuple(sources) or config.data.sources
    if not sources:
        raise InputError(
            "nothing to ingest: no source was named and `data.sources` is empty. Name a file, folder, glob or hf:// dataset."
        )
    from filelock import FileLock

    apply_decisions(home)  # decisions that were recorded and, by a crash, not brought into the data
    with open_staging(home.root / "spool", config.data) as spool:
        reading = spool_sources(sources, config.data, datetime.now(UTC), spool, known_schemas(home))
        spooled = spool.finish([input_identity(item) for item in reading.inputs])
        check_held_out(split_rule(config.data), chain(reading.read, _sources(home, config)))
        home.lock("ingest").parent.mkdir(parents=True, exist_ok=True)
        with FileLock(home.lock("ingest")):
            # the lock keeps runs of this home apart, the number of the commit those of other machines on the same tables
            return tables.retry_on_conflict(
                home, "tweets", APPLICATION, lambda position: _commit(config, home, reading, spooled, started, position)
            )


def _commit(
    config: Config, home: Home, reading: Reading, spooled: StagedRows, started: float, position: tables.Position
) -> IngestReport | None:
    """Place, audit and write; None if another run committed in between, which the placement then knows nothing of."""
    rule = split_rule(config.data)
    _check_rule(home, rule)
    _check_masking(home, config)
    decisions = load_decisions(home)
    stored = load_snapshot(home, config.data, position.version if position.version >= 0 else None)
    before = stored.before
    new, decided, dropped = apply_decisions_to_staged(spooled, decisions)
    graph, texts_of = build_graph(new, before, template_lookup(home, stored, spooled), config.data)
    wanted = _wanted(spooled, rule)
    placement = assign_rows(
        new,
        before,
        graph,
        texts_of,
        config.data,
        rule,
        stay_out=earlier_conflicts(home) - decisions.keys(),
        decided=decided,
        dropped=dropped,
        wanted=wanted,
        times=spooled.times if rule.split == "time" else None,
    )
    taken = placement.outcome == ACCEPTED
    splits = np.concatenate([before.splits, placement.splits[taken]])
    audit = _audit(config, stored, new, graph, texts_of, taken, splits)
    if tables.position(home, "tweets", APPLICATION).number != position.number:
        return None  # what was refused is told of what another run has replaced
    now = datetime.now(UTC)
    refused = quarantine_records(placement.rejections, spooled, before, home, stored.version, masked=config.data.mask_handles)
    added = fingerprint_rows(_tweets(spooled, new, stored, placement, now)) if taken.any() else None
    # what was accepted before and comes again is taken for a second reading, not for a copy
    fresh = ~is_in(new.ids, before.rows.ids)
    components = graph.components[np.concatenate([graph.old_nodes, graph.new_nodes[fresh]])]
    is_new = np.arange(len(components)) >= len(before.rows)
    naive = naive_split(components, is_new, previous_naive_split(home))
    report = IngestReport(
        **count_rows(reading, spooled, placement),
        splits=rows_by_split(splits, np.concatenate([before.rows.labels, new.labels[taken]])),
        groups=len(before.names) + len(np.unique(placement.groups[taken & (placement.groups < len(new))])),
        conflicts=placement.conflicts,
        split_conflicts=placement.split_conflicts,
        group_sizes=group_sizes(components, is_new),
        leaks=audit.leaks,
        audit=audit.describe(),
        naive_leak=naive.leak,
        naive_rows=naive.rows,
        # a table that was only created holds no version of the data; one whose rows were all dropped by review does
        version=stored.version if len(splits) or stored.version else None,
        fingerprint=(add_fingerprints(stored.fingerprint, added) if added else stored.fingerprint)
        if len(splits) or stored.version
        else None,
        new_version=added is not None,
        seconds=time.monotonic() - started,
    )
    written = None
    if added:
        reader = pa.RecordBatchReader.from_batches(SCHEMAS["tweets"], _tweets(spooled, new, stored, placement, now))
        written = append_tweets(home, reader, position, report, rule, reading, config.data.mask_handles)
        if written is None:
            return None
    # no sooner: what a run that lost the race found to contradict may not when it looks again
    append_records(home, lambda: chain(rejected_rows(spooled), refused()), now)
    if added and written:
        _check_written(home, written.version, now, added)
        report = dataclasses.replace(report, version=written.version)
        add_signatures(home, spooled.ids.filter(pa.array(taken)), new.signatures.take(np.flatnonzero(taken)), config.data)
    return _finish(home, report, reading, rule, started)


def _audit(
    config: Config,
    stored: TweetsSnapshot,
    new: RowArrays,
    graph: NearDuplicateGraph,
    texts_of: TemplateLookup,
    taken: Mask,
    splits: SplitCodes,
) -> LeakAudit:
    """The leak audit of the table as it will be.

    Raises:
        Refused: it is not 0.
    """
    used = np.concatenate([graph.old_nodes, graph.new_nodes[taken]])
    cut = np.concatenate([stored.before.rows.signatures.cut, new.signatures.cut[taken]])
    audit = audit_splits(
        used,
        splits,
        graph.signatures.with_cut(used, cut),
        texts_of,
        config.data,
        active=graph.active if stored.audited else None,  # a table changed by other means is audited whole
    )
    if audit.leaks:
        raise Refused(
            f"{audit.leaks} duplicate pairs lie across splits, and held-out must mean held-out. Nothing was written. "
            "Was the table changed by hand? Ingest into a new FINSENT_HOME."
        )
    return audit


def append_tweets(
    home: Home,
    new: pa.RecordBatchReader,
    position: tables.Position,
    report: IngestReport,
    rule: SplitRule,
    reading: Reading,
    masked: bool,
) -> tables.Position | None:
    """Commit accepted rows with what was found out about them; None if another run committed first."""
    audit = RecordedAudit(report.leaks, report.naive_leak)
    metadata = {
        "fingerprint": str(report.fingerprint),
        "split_rule": json.dumps(rule.describe()),
        "report": json.dumps(report_metadata(report, rule, reading), ensure_ascii=False),
        _MASKED: json.dumps(masked),
        **audit.metadata(),
    }
    return tables.append_if_unchanged(home, "tweets", new, APPLICATION, position, metadata)


def _check_written(home: Home, version: int, now: datetime, expected: str) -> None:
    """What stands in the table is what was audited."""
    there = fingerprint_rows(
        tables.batches(home, "tweets", FINGERPRINTED, version=version, filters=pc.field("ingested_at") == pa.scalar(now, _TIME))
    )
    if there != expected:
        raise Refused(
            f"version {version} of the data, read back, is not what was audited (fingerprint {there} in place of {expected}). "
            "Do not train on it: check the storage, and restore the version before."
        )


_TIME: Final = SCHEMAS["tweets"].field("ingested_at").type


def _wanted(spooled: StagedRows, rule: SplitRule) -> SplitCodes | None:
    if rule.split == "time":
        return splits_by_time(spooled.times, rule)
    if rule.split == "source":
        by_source: SplitCodes = splits_by_source(spooled.sources.dictionary.to_pylist(), rule)[spooled.sources.indices.to_numpy()]
        return by_source
    return None


def _sources(home: Home, config: Config) -> list[str]:
    """Names of the sources in the data, where rows are split by them."""
    if config.data.split != "source":
        return []
    found: list[str] = pc.unique(tables.read(home, "tweets", columns=["source"])["source"]).to_pylist()
    return found


def _finish(home: Home, report: IngestReport, reading: Reading, rule: SplitRule, started: float) -> IngestReport:
    if report.new_version:
        _log.info("version %s of the data: %d rows accepted", report.version, report.accepted)
    else:
        _log.info("nothing new: no row was accepted, and the data stays at version %s", report.version)
        audit = read_audit(home, report.version, str(report.fingerprint)) if report.version is not None else RecordedAudit()
        if audit.leaks is not None:
            # the rows of this version were read by the ingestion that made it: these here are its copies
            report = dataclasses.replace(report, naive_leak=audit.naive_leak)
    warn_high_quarantine_rate(report, reading)
    report = dataclasses.replace(report, seconds=time.monotonic() - started)
    if report.version is not None:
        path = report_path(home, report.version)
        # the report of a version that an interrupted ingestion left without one is made up for here; a review's has none
        found = report_metadata(report, rule, reading) if report.new_version else recorded_report(home, report.version)
        if report.new_version or (found and not path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            part.replace(path)
    return report


def _check_rule(home: Home, rule: SplitRule) -> None:
    """Rows split by two rules in one table could sit on both sides of it."""
    written = tables.last_metadata(home, "tweets", "split_rule")
    if written is None:
        return
    there, here = json.loads(written), json.loads(json.dumps(rule.describe()))
    wrong = [
        f"{key} = {here.get(key)!r} (the data has {there.get(key)!r})"
        for key in dict.fromkeys([*here, *there])
        if here.get(key) != there.get(key)
    ]
    if wrong:
        raise ConfigError(
            f"the data in this home was split by another rule: {'; '.join(wrong)}. Set it back under `data`, or use another "
            "FINSENT_HOME: a row must never move between splits."
        )


def _check_masking(home: Home, config: Config) -> None:
    """A home whose owner asked for masked handles gets no others by a setting that was forgotten."""
    if not config.data.mask_handles and tables.last_metadata(home, "tweets", _MASKED) == "true":
        raise ConfigError(
            "this home stores handles masked, and data.mask_handles is false now. Set it to true (--set data.mask_handles=true, "
            "or in the file that FINSENT_CONFIG names), or use another FINSENT_HOME."
        )


def _tweets(
    spooled: StagedRows, new: RowArrays, stored: TweetsSnapshot, placement: AssignmentResult, now: datetime
) -> Iterator[pa.RecordBatch]:
    """The accepted rows, in batches."""
    names = pa.concat_arrays([spooled.ids, stored.before.names])
    codes, labels = pa.array(SPLIT_CODES, pa.string()), pa.array(LABELS, pa.string())
    for start, batch in readable_batches(spooled):
        some = slice(start, start + batch.num_rows)
        kept = placement.outcome[some] == ACCEPTED
        rows = batch.filter(pa.array(kept))
        if not rows.num_rows:
            continue
        columns = {
            **{name: rows.column(name) for name in ("id", "text", "source", "created_at", "flags")},
            "label": labels.take(pa.array(new.labels[some][kept])),
            "group": names.take(pa.array(placement.groups[some][kept])),
            "split": codes.take(pa.array(placement.splits[some][kept])),
            "ingested_at": pa.repeat(pa.scalar(now, _TIME), rows.num_rows),
        }
        schema = SCHEMAS["tweets"]
        yield pa.record_batch([columns[name] for name in schema.names], schema=schema)
