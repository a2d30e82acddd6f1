"""Record types of reading: source files, requested columns, and rows as read, as validated and as quarantined."""

import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Final, Self

from finsent.config import Source
from finsent.data.sources.whole_text import columns_beside, whole_text
from finsent.data.validation.ids import likely_id_columns
from finsent.data.validation.row_validation import Reason, Rejection
from finsent.errors import InputError, did_you_mean, format_names, shorten
from finsent.text import Forms

FORMATS: Final = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".js": "json"} | {
    ".parquet": "parquet",
    ".xlsx": "excel",
    ".xls": "excel",
    ".xlsb": "excel",
    ".ods": "excel",
}
"""File suffix to format."""
TEXT_SUFFIX: Final = ".txt"
"""Of the format text, which is found by what a file holds, since such files hold other things as well."""
COMPRESSIONS: Final = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".xz": "xz", ".zip": "zip"}
"""Suffix after the format's to compression."""

TEXT_COLUMN: Final = "text"
"""The only column of the format text."""
NO_COLUMN: Final = "none"
"""In place of a column's name: no column is read."""

_ROLES: Final = {"text": "tweet", "label": "label", "created_at": "time of writing", "id": "id"}
_MAX_NESTING: Final = 20
_LISTED: Final = 100
_EXAMPLE_CHARS: Final = 24
MAX_COLUMNS: Final = 300
"""Columns read where all are asked for: some files have 20,000."""


