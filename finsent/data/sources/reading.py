"""Reads sources through row validation: into staging for an ingestion; `labelled_file` reads them into memory."""

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final

from finsent.config import DataConfig, Source
from finsent.data.pooled_labels import SourcePolarity
from finsent.data.sources.broken_rows import BrokenRows
from finsent.data.sources.column_times import SourceTimes, with_time_form
from finsent.data.sources.file_counts import FileCounts, count_file
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.records import QuarantinedRow, RawRow, RequestedColumns, Row, SourceFile, labelled_columns
from finsent.data.sources.whole_text import OBJECTS, columns_beside
from finsent.data.staging import StagingWriter
from finsent.data.validation.dates import is_missing
from finsent.data.validation.label_check import PolarityStats, check_label_polarity, format_label_mismatch
from finsent.data.validation.label_mapping import check_label, label_key, parse_label
from finsent.data.validation.label_values import check_label_values, label_map_advice
from finsent.data.validation.language import check_language
from finsent.data.validation.row_validation import Reason, Rejection, check_id, check_time, reject_json
from finsent.data.validation.schema_drift import SourceSchema, compare_schemas, format_drift, removal_hint, source_schema
from finsent.data.validation.text_cleaning import WHOLE_TAKEN, CleanText, clean_text, mask_handles, mask_raw_handles
from finsent.data.validation.text_repair import FLAG_SEPARATOR, text_flags
from finsent.errors import CheckFailed, InputError, escape_invalid, format_names, quoted, shorten
from finsent.logging_setup import track
from finsent.text import forms

_log = logging.getLogger(__name__)

_DATE_LIKE: Final = re.compile(r"date|time|posted|created|published|_at$", re.IGNORECASE)
_MAX_QUARANTINED_CHARS: Final = 2000
_MIN_LABEL_SHARE: Final = 0.005
"""Share of a source's rows from which an unknown label value belongs to its schema; a rarer one is a fault of its rows."""


@dataclass(frozen=True)
class ReadSummary:
    """Counts and records of what some sources held; the rows themselves are staged."""

    read: Counter[str] = field(default_factory=Counter)
    """Rows read, by source."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Invalid rows, by source."""
    unlabelled: Counter[str] = field(default_factory=Counter)
    """Rows without a label, by source."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Invalid rows, by reason."""
    flags: Counter[str] = field(default_factory=Counter)
    """Valid rows, by flag."""
    inputs: list[dict[str, str | int]] = field(default_factory=list)
    """Address, size and hash of each file, see `formats.fingerprint_file`."""
    schemas: dict[str, dict[str, Any]] = field(default_factory=dict)
    """`SourceSchema` of each source, as a dictionary."""
    unknown_labels: dict[str, dict[str, int]] = field(default_factory=dict)
    """Rows by label value that has no class, the most frequent first; by source."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Files of which no row could be read, and what to do about each."""
    polarity: list[SourcePolarity] = field(default_factory=list)
    """What the label check gathered, of each configured source."""
    unread_columns: dict[str, list[str]] = field(default_factory=dict)
    """Columns that are not read, of sources that are read for the first time."""
    unread_dates: dict[str, str] = field(default_factory=dict)
    """One of them that is called as dates are, of each source that none are read of."""
    files: list[FileCounts] = field(default_factory=list)
    """What each file held."""
    left_out: list[str] = field(default_factory=list)
    """Files of folders whose endings are not read."""

    def count(self, name: str, read: int, good: Sequence[Row], bad: Sequence[QuarantinedRow]) -> None:
        """Count a batch of the source with this name."""
        self.read[name] += read
        self.rejected[name] += len(bad)
        self.unlabelled[name] += read - len(good) - len(bad)
        self.reasons.update(row.reason for row in bad)
        self.flags.update(flag for row in good if row.flags is not None for flag in row.flags.split(FLAG_SEPARATOR))


ResolvedSource = tuple[Source, tuple[SourceFile, ...]]
"""A source and its files."""


