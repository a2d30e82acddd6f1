"""Parses CSV and TSV records so that a stray quote costs one row, never the lines after it.

CSV: fields are quoted where they hold a delimiter, a quote (doubled) or a line break. A quote that is never closed would make
everything after it one field. Where a later quote shows that, the line with the stray quote is a malformed row and parsing
resumes after it. Where nothing shows it until the end of the file, or for `MAX_RECORD_LINES` lines or `MAX_LINE_CHARS`
characters, the file is rejected.

TSV: most writers give quotes no meaning, spreadsheets quote as in CSV. Decided for each record: it is quoted only if its quotes
pair up as in CSV and it has at least as many fields as the header. Over several lines it is quoted only if also no field holds
a tab, since lines that are rows of their own do hold tabs; so a record of one column never spans lines. Any other quote is text.

A file that may have been cut: its last line is a record only with a line end, since a cut text looks like a whole one; and where
a quote is open at the end, nobody can tell a stray one from a record that was cut.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from finsent.data.sources.decode import MAX_LINE_CHARS
from finsent.errors import InputError, shorten

MAX_RECORD_LINES: Final = 200
"""Lines that one record may span."""
MAY_BE_CUT: Final = "it may have been cut. End the file with a line break"
_MAX_FIELD_CHARS: Final = 2 * MAX_LINE_CHARS  # with csv's own limit of 128 Ki, one long text would stop the file


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is no record."""

    text: str
    why: str


class _RecordTooLongError(Exception):
    """A record spans more than `MAX_RECORD_LINES` lines or `MAX_LINE_CHARS` characters."""


class _RewindableLines:
    """Lines for `csv.reader`; those of the current record can be read again."""

    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = iter(lines)
        self._returned: deque[str] = deque()
        self.record: list[str] = []
        self.characters = 0
        self.first = 1
        """Number of the record's first line in the file, from 1."""
        self.ended = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if len(self.record) > MAX_RECORD_LINES or self.characters > MAX_LINE_CHARS:
            raise _RecordTooLongError
        line = self._returned.popleft() if self._returned else next(self._lines, None)
        if line is None:
            self.ended = True
            raise StopIteration
        self.record.append(line)
        self.characters += len(line)
        return line

    def begin(self) -> None:
        """Start a record at the next line."""
        self.first += len(self.record)
        self.record, self.characters, self.ended = [], 0, False

    def rewind_to_first_line(self) -> str:
        """The record's first line; the others will be read again."""
        self._returned.extendleft(reversed(self.record[1:]))
        del self.record[1:]
        return self.record[0]


def parse_records(
    lines: Iterable[str], delimiter: str, uri: str, *, may_be_cut: bool = False
) -> Iterator[list[str] | MalformedLine]:
    """Records in order, the header first; blank lines are empty records.

    Raises:
        InputError: a quote opens a CSV field that is never closed.
    """
    csv.field_size_limit(_MAX_FIELD_CHARS)
    source = _RewindableLines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    width = 0
    while True:
        source.begin()
        found: list[str] | MalformedLine | None
        try:
            found = next(reader, None)
        except (csv.Error, _RecordTooLongError) as error:
            if may_be_cut and source.ended and (delimiter == "\t" or (len(source.record) == 1 and _lacks_end(source))):
                line = source.rewind_to_first_line()
                found = MalformedLine(line, f"line {source.first}: the file ends within a quoted field; it may have been cut")
            elif delimiter != "\t" and (source.ended or isinstance(error, _RecordTooLongError)):
                raise InputError(_unclosed_quote_error(source, delimiter, uri)) from error
            else:
                found = _parse_unquoted(source) if delimiter == "\t" else _parse_first_line(source, delimiter, error)
        else:
            if found is None:
                return
            if delimiter == "\t" and not _is_quoted(found, width, len(source.record)):
                found = _parse_unquoted(source)
            if may_be_cut and _lacks_end(source):
                found = MalformedLine(
                    "".join(source.record), f"line {source.first}: the last one, without a line end: {MAY_BE_CUT}"
                )
        width = width or (0 if isinstance(found, MalformedLine) else len(found))
        yield found


def _lacks_end(source: _RewindableLines) -> bool:
    return not source.record[-1].endswith(("\n", "\r"))


def _is_quoted(fields: list[str], width: int, spanned: int) -> bool:
    """Whether to take a TSV record that parses as quoted as quoted."""
    if spanned > 1:
        return len(fields) > 1 and len(fields) >= width and not any("\t" in field for field in fields)
    return len(fields) >= width


def _parse_unquoted(source: _RewindableLines) -> list[str] | MalformedLine:
    line = source.rewind_to_first_line()
    try:
        return next(csv.reader([line], delimiter="\t", quoting=csv.QUOTE_NONE), [])
    except csv.Error as error:
        return MalformedLine(line, f"line {source.first}: {error}")


def _parse_first_line(source: _RewindableLines, delimiter: str, error: Exception) -> list[str] | MalformedLine:
    """Parse a record whose quotes do not pair up.

    One line is parsed leniently, as spreadsheets do; of several, the first line has the stray quote and is malformed.
    """
    several, line = len(source.record) > 1, source.rewind_to_first_line()
    if several:
        return MalformedLine(line, f"line {source.first}: a quote is opened and not closed, or closed inside a field")
    if '\\"' in line:
        return _parse_escaped(line, delimiter) or MalformedLine(line, f"line {source.first}: {error}")
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return MalformedLine(line, f"line {source.first}: {error}")


def _parse_escaped(line: str, delimiter: str) -> list[str] | None:
    r"""A record whose quotes are escaped as \" (MySQL, Spark); None if it is not well quoted in that way either."""
    doubled = re.sub(r'\\(?!")', r"\\\\", line)  # csv would drop the backslash before any other character
    try:
        return next(csv.reader([doubled], delimiter=delimiter, escapechar="\\", strict=True), None)
    except csv.Error:
        return None


def _unclosed_quote_error(source: _RewindableLines, delimiter: str, uri: str) -> str:
    text = "".join(source.record)
    complete = re.compile(rf'(?:(?:"(?:[^"]|"")*+"|[^"{delimiter}][^{delimiter}]*+|){delimiter})*+')
    position = match.end() if (match := complete.match(text)) else 0
    before = text[:position].splitlines(keepends=True)
    number = source.first + sum(line.endswith(("\n", "\r")) for line in before)
    most = f"{MAX_RECORD_LINES} lines" if len(source.record) > MAX_RECORD_LINES else f"{MAX_LINE_CHARS >> 20} Mi characters"
    until = "the file ends inside it" if source.ended else f"it goes on for more than {most}"
    return (
        f"{uri!r}, line {number}: a quote opens a field that is never closed ({until}): "
        f"{shorten(text[position:].splitlines()[0])!r}. Every row after it would be lost. Close the quote; where it is part of "
        'the text, write the field as """text" (quoted, its own quotes doubled), or give JSON lines or Parquet. '
        "Nothing was written."
    )