def format_suffix(path: str | PurePath) -> str:
    """The suffix in lower case that tells a file's format: the last one, or the one before .gz or .zst."""
    suffixes = [suffix.lower() for suffix in PurePath(path).suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@dataclass(frozen=True)
class SourceFile:
    """One file of a source, one split of a Hub dataset, or a database query."""

    name: str
    """Name of the source in reports and in the column `source`."""
    label: str
    """Name in the quarantine; includes the file's name where a source has several files."""
    uri: str
    """Path, `s3://bucket/key`, `hf://owner/name`, or a database URL with its password masked."""
    format: str
    """csv, tsv, jsonl, json, text, parquet, excel, hub or sql."""
    source: Source
    """The source as configured; of a Hub dataset with its revision pinned."""
    compression: str | None = None
    """gzip, zstd, bz2, xz, zip or None."""
    arriving: bool = False
    """Whether it comes from a source that somebody fills: it may have been cut, and may have no rows yet."""
    left_out: tuple[str, ...] = field(default=(), compare=False)
    """Files beside it in its folder whose endings are not read; only the first file of a source has them."""
    limit: int | None = None
    """Rows to read at most, for a look at the file; None reads all."""
    seen: dict[str, str | int] = field(default_factory=dict, compare=False, repr=False)
    """Size, hash and encoding, filled in when the file has been read to its end; for `formats.fingerprint_file`."""


@dataclass(frozen=True)
class RequestedColumns:
    """Columns to read: role (`text`, `label`, `created_at`, `id`) to its column in the source."""

    required: dict[str, str]
    """Missing ones are an error."""
    optional: dict[str, str] = field(default_factory=dict)
    """Read where the source has them."""
    seen_columns: list[str] = field(default_factory=list, compare=False, repr=False)
    """All columns met while reading, each once."""
    likely_ids: list[str] = field(default_factory=list, compare=False, repr=False)
    """The column read for the role `id` since it is called as ids are, where the file has no column `id` and none is named."""
    absent: list[str] = field(default_factory=list, compare=False, repr=False)
    """The role whose column the file lacks."""
    every: bool = False
    """Read all columns, into `RawRow.values`, for a look at the file."""
    repeated: list[str] = field(default_factory=list, compare=False, repr=False)
    """With `every`: columns left out, whose names occur more than once."""
    layout: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
    """How the file turned out to be written: `delimiter`, `encoding`, `records`, `sheet`."""

    @property
    def make_row(self) -> "Callable[..., RawRow]":
        """Makes a row of its number, its values and, of JSON, the objects that have the text."""
        return RawRow.of_all if self.every else RawRow.from_values

    def select(self, found: Sequence[str], where: str) -> dict[str, str]:
        """Role to column, of the columns `found` in the file `where`; with those of `columns_beside` as roles of their own.

        Raises:
            InputError: a required column is missing, or a column to read occurs twice.
        """
        known = set(self.seen_columns)  # a set: some files have 20,000 columns
        self.seen_columns.extend(column for column in dict.fromkeys(found) if column not in known)
        if self.every:
            counted = Counter(found)
            self.repeated[:] = [column for column, times in counted.items() if times > 1]
            once = (column for column, times in counted.items() if times == 1)
            return {column: column for column in islice(once, MAX_COLUMNS)}
        for role, column in self.required.items():
            if column not in found:
                self.absent[:] = [role]
                raise absent_column(where, role, column, found)
        selected = self.required | {role: column for role, column in self.optional.items() if column in found}
        if "id" in self.optional and "id" not in selected:
            self.likely_ids[:] = [column for column in likely_id_columns(found) if found.count(column) == 1][:1]
            selected |= dict(zip(("id",), self.likely_ids, strict=False))
        for column in selected.values():
            if (count := found.count(column)) > 1:
                raise InputError(f"{where}: the column {column!r} occurs {count} times. Rename all but one.")
        beside = columns_beside(selected["text"], found) if "text" in selected else {}
        return {path: column for path, column in beside.items() if found.count(column) == 1} | selected


def absent_column(
    where: str, role: str, column: str, found: Sequence[str], examples: Mapping[str, Sequence[object]] = MappingProxyType({})
) -> InputError:
    """The error that a required column is not among those `found`, with some values of them."""
    hint = _hint(column, found) if role == "text" else did_you_mean(column, found)
    if not hint and len(found) == 1 and any(mark in found[0] for mark in ";|\t"):
        hint = " Is it separated by something other than commas? Say by what: --delimiter ';'."
    listed = format_names(found, shown=_LISTED)
    if examples:
        more = f" and {len(found) - _LISTED} more" if len(found) > _LISTED else ""
        listed = ", ".join(_with_examples(name, examples.get(name, ())) for name in found[:_LISTED]) + more
    return InputError(f"{where}: there is no column {column!r} for the {_ROLES[role]}. Columns: {listed}.{hint}")


def _with_examples(name: str, values: Sequence[object]) -> str:
    shown = ", ".join(repr(shorten(" ".join(str(value).split()), _EXAMPLE_CHARS)) for value in values)
    return format_names([name]) + (f" ({shown})" if shown else "")


def _hint(column: str, found: Sequence[str]) -> str:
    """Where the tweets may be instead; Twitter's extended objects have a `full_text` in place of `text`."""
    full = next((name for name in found if name.rpartition(".")[2] == "full_text"), None)
    return did_you_mean(column, found) if full is None else f" The texts may be in {full!r}: --text {shlex.quote(full)}."


def labelled_columns(source: Source) -> RequestedColumns:
    """Columns of a labelled source; `created_at` is optional, but required where the source names its column.

    An id is read only where one is named: labelled tweets are known by their texts.
    """
    required = {"text": source.text} | ({} if source.label_value else {"label": source.label})
    return _requested(source, required, ("created_at",) if source.id is None else ("created_at", "id"))


def inbox_columns(source: Source) -> RequestedColumns:
    """Columns of a source of tweets to be scored."""
    return _requested(source, {"text": source.text}, ("created_at", "id"))


def _requested(source: Source, required: dict[str, str], others: Sequence[str]) -> RequestedColumns:
    """Of the `others` a column that was named is required, one that was not is read where it is there, and `none` never."""
    given = {role: getattr(source, role) for role in others}
    if source.date_format is not None and given["created_at"] is None:
        given["created_at"] = "created_at"
    if source.date_format is not None and given["created_at"] == NO_COLUMN:
        raise InputError(f"date_format {source.date_format!r} is for a column of times, and created_at is none. Leave one out.")
    named = {role: column for role, column in given.items() if column not in (None, NO_COLUMN)}
    return RequestedColumns(required | named, {role: role for role, column in given.items() if column is None})


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as its source has it. `number` counts data rows from 1; `fault` says why a row could not be read."""

    number: int
    text: object = None
    label: object = None
    created_at: object = None
    id: object = None
    fault: Rejection | None = None
    whole: str | None = None
    """The whole of a text that was cut short, see `whole_text`."""
    values: Mapping[str, object] | None = None
    """All columns, where every one was asked for."""

    @classmethod
    def of_all(cls, number: int, values: Mapping[str, object], *tweet: Mapping[str, Any]) -> Self:  # noqa: ARG003
        """The row of all its columns."""
        return cls(number, values=values)

    @classmethod
    def from_values(cls, number: int, values: Mapping[str, object], *tweet: Mapping[str, Any]) -> Self:
        """The row of these values by role, or its fault where one of them cannot be used.

        The whole of its text is looked for in the objects of the `tweet`, its own first, and among values that have no role.
        """
        for role, value in values.items():
            if value is None or type(value) is str or role not in _ROLES:
                continue
            if (fault := value if isinstance(value, Rejection) else _nesting_fault(value)) is not None:
                text = values.get("text")
                return cls(number, text if isinstance(text, str) else None, fault=fault)
        name = values.get("id")
        if isinstance(name, str) and not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            fault = Rejection("bad encoding", f"the id {shorten(ascii(name))} is not UTF-8")
            return cls(number, values.get("text"), fault=fault)
        text, whole = values.get("text"), None
        if text is None and tweet:  # an object of the other kind, in a file of both
            text = whole = tweet[0].get("full_text")
        if isinstance(text, str) and (tweet or not values.keys() <= _ROLES.keys()):
            whole = whole_text(text, (values, *tweet)) or whole
        return cls(number, text, values.get("label"), values.get("created_at"), name, whole=whole if type(whole) is str else None)


def _nesting_fault(value: object) -> Rejection | None:
    """A fault if a list or mapping is nested too deeply for `repr`."""
    if not isinstance(value, list | tuple | dict):
        return None
    level: list[Any] = [value]
    for _ in range(_MAX_NESTING):
        children = (inner for item in level for inner in (item.values() if isinstance(item, dict) else item))
        level = [inner for inner in children if isinstance(inner, list | tuple | dict)]
        if not level:
            return None
    return Rejection("malformed row", f"a {type(value).__name__} nested more than {_MAX_NESTING} deep where a value should be")


@dataclass(frozen=True, slots=True)
class Row:
    """A valid row. `place` and `number` locate it in its source."""

    source: str
    place: str
    number: int
    text: str
    label: str
    created_at: datetime | None
    forms: Forms
    flags: str | None = None
    """What was noticed about the text, e.g. "mojibake repaired, control characters"."""
    source_id: str | None = None
    """The id that its source has for it, where the source's `id` names a column; not its identity, which is its text."""

    @property
    def id(self) -> str:
        """Identity of the text."""
        return self.forms.id


@dataclass(frozen=True, slots=True)
class QuarantinedRow:
    """A row that was rejected. `place` and `number` locate it; `source` is the name that reports count it under."""

    source: str
    place: str
    number: int
    text: str
    reason: Reason
    detail: str
    id: str | None = None
    """Identity of the text, where it could be read."""
    input: str | None = None
    """Identity of the file, see `finsent.data.quarantine.input_identity`; None where it is no file."""
    label: str | None = None
    """The class that it was read as, where it is valid by itself and conflicts with other rows."""
    source_id: str | None = None
    """The source's own id of such a row, where its column is named; see `Row.source_id`."""
