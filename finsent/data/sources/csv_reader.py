"""Records of delimited text, none of which may swallow the lines after it.

CSV: fields are quoted where they hold a delimiter, a quote (doubled) or a line break. A quote that is never closed would
make everything after it one field. Where a later quote shows that, the line with the stray quote is a bad row and reading goes
on behind it; where nothing shows it until the end of the file, or for `LONGEST` lines or `LONGEST_LINE` characters, the file
is refused.

TSV: quotes mean nothing in most TSV, and spreadsheets quote fields as in CSV. Decided by the record: it is quoted only if all
its quotes pair up as in CSV and the fields are as many as the header's. Over several lines it is quoted only if no field holds
a tab too: lines that are rows of their own do hold tabs. So a record of one column never spans lines. Any other quote is text.
"""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from finsent.data.sources.decode import MAX_LINE_CHARS
from finsent.data.validation.row_validation import shorten
from finsent.errors import InputError

MAX_RECORD_LINES: Final = 200
"""Lines that one record may span; a tweet has a handful."""
_MAX_FIELD_CHARS: Final = 2 * MAX_LINE_CHARS  # characters; csv's own 128 Ki would stop at a long text instead of quarantining it


@dataclass(frozen=True, slots=True)
class MalformedLine:
    """A line that is no record."""

    text: str
    why: str


class _RecordTooLongError(Exception):
    """A record has spanned `LONGEST` lines, or `LONGEST_LINE` characters over several."""


class _RewindableLines:
    """Lines for `csv.reader`, of which those of the current record can be given back."""

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
        """The next line begins a record."""
        self.first += len(self.record)
        self.record, self.characters, self.ended = [], 0, False

    def rewind_to_first_line(self) -> str:
        """The record's first line; the others come again."""
        self._returned.extendleft(reversed(self.record[1:]))
        del self.record[1:]
        return self.record[0]


def parse_records(lines: Iterable[str], delimiter: str, uri: str) -> Iterator[list[str] | MalformedLine]:
    """Records in order, the header first; blank lines come as empty records.

    Raises:
        InputError: a quote opens a CSV field that never ends.
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
            if delimiter != "\t" and (source.ended or isinstance(error, _RecordTooLongError)):
                raise InputError(_unclosed_quote_error(source, delimiter, uri)) from error
            found = _parse_unquoted(source) if delimiter == "\t" else _parse_first_line(source, delimiter, error)
        else:
            if found is None:
                return
            if delimiter == "\t" and not _is_quoted(found, width, len(source.record)):
                found = _parse_unquoted(source)
        width = width or (0 if isinstance(found, MalformedLine) else len(found))
        yield found


def _is_quoted(fields: list[str], width: int, spanned: int) -> bool:
    """Whether a TSV record that can be read as quoted is so."""
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
    """What a record that is not well quoted comes to.

    On one line, it is read as spreadsheets do; over several, its first line has a quote that was not closed there.
    """
    spanned, line = len(source.record), source.rewind_to_first_line()
    if spanned > 1:
        return MalformedLine(line, f"line {source.first}: a quote is opened and not closed, or closed inside a field")
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:
        return MalformedLine(line, f"line {source.first}: {error}")


def _unclosed_quote_error(source: _RewindableLines, delimiter: str, uri: str) -> str:
    text = "".join(source.record)
    complete = re.compile(rf'(?:(?:"(?:[^"]|"")*+"|[^"{delimiter}][^{delimiter}]*+|){delimiter})*+')
    place = match.end() if (match := complete.match(text)) else 0
    before = text[:place].splitlines(keepends=True)
    number = source.first + sum(line.endswith(("\n", "\r")) for line in before)
    most = f"{MAX_RECORD_LINES} lines" if len(source.record) > MAX_RECORD_LINES else f"{MAX_LINE_CHARS >> 20} Mi characters"
    until = "the file ends inside it" if source.ended else f"it goes on for more than {most}"
    return (
        f"{uri!r}, line {number}: a quote opens a field that is never closed ({until}): "
        f"{shorten(text[place:].splitlines()[0])!r}. Every row after it would be lost. Close the quote; where it is part of the "
        'text, write the field as """text" (quoted, its own quotes doubled), or give JSON lines or Parquet. Nothing was written.'
    )