def stage_sources(
    sources: Sequence[ResolvedSource],
    config: DataConfig,
    now: datetime,
    writer: StagingWriter,
    schemas: Mapping[str, SourceSchema] = MappingProxyType({}),
) -> ReadSummary:
    """Read every source to its end. Writes to no table.

    Args:
        sources: What to read.
        config: Rules for rows and sources.
        now: Current time.
        writer: Receives the rows.
        schemas: Schema of each source when it was last read, by its name.

    Raises:
        InputError: a file, a column or all labels of a source are wrong.
        CheckFailed: a source's schema drifted, or its labels look mapped wrongly.
    """
    summary = ReadSummary()
    last_index = {file.name: index for index, (_, files) in enumerate(sources) for file in files}
    stats: dict[str, _SourceStats] = {}
    for index, (source, files) in enumerate(sources):
        polarity, labels = PolarityStats(), defaultdict[str, Counter[str]](Counter)
        times = SourceTimes(files)
        for file in files:
            found = stats.setdefault(file.name, _SourceStats(file))
            wanted, seen = replace(labelled_columns(file.source), seen_columns=found.columns), Counter[str]()
            broken, counts = BrokenRows(), count_file(file)
            summary.left_out.extend(file.left_out)
            summary.files.append(counts)
            try:
                batches = read_validated(file, config, now, seen, wanted, times)
                for n, good, bad in track(batches, description=file.label, unit="batch"):
                    writer.add(good, bad, len(summary.inputs))
                    polarity.add((row.label, row.text) for row in good)
                    summary.count(file.name, n, good, bad)
                    counts.add(n, len(good), bad)
                    broken.add(n, bad)
            except InputError as error:
                found.add(file.source, wanted, seen)
                # a missing column may have been renamed: then the schema drift is the better message
                if config.check_schema and file.name in schemas and found.columns:
                    _check_schema_drift(schemas[file.name], found.schema(schemas[file.name]), file, error)
                raise
            found.add(file.source, wanted, seen)
            labels[file.name].update(seen)
            if (advice := broken.advice(file)) is not None:
                summary.unreadable[file.uri] = advice
            summary.inputs.append(fingerprint_file(file))
        _check_values_by_file(source, labels, schemas, check=config.check_labels)
        for name in dict.fromkeys(file.name for file in files):
            if last_index[name] == index:  # else a later source has the same name: they count as one
                _record_schema(stats[name], schemas.get(name), summary, check=config.check_schema)
        summary.polarity.append(SourcePolarity(tuple(dict.fromkeys(file.name for file in files)), source.labels, polarity))
        if config.check_labels and (mismatch := check_label_polarity(polarity, source.labels)):
            raise CheckFailed(format_label_mismatch(mismatch, files[0].name))
    return summary


def _check_values_by_file(
    source: Source, seen: Mapping[str, Counter[str]], schemas: Mapping[str, SourceSchema], *, check: bool
) -> None:
    """Check the values of a folder's files: those of new files apart, which a file that is known must not excuse."""
    everywhere, of_known, of_new = Counter[str](), Counter[str](), Counter[str]()
    known = [name for name in seen if name in schemas]
    for name, counts in seen.items():
        everywhere.update(counts)
        (of_known if name in schemas else of_new).update(counts)
    if not check or not known:
        check_values(source, everywhere, schemas[known[0]] if known else None, check=check)
        return
    check_values(source, of_known, schemas[known[0]], everywhere, check=check)
    check_values(source, of_new, None, everywhere, check=check)


def check_values(
    source: Source,
    seen: Counter[str],
    before: SourceSchema | None = None,
    everywhere: Container[str] = frozenset(),
    *,
    check: bool,
) -> None:
    """With `check` on first sight alone: later, new values are a drift of the schema, and known ones were accepted."""
    try:
        warnings = check_label_values(source, seen, everywhere, check=check and before is None)
    except InputError as error:
        if before is None:
            raise
        was = f"Until now the labels of the source {before.name!r} were {format_names(before.labels)}."
        raise InputError(f"{error} {was} {removal_hint(before.name)}") from error
    for warning in warnings:
        _log.warning("%s", warning)


