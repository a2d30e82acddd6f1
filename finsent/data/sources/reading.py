"""From sources to rows that are readable and rows that are not. Nothing is written to a table here."""

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from finsent.config import Config, DataConfig, Source
from finsent.data.dataset import Split
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import QuarantinedRow, Row
from finsent.data.sources.resolve import RawRow, RequestedColumns, SourceFile, fingerprint_file, labelled_columns, resolve
from finsent.data.staging import StagingWriter
from finsent.data.validation.label_check import PolarityStats, check_label_polarity, format_label_mismatch
from finsent.data.validation.language import check_language
from finsent.data.validation.row_validation import (
    Rejection,
    check_label,
    check_text,
    check_time,
    label_key,
    parse_label,
    quoted,
    shorten,
)
from finsent.data.validation.schema_drift import SourceSchema, compare_schemas, format_drift, schema_to_dict, source_schema
from finsent.data.validation.text_cleaning import mask_handles, mask_raw_handles, repair_mojibake
from finsent.errors import InputError, Refused
from finsent.labels import LABEL2ID
from finsent.progress import track
from finsent.text import forms

_log = logging.getLogger(__name__)

_MAX_QUARANTINED_CHARS: Final = 2000
_MIN_LABEL_SHARE: Final = 0.005


@dataclass(frozen=True)
class ReadSummary:
    """What some sources held, besides the rows."""

    read: Counter[str]
    """Rows read of each source."""
    rejected: Counter[str]
    """Rows of each source that cannot be used."""
    reasons: Counter[str]
    """Those by reason."""
    flags: Counter[str]
    """Readable rows by what was noticed about them."""
    inputs: list[dict[str, str | int]]
    """What was read: address, size and hash of each file."""
    schemas: dict[str, dict[str, Any]]
    """Columns and label values of each source, see `finsent.data.validation.schema_drift`."""
    unknown_labels: dict[str, dict[str, int]]
    """Rows of each source by label value that is not understood, the most frequent first."""


ResolvedSource = tuple[Source, tuple[SourceFile, ...]]
"""A source and its files."""


def stage_sources(
    sources: Sequence[ResolvedSource],
    config: DataConfig,
    now: datetime,
    spool: StagingWriter,
    schemas: Mapping[str, SourceSchema] = MappingProxyType({}),
) -> ReadSummary:
    """Read every source to its end.

    Args:
        sources: What to read.
        config: What is asked of a row.
        now: Our clock.
        spool: Takes the rows.
        schemas: What each source looked like when it was read before, by its name.

    Raises:
        InputError: a file, a column or all labels of a source are wrong.
        Refused: a source is not what it was, or its labels look mapped wrongly.
    """
    reading = ReadSummary(Counter(), Counter(), Counter(), Counter(), [], {}, {})
    resolved = [[(source, file) for file in files] for source, files in sources]
    last = {file.name: number for number, files in enumerate(resolved) for _, file in files}
    met: dict[str, _SourceStats] = {}
    for place, files in enumerate(resolved):
        polarity, labels = PolarityStats(), Counter[str]()
        for source, file in files:
            found = met.setdefault(file.name, _SourceStats(file))
            wanted, seen = replace(labelled_columns(source), seen_columns=found.columns), Counter[str]()
            try:
                for number, good, bad in track(
                    read_validated(file, source, config, now, seen, wanted), description=file.label, unit="batch"
                ):
                    spool.add(good, bad, len(reading.inputs))
                    polarity.add((row.label, row.text) for row in good)
                    reading.read[file.name] += number
                    reading.rejected[file.name] += len(bad)
                    reading.reasons.update(row.reason for row in bad)
                    reading.flags.update(row.flags for row in good if row.flags is not None)
            except InputError as error:
                found.add(source, wanted, seen)
                # a column that is missing may be one that was renamed: then what changed says more
                if config.check_schema and file.name in schemas and found.columns:
                    _check_schema_drift(schemas[file.name], _observed_schema(found, schemas.get(file.name)), file, error)
                raise
            found.add(source, wanted, seen)
            labels.update(seen)
            reading.inputs.append(fingerprint_file(file))
        source, file = files[0]
        check_labels(source, labels)
        for name in dict.fromkeys(file.name for _, file in files):
            if last[name] != place:
                continue  # another source of that name follows: they are one
            schema = _observed_schema(met[name], schemas.get(name))
            reading.schemas[name] = schema_to_dict(schema)
            odd = ((value, n) for value, n in met[name].seen.most_common() if value and value not in met[name].label_mapping)
            reading.unknown_labels[name] = dict(odd)
            if config.check_schema and name in schemas:
                _check_schema_drift(schemas[name], schema, met[name].file)
        if config.check_labels and (implausible := check_label_polarity(polarity, source.labels)):
            raise Refused(format_label_mismatch(implausible, file.name))
    return reading


