"""The CSV file that a reviewer fills in: one row a line, with empty columns for the decision."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from finsent.errors import InputError

COLUMNS: Final = ("id", "text", "label", "suggested", "confidence", "source", "kind", "detail", "decision", "new_label", "why")
_FILLED: Final = ("id", "decision", "new_label", "why")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")  # what spreadsheets take for the start of a formula and may run


@dataclass(frozen=True, slots=True)
class ReviewEntry:
    """A row to review."""

    id: str
    text: str
    label: str
    """Current label."""
    suggested: str
    """Label that the model predicts; empty for a conflict."""
    confidence: float | None
    """Predicted probability of the current label; None for a conflict."""
    source: str
    kind: Literal["suspect", "conflict"]
    detail: str
    """Split of a suspect, or both sides of a conflict."""


@dataclass(frozen=True, slots=True)
class FilledEntry:
    """A decision that a reviewer filled in, white space stripped."""

    line: int
    """Last line of the row in the file, from 1."""
    id: str
    decision: str
    new_label: str
    why: str


def write_entries(entries: Iterable[ReviewEntry], path: Path) -> None:
    """Write the file atomically, in UTF-8 with a byte order mark for spreadsheets.

    A text that a spreadsheet would run as a formula gets a leading apostrophe; the text is never read back.

    Raises:
        InputError: the file cannot be written, or exists already and may hold decisions.
    """
    if path.exists():
        raise InputError(f"{str(path)!r} is there already, and may hold decisions. Name another file, or remove it.")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for entry in entries:
        confidence = "" if entry.confidence is None else f"{entry.confidence:.4f}"
        shown = (
            _safe(value)
            for value in (entry.text, entry.label, entry.suggested, confidence, entry.source, entry.kind, entry.detail)
        )
        writer.writerow([entry.id, *shown, "", "", ""])
    part = path.with_name(path.name + ".part")
    try:
        part.write_text(text.getvalue(), encoding="utf-8-sig", newline="")
        part.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror}.") from error


def read_entries(path: Path) -> list[FilledEntry]:
    """Rows with a decision. Fields are separated by comma, semicolon or tab, as spreadsheets save them.

    Raises:
        InputError: no such file, not UTF-8, a column missing, a row with other fields than the header, or a `new_label` without
            a decision.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            text = file.read()
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{str(path)!r} is not UTF-8 (byte {error.start}). Save it as 'CSV UTF-8', or the texts of tweets get lost."
        ) from error
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        columns = [name.strip() for name in next(reader, [])]
        if missing := [name for name in _FILLED if name not in columns]:
            raise InputError(
                f"{str(path)!r} has no column {missing[0]!r}. Columns: {', '.join(map(repr, columns))}. "
                "`finsent review list --out FILE` writes such a file."
            )
        places = [columns.index(name) for name in _FILLED]
        rows = [_filled(path, record, reader.line_num, len(columns), places) for record in reader if any(record)]
    except csv.Error as error:
        raise InputError(f"{str(path)!r}, line {reader.line_num}: {error}. Nothing was recorded.") from error
    return [row for row in rows if row.decision]


def _filled(path: Path, record: list[str], line: int, width: int, places: list[int]) -> FilledEntry:
    if len(record) != width:
        raise InputError(f"{str(path)!r}, line {line}: {len(record)} fields, and the header has {width}. Nothing was recorded.")
    row_id, decision, new_label, why = (record[place].strip() for place in places)
    if new_label and not decision:
        raise InputError(
            f"{str(path)!r}, line {line}: new_label {new_label!r} without a decision. Write fix beside it. Nothing was recorded."
        )
    return FilledEntry(line, row_id, decision.casefold(), new_label, why)


def _safe(value: str) -> str:
    return "'" + value if value.startswith(_FORMULA) else value