@dataclass
class _SourceStats:
    """Columns and labels found under one source name, over all its files."""

    file: SourceFile
    """The first of them."""
    columns: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    """Rows by label value."""
    label_mapping: dict[str, str] = field(default_factory=dict)
    """Label value to its class: values that occurred, and those of the source's mapping."""

    def add(self, source: Source, wanted: RequestedColumns, seen: Counter[str]) -> None:
        """Add what a file had."""
        if source.label_bins is not None:
            seen = Counter()  # scores are no vocabulary
        self.seen += seen
        columns = wanted.required | wanted.optional
        self.roles |= {role: column for role, column in columns.items() if column in wanted.seen_columns}
        self.label_mapping |= source.labels or {}
        self.label_mapping |= {value: label for value in seen if (label := parse_label(value, source.labels)) is not None}

    def schema(self, before: SourceSchema | None) -> SourceSchema:
        """The source's schema, to be stored and compared with the one `before`.

        Of unknown label values it has those that were stored before or are at least `_MIN_LABEL_SHARE` of the rows; rarer ones
        end in the quarantine, and are still new when more of them come. Mappings of values absent this time are kept.
        """
        stored = {} if before is None else before.label_mapping
        known = self.label_mapping.keys() | stored.keys() | set(() if before is None else before.labels)
        least = _MIN_LABEL_SHARE * self.seen.total()
        values = [value for value, n in self.seen.items() if value in known or n >= least]
        absent = {value: label for value, label in stored.items() if value not in self.seen}
        return source_schema(self.file.name, self.columns, values, self.roles, absent | self.label_mapping)


def _record_schema(found: _SourceStats, before: SourceSchema | None, summary: ReadSummary, *, check: bool) -> None:
    schema = found.schema(before)
    summary.schemas[schema.name] = asdict(schema)
    if before is None:
        taken = WHOLE_TAKEN in summary.flags
        beside = {*columns_beside(found.file.source.text, schema.columns).values(), *OBJECTS} if taken else set()
        read = beside.union(schema.roles.values())
        parents = {name[:at] for name in schema.columns for at, mark in enumerate(name) if mark == "."}
        unread = [name for name in schema.columns if name not in read | parents]
        summary.unread_columns[schema.name] = unread
        if "created_at" not in schema.roles and (dates := [name for name in unread if _DATE_LIKE.search(name)]):
            summary.unread_dates[schema.name] = dates[0]
    unknown = {value: n for value, n in found.seen.most_common() if value and value not in found.label_mapping}
    summary.unknown_labels[schema.name] = unknown
    if check and before is not None:
        _check_schema_drift(before, schema, found.file, seen=found.seen)