@dataclass
class _SourceStats:
    """What was met under one name: that of a file, or the one given to several."""

    file: SourceFile
    """The first of them."""
    columns: list[str] = field(default_factory=list)
    roles: dict[str, str] = field(default_factory=dict)
    seen: Counter[str] = field(default_factory=Counter)
    """Rows by label value."""
    label_mapping: dict[str, str] = field(default_factory=dict)
    """Label value to the class that it is read as: those that came, and those of the source's mapping."""

    def add(self, source: Source, wanted: RequestedColumns, seen: Counter[str]) -> None:
        """Take in what a file had."""
        self.seen += seen
        self.roles |= {
            role: column for role, column in (wanted.required | wanted.optional).items() if column in wanted.seen_columns
        }
        self.label_mapping |= source.labels or {}
        self.label_mapping |= {value: label for value in seen if (label := parse_label(value, source.labels)) is not None}


def _observed_schema(met: _SourceStats, before: SourceSchema | None) -> SourceSchema:
    """What is remembered of a source, and compared with what was.

    Of label values that are not understood those alone that were remembered before or are `_RARE` or more of the rows: a rarer
    one is a row's fault, ends in the quarantine, and is no known one when more of it come. Of meanings those from before too.
    """
    known = frozenset[str]() if before is None else frozenset(before.labels) | before.label_mapping.keys()
    rows = met.seen.total()
    values = [
        value for value, n in met.seen.items() if value in met.label_mapping or value in known or n >= _MIN_LABEL_SHARE * rows
    ]
    kept = {} if before is None else {value: label for value, label in before.label_mapping.items() if value not in met.seen}
    return source_schema(met.file.name, met.columns, values, met.roles, kept | met.label_mapping)


def _check_schema_drift(before: SourceSchema, now: SourceSchema, file: SourceFile, error: InputError | None = None) -> None:
    """Stop when the source lost a column, or has a label without a meaning, or with another one than before; tell other changes.

    A key that does not come again in JSON lines is no column lost, unless it was read. Nor is a column whose place another
    takes that was named for it: that is what this message asks for.
    """
    drift = compare_schemas(before, now)
    if drift is None:
        return
    replaced = {before.roles.get(role) for role, column in now.roles.items() if before.roles.get(role) != column}
    gone = tuple(
        column
        for column in drift.removed
        if column not in replaced and (file.format != "jsonl" or column in before.roles.values())
    )
    drift = replace(drift, removed=gone, new_labels=tuple(label for label in drift.new_labels if label not in now.label_mapping))
    if drift.blocks:
        raise Refused(format_drift(drift)) from error
    if drift.added or drift.role_changes:
        _log.warning("%s", format_drift(drift))


def read_validated(
    file: SourceFile, source: Source, config: DataConfig, now: datetime, seen: Counter[str], wanted: RequestedColumns
) -> Iterator[tuple[int, list[Row], list[QuarantinedRow]]]:
    """Rows of a file in batches: how many were read, those that are readable, those that are not.

    Args:
        file: A file of the source.
        source: As configured.
        config: What is asked of a row.
        now: Our clock.
        seen: Counts the label values that were met.
        wanted: The columns that are read, see `labelled`.
    """
    for batch in read_rows(file, wanted):
        seen.update(label_key(raw.label) for raw in batch if raw.fault is None)
        good, bad = [], []
        for raw in batch:
            row = _validate(raw, file, source.labels, config, now)
            if isinstance(row, Rejection):
                bad.append(quarantine_row(raw, row, file, mask=config.mask_handles))
            else:
                good.append(row)
        yield len(batch), good, bad


def _validate(
    raw: RawRow, file: SourceFile, labels: Mapping[str, str] | None, config: DataConfig, now: datetime
) -> Row | Rejection:
    fields = _validate_fields(raw, labels, config, now)
    if isinstance(fields, Rejection):
        return fields
    text, label, created_at = fields
    text, flag = _repair(text, config)
    if (foreign := check_language(text, config.languages)) is not None:
        return foreign
    if config.mask_handles:
        text = mask_handles(text)
    return Row(file.name, file.label, raw.number, text, label, created_at, forms(text), flag)


