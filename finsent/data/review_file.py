"""What a reviewer hands in: the CSV file that lists rows with empty columns for decisions, and ids or prefixes of ids."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.corrections import ReviewDecision, load_decisions
from finsent.data.output_file import csv_cell, new_file
from finsent.data.quarantine import ids_of, labels_of
from finsent.data.validation.row_validation import CONFLICT
from finsent.errors import InputError, one_line
from finsent.workspace import Workspace

_SHOWN: Final = ("id", "text", "label", "suggested", "confidence", "error_probability", "source", "source_id", "kind", "detail")
COLUMNS: Final = (*_SHOWN, "decision", "new_label", "why")
_FILLED: Final = ("id", "decision", "new_label", "why")
_ID_DIGITS: Final = 32


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
    source_id: str | None = None
    """The source's own id; None where no id column was named when it was read."""
    error_probability: float | None = None
    """Estimated probability that the label is wrong; None for a conflict."""


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

    Its cells are `csv_cell`s: the text is never read back.

    Raises:
        InputError: the file cannot be written, or exists already and may hold decisions.
    """
    if path.exists():
        raise InputError(f"{str(path)!r} is there already, and may hold decisions. Name another file, or remove it.")
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for entry in entries:
        values = (getattr(entry, name) for name in _SHOWN)
        shown = (f"{value:.4f}" if isinstance(value, float) else value or "" for value in values)
        writer.writerow([*map(csv_cell, shown), "", "", ""])
    with new_file(path) as file:
        file.write(text.getvalue().encode("utf-8-sig"))


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
        raise InputError(f"{str(path)!r}, line {reader.line_num}: {one_line(error)}. Nothing was recorded.") from error
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


@dataclass(frozen=True)
class IdLookup:
    """Texts that the given ids can mean."""

    texts: dict[str, str]
    stored: dict[str, str]
    """Labels of those in the data."""
    contradictory: dict[str, set[str]]
    """Labels under which the others were quarantined as contradictory."""
    decided: dict[str, ReviewDecision]

    @classmethod
    def load(cls, home: Workspace, ids: Sequence[str]) -> "IdLookup":
        """All texts in the tables whose id begins with one of `ids`."""
        given = {item.strip().casefold() for item in ids}
        whole = {item for item in given if len(item) == _ID_DIGITS}  # a filled listing may give thousands
        prefixes = tuple(given - whole)
        rows = tables.read(home, "tweets", columns=["id", "text", "label"], filters=_id_filter(whole, prefixes)).to_pylist()
        texts = {row["id"]: row["text"] for row in rows}
        labels: dict[str, set[str]] = defaultdict(set)
        columns, filters = ["id", "text", "reason", "detail", "label"], pc.field("reason").isin([CONFLICT, "dropped by review"])
        for batch in tables.batches(home, "quarantine", columns, filters=filters):
            read = zip(ids_of(batch), batch["reason"].to_pylist(), labels_of(batch), strict=True)
            for row, (row_id, reason, label) in enumerate(read):
                if row_id in whole or row_id.startswith(prefixes):
                    texts.setdefault(row_id, batch["text"][row].as_py())
                    if reason == CONFLICT:
                        labels[row_id].add(label)
        return cls(texts, {row["id"]: row["label"] for row in rows}, dict(labels), load_decisions(home))

    def resolve(self, given: str) -> str:
        """The full id. A full id without a known text is accepted; a prefix must match exactly one known id.

        Raises:
            InputError: no id, or a prefix of none or of several.
        """
        prefix = given.strip().casefold()
        if not prefix or len(prefix) > _ID_DIGITS or set(prefix) - set("0123456789abcdef"):
            raise InputError(f"{given!r} is no id: ids are {_ID_DIGITS} hexadecimal digits. `finsent review list` shows them.")
        if len(prefix) == _ID_DIGITS:
            return prefix
        found = sorted(row_id for row_id in {*self.texts, *self.decided} if row_id.startswith(prefix))
        if len(found) != 1:
            several = f"begins {len(found)} ids ({', '.join(found[:3])}{', …' if len(found) > 3 else ''})"
            raise InputError(f"{given!r} {several if found else 'begins the id of no known text'}. Give more of it.")
        return found[0]

    def check(self, row_id: str, decision: ReviewDecision) -> None:
        """Check a decision against what is known of the text.

        Raises:
            InputError: `accept` where the text has several labels, or was fixed to another.
        """
        if decision.kind != "accept":
            return
        before = self.decided.get(row_id)
        if before is not None and before.kind == "fix":
            raise InputError(
                f"{row_id!r} was fixed to {before.label}, so that its own label no longer counts. To undo that, fix it to the "
                "label it had; to confirm it, there is nothing to do."
            )
        there = self.stored.get(row_id)
        labels = sorted({*self.contradictory.get(row_id, ()), *([there] if there else ())})
        if len(labels) > 1:
            stands = f"; the data has {there}" if there else ""
            raise InputError(f"{row_id!r} was read as {' and as '.join(labels)}{stands}: say which with fix, or drop it.")


def _id_filter(whole: Iterable[str], prefixes: Iterable[str]) -> Any:
    wanted = pc.field("id").isin(pa.array(list(whole), pa.string()))
    for prefix in prefixes:
        wanted |= pc.starts_with(pc.field("id"), pattern=prefix)
    return wanted