def _check_schema_drift(
    before: SourceSchema,
    now: SourceSchema,
    file: SourceFile,
    error: InputError | None = None,
    seen: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Refuse a source that lost a column or has a label that is unmapped or remapped; log other changes.

    Not lost: a column that another one was configured to replace, which is the remedy that the message names; and in JSON
    Lines a key that is absent, unless it was read.
    """
    drift = compare_schemas(before, now)
    if drift is None:
        return
    replaced = {before.roles.get(role) for role, column in now.roles.items() if before.roles.get(role) != column}
    required = before.columns if file.format != "jsonl" else tuple(before.roles.values())
    removed = tuple(column for column in drift.removed if column not in replaced and column in required)
    new_labels = tuple(label for label in drift.new_labels if label not in now.label_mapping)
    drift = replace(drift, removed=removed, new_labels=new_labels)
    if drift.blocks:
        known = file.source.model_copy(update={"labels": {**before.label_mapping, **(file.source.labels or {})}})
        values = {value: n for value, n in seen.items() if value in now.labels}
        advice = label_map_advice(known, values) if new_labels else ""
        raise CheckFailed(format_drift(drift, advice)) from error
    if drift.added or drift.role_changes:
        _log.warning("%s", format_drift(drift))


def read_validated(
    file: SourceFile,
    config: DataConfig,
    now: datetime,
    seen: Counter[str],
    wanted: RequestedColumns,
    times: SourceTimes | None = None,
) -> Iterator[tuple[int, list[Row], list[QuarantinedRow]]]:
    """Rows of a file in batches: number of rows read, the valid ones, the invalid ones. The others have no label.

    Args:
        file: A file of a source.
        config: Rules for rows.
        now: Current time.
        seen: Counts the label values that occur.
        wanted: The columns to read, see `labelled_columns`.
        times: What the files of its source show of their dates.
    """
    for batch, form in with_time_form(read_rows(file, wanted), file, now, times, needed=config.split == "time"):
        seen.update(label_key(raw.label) for raw in batch if raw.fault is None and not _has_no_label(raw, file.source))
        good, bad = [], []
        for raw in batch:
            row = _validate(raw, file, config, now, form)
            if row is None:
                continue
            if isinstance(row, Rejection):
                bad.append(quarantine_row(raw, row, file, mask=config.mask_handles))
            else:
                good.append(row)
        yield len(batch), good, bad


def _validate(raw: RawRow, file: SourceFile, config: DataConfig, now: datetime, time_form: str | None) -> Row | Rejection | None:
    """The row, why it is rejected, or None where it has no label."""
    fields = _validate_fields(raw, file.source, config, now, time_form)
    if fields is None or isinstance(fields, Rejection):
        return fields
    (text, noticed), label, created_at, date_flag = fields
    if (foreign := check_language(text, config.languages)) is not None:
        return foreign
    if config.mask_handles:
        text = mask_handles(text)
    source_id = check_id(raw.id)
    id_flag, source_id = (source_id.reason, None) if isinstance(source_id, Rejection) else (None, source_id)
    flags = text_flags(text, *noticed, date_flag, id_flag)
    return Row(file.name, file.label, raw.number, text, label, created_at, forms(text), flags, source_id)


def _validate_fields(
    raw: RawRow, source: Source, config: DataConfig, now: datetime, form: str | None
) -> tuple[CleanText, str, datetime | None, Reason | None] | Rejection | None:
    """Text, label and time, and what is wrong with the time where the row is taken without it; None where it has no label."""
    if (fault := raw.fault or reject_json(raw.text)) is not None:
        return fault
    text = clean_text(raw.text, config.max_characters, repaired=config.repair_mojibake, whole=raw.whole)
    if isinstance(text, Rejection):
        return text
    if source.label_value is None and _has_no_label(raw, source):
        return None
    label = source.label_value or check_label(raw.label, source.labels, source.label_bins)
    if isinstance(label, Rejection):
        return label
    created_at = check_time(raw.created_at, now, form)
    if created_at is None and config.split == "time":
        created_at = Rejection("no date", "rows are split by time (data.split), and this one has none")
    if not isinstance(created_at, Rejection):
        return text, label, created_at, None
    return created_at if config.split == "time" else (text, label, None, created_at.reason)


def _has_no_label(raw: RawRow, source: Source) -> bool:
    """Whether the label is blank, or `none` and the like where the map gives that no meaning."""
    return is_missing(raw.label) and parse_label(raw.label, source.labels) is None


def quarantine_row(raw: RawRow, why: Rejection, file: SourceFile, *, mask: bool = False) -> QuarantinedRow:
    """A row for the quarantine: its text as valid UTF-8, truncated where it is very long; handles masked with `mask`."""
    text, detail = "" if raw.text is None else raw.text, why.detail
    if not isinstance(text, str):
        try:
            text = str(text)
        except (ValueError, RecursionError):  # numbers of thousands of digits, endless nests
            text = quoted(text)
    text = shorten(escape_invalid(text), _MAX_QUARANTINED_CHARS)
    if mask:
        # an unreadable text is shown with escapes in it, and has no identity to preserve
        is_raw = raw.fault is not None or why.reason in ("bad encoding", "not a string")
        text, detail = (mask_raw_handles if is_raw else mask_handles)(text), mask_raw_handles(detail)
    return QuarantinedRow(file.name, file.label, raw.number, text, why.reason, detail)
