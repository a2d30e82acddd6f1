"""How a table in text is laid out: what separates its fields, and whether its first row names them."""

import csv
import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any, Final

from finsent.data.sources.line_forms import DELIMITERS, fields_vary, how_to_read_lines
from finsent.data.sources.records import RequestedColumns, SourceFile
from finsent.errors import InputError, preview_hint, shorten

_log = logging.getLogger(__name__)

LOOKED_AT: Final = 50
"""Lines that show what separates the fields, where no columns are asked for."""
TITLE_ROWS: Final = 10
"""Rows in which the names of the columns are looked for."""
_CLASS_WORDS: Final = frozenset({"bullish", "bearish", "neutral", "positive", "negative"})


def column_names(first: Sequence[Any], file: SourceFile, wanted: RequestedColumns) -> list[str]:
    """The names in the first row; those that were given, or 1, 2, 3 ..., where it is a row like the others.

    Raises:
        InputError: the first row is a tweet with its label, and was taken for the names.
    """
    if file.source.header:
        names = [str(name).strip() for name in first]
        missing = not set(wanted.required.values()) <= set(names)
        chosen = any(name in names and _looks_like_data(name) for name in wanted.required.values())
        if (chosen or missing) and _is_row(names):
            shown = shorten(", ".join(map(repr, names)), 200)
            raise InputError(
                f"{file.uri!r}: its first row does not look like column names but like a tweet: {shown}. If so, add --no-header; "
                "the columns are then called 1, 2, 3 ..., e.g. --text 2 --label 1, or as --columns names them. "
                f"{preview_hint(file.uri)}"
            )
        return names
    given = file.source.columns
    if given and len(given) != len(first):
        raise InputError(f"{file.uri!r}: {len(given)} names are given (--columns), and the first row has {len(first)} fields.")
    return list(given) or [str(number) for number in range(1, len(first) + 1)]


def _is_row(names: Sequence[str]) -> bool:
    """Whether the first row is a tweet with its label; columns may be named by classes too, one for each."""
    return any(len(name.split()) > 5 for name in names) or (
        any(_looks_like_data(name) for name in names) and any(" " in name for name in names)
    )


def _looks_like_data(name: str) -> bool:
    return name.casefold() in _CLASS_WORDS or len(name.split()) > 5


def header_row(rows: Sequence[Sequence[Any]], wanted: RequestedColumns) -> int:
    """Which of the first rows names the columns: the first, or one below titles and comments that has those asked for.

    Passed over are rows of a single field and comments (#); above names of one column comments alone, since tweets are single
    fields there.
    """
    filled = [[str(value).strip() for value in row if value is not None and str(value).strip()] for row in rows]
    if wanted.every and sum(len(row) > 1 for row in filled) <= len(filled) / 2:
        return 0
    for number, row in enumerate(filled[:TITLE_ROWS]):
        if _is_comment(row):
            continue
        if len(row) > 1:
            return number if wanted.every or set(wanted.required.values()) <= set(row) else 0
        if not wanted.every and set(wanted.required.values()) <= set(row):
            return number if all(map(_is_comment, filled[:number])) else 0
    return 0


def _is_comment(row: Sequence[str]) -> bool:
    return not row or row[0].startswith("#")


def pass_titles(rows: Sequence[Sequence[Any]], file: SourceFile, wanted: RequestedColumns) -> int:
    """The number of rows above the one that names the columns; they are said."""
    number = header_row(rows, wanted) if file.source.header else 0
    if number and not wanted.every:
        shown = shorten(" | ".join(str(value) for row in rows[:number] for value in row if value), 100)
        _log.warning("%r: its columns are named in row %d; passed over before it: %r", file.uri, number + 1, shown)
    return number


def require_table(lines: Sequence[str], delimiter: str, file: SourceFile) -> None:
    """Check that lines without a row of column names are a table, so that no tweet is cut at a delimiter.

    Raises:
        InputError: they are not, and their columns were not named.
    """
    if not (file.source.header or file.source.columns) and fields_vary(lines, delimiter):
        raise InputError(
            f"{file.uri!r} is no table: its first {len(lines)} lines have unlike numbers of fields, or sentences with "
            f"{delimiter!r}, such as {shorten(lines[0].strip(), 80)!r}. {how_to_read_lines(file.uri, lines)} "
            "If it is a table all the same, name its columns: --columns NAMES."
        )


def split_lines(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    """The fields of each line by itself; none of a line that is not well quoted."""
    found = []
    for line in lines:
        try:
            found.append(next(csv.reader([line], delimiter=delimiter), []))
        except csv.Error:
            found.append([])
    return found


def find_delimiter(file: SourceFile, head: Sequence[str], wanted: RequestedColumns) -> str:
    """The delimiter that was given; else the one by the file's ending, unless only another gives the columns asked for.

    `head` is the header, with titles above it and lines after it; where no columns are asked for, the one that splits most of
    these alike.
    """
    if file.source.delimiter is not None:
        return file.source.delimiter
    usual = "\t" if file.format == "tsv" else ","
    if file.source.format != "auto":
        return usual
    ordered = (usual, *(mark for mark in DELIMITERS if mark != usual))
    if wanted.every:
        return max(ordered, key=lambda delimiter: _evenness(head, delimiter))
    for delimiter in ordered:
        rows = split_lines(head, delimiter)
        names = [name.strip() for name in (rows[header_row(rows, wanted)] if rows else [])]
        if names and set(wanted.required.values()) <= set(names):
            if delimiter != usual:
                _log.warning("%r is separated by %r: read as that (--delimiter)", file.uri, delimiter)
            return delimiter
    return usual


def _evenness(lines: Sequence[str], delimiter: str) -> tuple[float, int]:
    """Share of the records that have the commonest number of fields, two or more, and that number."""
    try:
        widths = Counter(len(record) for record in csv.reader(lines, delimiter=delimiter) if record)
    except csv.Error:
        return 0.0, 0
    width, times = max(widths.items(), key=lambda item: item[1], default=(0, 0))
    return (round(times / widths.total(), 1), width) if width > 1 else (0.0, 0)
