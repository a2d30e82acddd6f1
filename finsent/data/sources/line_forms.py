"""Tells tables in text from files of one tweet a line, which must not be cut at their commas."""

import csv
import itertools
import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from typing import Final

from finsent.data.validation.label_vocabulary import usual_class

DELIMITERS: Final = (",", "\t", ";", "|", "\x01")
"""What separates fields, as spreadsheets, databases and Hive write them."""
_FAST_TEXT: Final = "__label__"
_CLASS_MARKS: Final = (*DELIMITERS[:-1], "@")
"""What may stand between a text and its class; `@` in FinancialPhraseBank."""
_MOSTLY: Final = 0.9
_NAME: Final = re.compile(r"[^\W\d][\w .:/#-]{0,39}")


def is_table(lines: Sequence[str]) -> bool:
    """Whether lines begin with column names, or are records with as many fields each and not sentences with commas."""
    return any(_begins_with_names(lines, mark) or _is_separated(lines, mark) for mark in DELIMITERS)


def is_tweets(lines: Sequence[str]) -> bool:
    """Whether each of the lines is a text by itself: no table, no label in the line."""
    words = sum(len(line.split()) for line in lines)
    return bool(lines) and words >= 3 * len(lines) and not is_table(lines) and _advice_on_labels("", lines) is None


def fields_vary(lines: Sequence[str], delimiter: str) -> bool:
    """Whether lines without a row of column names are no table: some have several fields, and most are not alike."""
    return any(len(record) > 1 for record in _records(lines, delimiter)) and not _is_separated(lines, delimiter)


def how_to_read_lines(path: str, lines: Sequence[str]) -> str:
    """What to do about a text that is no table: the options that read it, or the command that makes a table of it."""
    if (advice := _advice_on_labels(path, lines)) is not None:
        return advice
    target = json.dumps(f"{path}.parquet")
    code = rf'import pandas; pandas.read_csv({json.dumps(path)}, sep=r"\s\s+", engine="python").to_parquet({target})'
    spaces = f" If spaces do: python -c {shlex.quote(code)}" if lines and re.search(r"\S {2,}\S", lines[0]) else ""
    return (
        "If each line is a tweet: --format text, with --label-value CLASS or --label CLASS=FILE. If a character separates: "
        f"--format csv --delimiter CHARACTER.{spaces}"
    )


def _records(lines: Sequence[str], delimiter: str) -> list[list[str]]:
    try:
        return [record for record in csv.reader(lines, delimiter=delimiter) if record]
    except csv.Error:
        return []


def _begins_with_names(lines: Sequence[str], delimiter: str) -> bool:
    first = [name.strip() for record in _records(lines[:1], delimiter) for name in record]
    named = all(_NAME.fullmatch(name) and len(name.split()) <= 3 and usual_class(name) is None for name in first)
    return len(first) > 1 and named and not first[0].startswith(_FAST_TEXT)


def _is_separated(lines: Sequence[str], delimiter: str) -> bool:
    records = _records(lines, delimiter)
    if not records:
        return False
    width, times = Counter(map(len, records)).most_common(1)[0]
    return width > 1 and times >= _MOSTLY * len(records) and not _are_clauses(records, width)


def _are_clauses(records: Sequence[Sequence[str]], width: int) -> bool:
    """Whether the fields are parts of sentences: each of several words, and those after the first begin with a space."""
    even = [record for record in records if len(record) == width]
    spaced = sum(all(field.startswith(" ") for field in record[1:]) for record in even)
    words = [sum(len(re.findall(r"[^\W\d]+", record[at])) for record in even) for at in range(width)]
    return spaced >= _MOSTLY * len(even) and min(words) >= 2 * len(even)


def _advice_on_labels(path: str, lines: Sequence[str]) -> str | None:
    """What to do about lines of a label and a text that are not separated as in a table."""
    if not lines:
        return None
    if all(line.startswith(_FAST_TEXT) for line in lines):
        code = 'line.removeprefix(b"__label__").replace(b" ", b"\\t", 1)'
        return f"Its lines are labelled as for fastText. {_by_python(path, code)} --no-header --columns label,text"
    for mark, last in itertools.product(_CLASS_MARKS, (True, False)):
        split = [line.rsplit(mark, 1) if last else line.split(mark, 1) for line in lines]
        labels = [parts[-1 if last else 0] for parts in split if len(parts) > 1]
        if sum(usual_class(label) is not None for label in labels) < _MOSTLY * len(lines):
            continue
        names = "text,label" if last else "label,text"
        if all(line.count(mark) == 1 for line in lines):
            return f"Its lines are {names} with {mark!r} between: --format csv --delimiter '{mark}' --no-header --columns {names}"
        command = _by_python(path, f'b"\\t".join(line.{"rsplit" if last else "split"}(b"{mark}", 1))')
        return f"Its lines are {names} with {mark!r} between, which texts hold too. {command} --no-header --columns {names}"
    return None


def _by_python(path: str, code: str) -> str:
    """The command that makes a TSV of the lines, whatever their encoding, and how to read that."""
    filled = f"import sys; [sys.stdout.buffer.write({code}) for line in sys.stdin.buffer]"
    target = shlex.quote(f"{path}.tsv")
    return f"Make a table of them: python -c {shlex.quote(filled)} < {shlex.quote(path)} > {target}; then read {target} with"
