"""Reads the first rows of files as an ingestion, or the inbox, would: what would be stored, what would be rejected, and why."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from finsent.config import DataConfig, Source
from finsent.data.inbox_reading import check_row
from finsent.data.sources.column_times import with_time_form
from finsent.data.sources.formats import read_rows
from finsent.data.sources.reading import read_validated
from finsent.data.sources.records import RawRow, SourceFile, inbox_columns, labelled_columns
from finsent.data.validation.dates import is_missing
from finsent.data.validation.label_check import PolarityStats
from finsent.data.validation.label_mapping import label_key
from finsent.data.validation.row_validation import Rejection
from finsent.data.validation.text_cleaning import mask_handles
from finsent.errors import InputError

SHOWN: Final = 10
"""Rows kept to be shown."""
_FEWEST_EACH: Final = 200


@dataclass(frozen=True)
class StoredRow:
    """A row as it would be stored."""

    file: str
    number: int
    text: str
    label: str | None
    created_at: datetime | None
    id: str | None
    flags: str | None = None


@dataclass
class Trial:
    """What the first rows of some files would become."""

    read: int = 0
    taken: int = 0
    unlabelled: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    """Rows by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """The first row of each reason."""
    flags: Counter[str] = field(default_factory=Counter)
    first: datetime | None = None
    last: datetime | None = None
    undated: int = 0
    rows: list[StoredRow] = field(default_factory=list)
    problem: str | None = None
    """What stops the reading."""
    polarity: PolarityStats = field(default_factory=PolarityStats)
    """By class."""

    def take(self, row: StoredRow) -> None:
        """Count a row that would be stored."""
        self.taken += 1
        if row.created_at is not None:
            self.first = min(self.first or row.created_at, row.created_at)
            self.last = max(self.last or row.created_at, row.created_at)
        else:
            self.undated += 1
        if row.flags:
            self.flags.update(row.flags.split(", "))
        if len(self.rows) < SHOWN:
            self.rows.append(row)

    def reject(self, reason: str, number: int, detail: str) -> None:
        """Count a row that would be quarantined."""
        self.rejected[reason] += 1
        self.examples.setdefault(reason, f"row {number}: {detail}")


@dataclass(frozen=True)
class RoleValues:
    """The values of the columns that would be read, and what the labels are."""

    rows: list[RawRow]
    seen: Counter[str]
    """Rows by label value, blank ones left out."""
    examples: dict[str, str]
    """A text of each label value."""
    polarity: PolarityStats
    """By label value."""
    blank: int
    """Rows without a label."""


def read_roles(files: Sequence[SourceFile], source: Source, limit: int, *, inbox: bool) -> RoleValues:
    """The values of the columns that `source` names, of up to `limit` rows in all.

    Raises:
        InputError: a file cannot be read so.
    """
    found = RoleValues([], Counter(), {}, PolarityStats(), 0)
    blank = 0
    for file in _with_source(files, source, limit, found.rows, {}):
        wanted = inbox_columns(source) if inbox else labelled_columns(source)
        try:
            for batch in read_rows(file, wanted):
                found.rows.extend(batch)
        except InputError as error:
            if file.uri == files[0].uri:
                raise
            first_of = f"Columns are proposed by the first of {len(files)} files, {files[0].uri!r}"
            raise InputError(f"{error} {first_of}: where the others differ, preview them one by one.") from error
    for raw in found.rows:
        if raw.fault is not None or inbox or source.label_value is not None:
            continue
        if is_missing(raw.label):
            blank += 1
            continue
        key = label_key(raw.label)
        found.seen[key] += 1
        if isinstance(raw.text, str):
            found.examples.setdefault(key, raw.text)
            found.polarity.add([(key, raw.text)])
    if len(found.seen) > 1:  # the header repeated within the file
        found.seen.pop(source.label, None)
    return replace(found, blank=blank)


def try_labelled(
    files: Sequence[SourceFile], source: Source, config: DataConfig, now: datetime, limit: int, classes: Mapping[str, str]
) -> Trial:
    """Read as an ingestion would; `classes` has the class of every row of a file, where that is said by file."""
    trial = Trial()
    try:
        for file in _with_source(files, source, limit, trial, classes):
            for n, good, bad in read_validated(file, config, now, Counter(), labelled_columns(file.source)):
                trial.read += n
                trial.unlabelled += n - len(good) - len(bad)
                trial.polarity.add((row.label, row.text) for row in good)
                for row in good:
                    trial.take(StoredRow(file.uri, row.number, row.text, row.label, row.created_at, row.source_id, row.flags))
                for rejected in bad:
                    trial.reject(rejected.reason, rejected.number, rejected.detail)
    except InputError as error:
        trial.problem = str(error)
    return trial


def try_inbox(files: Sequence[SourceFile], source: Source, config: DataConfig, now: datetime, limit: int) -> Trial:
    """Read as the inbox would."""
    trial = Trial()
    try:
        for file in _with_source(files, source, limit, trial, {}):
            wanted = inbox_columns(source)
            for batch, form in with_time_form(read_rows(file, wanted), file, now):
                trial.read += len(batch)
                for raw in batch:
                    has_ids = not wanted.likely_ids
                    checked = check_row(raw, config.max_characters, now, form, repaired=config.repair_mojibake, has_ids=has_ids)
                    if isinstance(checked, Rejection):
                        trial.reject(checked.reason, raw.number, checked.detail)
                    else:
                        name, moment, (text, noticed), _ = checked
                        text = mask_handles(text) if config.mask_handles else text
                        own = None if is_missing(raw.id) else name  # else it is known by its text
                        trial.take(StoredRow(file.uri, raw.number, text, None, moment, own, ", ".join(noticed) or None))
    except InputError as error:
        trial.problem = str(error)
    return trial


def _with_source(
    files: Sequence[SourceFile], source: Source, limit: int, done: list[RawRow] | Trial, classes: Mapping[str, str]
) -> Iterator[SourceFile]:
    """The files with this source, as long as rows are left to read."""
    each = max(_FEWEST_EACH, limit // len(files))
    for file in files:
        left = min(each, limit - (done.read if isinstance(done, Trial) else len(done)))
        if left <= 0:
            return
        own = source.model_copy(update={"label_value": classes[file.uri]}) if file.uri in classes else source
        yield replace(file, source=own, limit=left, seen={})