def _validate_fields(
    raw: RawRow, labels: Mapping[str, str] | None, config: DataConfig, now: datetime
) -> tuple[str, str, datetime | None] | Rejection:
    if raw.fault is not None:
        return raw.fault
    text = check_text(raw.text, config.max_characters)
    if isinstance(text, Rejection):
        return text
    label = check_label(raw.label, labels)
    if isinstance(label, Rejection):
        return label
    created_at = check_time(raw.created_at, now)
    if created_at is None and config.split == "time":
        return Rejection("no date", "rows are split by time (data.split), and this one has none")
    return created_at if isinstance(created_at, Rejection) else (text, label, created_at)


def _repair(text: str, config: DataConfig) -> tuple[str, str | None]:
    found = repair_mojibake(text)
    if found.text != text and not config.repair_mojibake:
        return text, "mojibake"
    return found.text, found.flag


def quarantine_row(raw: RawRow, why: Rejection, file: SourceFile, *, mask: bool = False) -> QuarantinedRow:
    """A row of a file for the quarantine; its text made storable, cut where it is very long, handles masked if asked for."""
    text, detail = storable(raw.text), why.detail
    if mask:
        # what could not be read is shown with escapes in it, and is no tweet whose identity counts
        raw_shown = raw.fault is not None or why.reason in ("bad encoding", "not a string")
        text, detail = (mask_raw_handles if raw_shown else mask_handles)(text), mask_raw_handles(detail)
    return QuarantinedRow(file.name, file.label, raw.number, text, why.reason, detail)


def storable(value: Any) -> str:
    """Whatever stood where the text should be, as text that a table can hold."""
    if value is None:
        return ""
    if not isinstance(value, str):
        try:
            written = str(value)
        except (ValueError, RecursionError):  # numbers of thousands of digits, endless nests
            written = quoted(value)
        return shorten(written.encode("utf-8", "backslashreplace").decode(), _MAX_QUARANTINED_CHARS)
    try:
        raw = value.encode("utf-8", "surrogateescape")  # back to the bytes that the file has
    except UnicodeEncodeError:
        raw = value.encode("utf-8", "backslashreplace")
    readable = raw.decode("utf-8", "backslashreplace")
    return shorten(readable, _MAX_QUARANTINED_CHARS)


def check_labels(source: Source, seen: Counter[str]) -> None:
    """A source of which no label at all is understood is a wrong setting, not a heap of bad rows."""
    if not seen or any(parse_label(value, source.labels) for value in seen):
        return
    values = ", ".join(f"{shorten(value)!r} ({count} rows)" for value, count in seen.most_common(10))
    raise InputError(
        f"{source.uri!r}: no label in column {source.label!r} is understood. Values: {values}. "
        "Say what they mean in the source's `labels`, e.g. {0: Bearish, 1: Bullish, 2: Neutral} (on the command line "
        "--label-map '0=Bearish,1=Bullish,2=Neutral'). "
        "Numbers are never guessed: datasets disagree on their order."
    )


# merged from finsent.data.sources.reading: A labelled file as rows to score a model on: read by the same contract, stored nowhere.


def load_labelled_file(config: Config, source: Source) -> tuple[Split, dict[str, int]]:
    """Readable rows of a labelled source, every one kept, and how many were not readable, by reason.

    Texts that differ only in URLs, handles or case share a group.

    Raises:
        InputError: the file, a column or all labels are wrong, or no row is readable.
    """
    now, seen = datetime.now(UTC), Counter[str]()
    wanted = labelled_columns(source)
    rows, skipped = [], Counter[str]()
    for file in resolve(source):
        for _, good, bad in read_validated(file, source, config.data, now, seen, wanted):
            rows += good
            skipped.update(row.reason for row in bad)
    check_labels(source, seen)
    if not rows:
        raise InputError(f"{source.uri!r} holds no readable labelled row.")
    split = Split(
        ids=[f"{row.source}:{row.number}" for row in rows],
        texts=[row.text for row in rows],
        labels=np.array([LABEL2ID[row.label] for row in rows], np.int64),
        sources=[row.source for row in rows],
        groups=[row.id for row in rows],
        created_at=[row.created_at for row in rows],
    )
    return split, dict(skipped)
