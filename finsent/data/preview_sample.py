"""Reads the first rows of a file by the reader of ingestion, all columns of them, and finds out how the file is laid out."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from finsent.data.sources.archive import chosen_members, member_names
from finsent.data.sources.encodings import likely_encoding
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RequestedColumns, SourceFile
from finsent.data.validation.column_roles import FEWEST_WORDS, label_columns, looks_like_row, mean_words, text_columns
from finsent.errors import InputError, UnclearSourceError

_TABLES: Final = ("csv", "tsv", "excel")
_USUAL_DELIMITERS: Final = {"csv": ",", "tsv": "\t"}
_MOST_TURNS: Final = 6
_HEADER_ROWS: Final = 500
_MOST_PLACES: Final = 20
_PLACE_ROWS: Final = 100
_ENCODED: Final = 1 << 16


@dataclass(frozen=True)
class FileSample:
    """The first rows of a file, and how it is read."""

    file: SourceFile
    """With its source as it was read."""
    columns: dict[str, list[object]]
    """Values by column, or by the path of nested ones."""
    rows: int
    faults: dict[str, tuple[int, str]]
    """Rows that could not be read by reason: how many, and the first."""
    bounded: bool
    """Whether the file may have more rows."""
    layout: dict[str, str]
    repeated: tuple[str, ...] = ()
    """Columns whose names occur more than once: none of them can be read."""
    settings: dict[str, Any] = field(default_factory=dict)
    """What has to be said of the file for it to be read so: fields of `Source`."""
    choices: tuple[Mapping[str, Any], ...] = ()
    """Settings that could each be meant; the first of them was taken."""
    alike: bool = False
    """Whether what they name has the same columns."""


def read_sample(file: SourceFile, limit: int, now: datetime) -> FileSample:
    """Read up to `limit` rows, with whatever has to be said of the file to read it.

    Raises:
        InputError: it cannot be read, or has no rows.
    """
    settings: dict[str, Any] = {}
    choices: tuple[Mapping[str, Any], ...] = ()
    alike = False
    for _ in range(_MOST_TURNS):
        try:
            found = _read(file, settings, limit)
        except UnclearSourceError as error:
            if not error.choices or error.choices[0].keys() & settings.keys():
                raise
            choices, alike = _with_texts(file, settings, error, now)
            settings |= choices[0]
            continue
        more = _further_settings(found)
        if not more:
            return replace(found, settings=settings, choices=choices if len(choices) > 1 else (), alike=alike)
        settings |= more
    raise InputError(f"{file.uri!r}: how it is written is not found out. Say it with --delimiter, --encoding or --no-header.")


def _with_texts(
    file: SourceFile, settings: Mapping[str, Any], error: UnclearSourceError, now: datetime
) -> tuple[tuple[Mapping[str, Any], ...], bool]:
    """Of several lists or sheets those that hold sentences, of these the one with labels, where there is one.

    And whether those that are left have the same columns.
    """
    if len(error.choices) == 1:
        return error.choices, True
    fitting, labelled, names = [], [], set()
    for choice in error.choices[:_MOST_PLACES]:
        try:
            columns = _read(file, {**settings, **choice}, _PLACE_ROWS).columns
        except InputError:
            continue
        texts = [name for name in text_columns(columns, now) if mean_words(columns[name]) >= FEWEST_WORDS]
        fitting += [choice] if texts else []
        labelled += [choice] if texts and label_columns(columns, texts, now) else []
        names |= {tuple(columns)} if texts else set()
    return tuple(labelled if len(labelled) == 1 else fitting) or error.choices, len(names) == 1


def _read(file: SourceFile, settings: Mapping[str, Any], limit: int) -> FileSample:
    source = file.source.model_copy(update=dict(settings))
    current = replace(file, source=source, limit=limit, seen={})
    wanted = RequestedColumns({}, every=True)
    rows = [row for batch in read_rows(current, wanted) for row in batch]
    names = dict.fromkeys(name for row in rows if row.values for name in row.values)
    columns = {name: [row.values.get(name) for row in rows if row.values is not None] for name in names}
    faults: dict[str, tuple[int, str]] = {}
    for row in rows:
        if row.fault is not None:
            n, first = faults.get(row.fault.reason, (0, f"row {row.number}: {row.fault.detail}"))
            faults[row.fault.reason] = n + 1, first
    objects = {name for name, values in columns.items() if any(isinstance(value, dict) for value in values)}
    parents = {name for name in objects if any(other.startswith(f"{name}.") for other in columns)}
    shown = {name: values for name, values in columns.items() if name not in parents}
    layout = dict(wanted.layout) | ({"member": chosen_members(member_names(file.uri))[0]} if file.compression == "zip" else {})
    return FileSample(current, shown, len(rows), faults, len(rows) >= limit, layout, tuple(wanted.repeated))


def _further_settings(found: FileSample) -> dict[str, Any]:
    """What else has to be said of the file, seen by its first rows."""
    source, more = found.file.source, dict[str, Any]()
    usual = _USUAL_DELIMITERS.get(found.file.format)
    if source.delimiter is None and usual is not None and found.layout.get("delimiter", usual) != usual:
        more["delimiter"] = found.layout["delimiter"]
    if found.file.format in _TABLES and source.header and not source.columns:
        below = [values[:_HEADER_ROWS] for values in found.columns.values()]
        if looks_like_row(list(found.columns), below):
            more["header"] = False
    # to the end, the reader itself sees it
    if found.bounded and source.encoding is None and (encoding := other_encoding(found, fewest=2)) is not None:
        more["encoding"] = encoding
    return more


def other_encoding(found: FileSample, *, fewest: int = 1) -> str | None:
    """The encoding that a file may be in, of which so many values are not UTF-8, and no other has a letter beyond ASCII."""
    beyond = [value for values in found.columns.values() for value in values if isinstance(value, str) and not value.isascii()]
    invalid = [value for value in beyond if any("\ud800" <= character <= "\udfff" for character in value)]
    if len(invalid) < max(fewest, len(beyond)):
        return None
    return likely_encoding(b"\n".join(value.encode("utf-8", "surrogateescape") for value in invalid)[:_ENCODED])
