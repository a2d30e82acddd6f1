"""What became of each row of a file that the inbox received: the id that it is scored by, or why it is not."""

from collections.abc import Sequence
from typing import NamedTuple

from finsent.data.inbox_reading import FileRows, InboxRow
from finsent.data.sources.records import QuarantinedRow, RawRow, SourceFile
from finsent.data.validation.text_cleaning import mask_handles
from finsent.errors import escape_invalid


class ReceivedRow(NamedTuple):
    """One row. A tuple to save memory: there may be millions."""

    number: int
    """From 1, as its file has it."""
    own_id: object
    """As its file has it."""
    text: str | None
    """As its file has it, but for handles where these are masked."""
    id: str | None
    """What the inbox and the predictions know it by; None where it is not received."""
    reason: str | None
    """Why it is not."""


class ReceivedFile(NamedTuple):
    """One file, with its rows in its own order."""

    uri: str
    id_column: str | None
    """Column that `own_id` is of."""
    rows: list[ReceivedRow]


def trace_rows(
    files: Sequence[tuple[SourceFile, FileRows]],
    stored: Sequence[InboxRow],
    refused: Sequence[tuple[InboxRow, QuarantinedRow]],
    *,
    masked: bool,
) -> list[ReceivedFile]:
    """Rows of each file, those in the inbox (`stored`), those of them whose ids were reused, and those that were bad already."""
    why = {(id(item.file), item.raw.number): f"{row.reason}: {row.detail}" for item, row in refused}
    by_file: dict[int, list[ReceivedRow]] = {id(file): [] for file, _ in files}
    for item in stored:
        reason = why.get((id(item.file), item.raw.number))
        by_file[id(item.file)].append(_row(item.raw, str(item.raw.text), None if reason else item.id, reason, masked=masked))
    traced = []
    for file, found in files:
        rows = by_file[id(file)]
        for raw, row in zip(found.bad_raw, found.bad, strict=True):
            # an unreadable text is masked in the quarantine's own way
            text = raw.text if isinstance(raw.text, str) and not masked else row.text
            rows.append(_row(raw, None if raw.text is None else text, None, f"{row.reason}: {row.detail}", masked=False))
        rows.sort(key=lambda row: row.number)
        traced.append(ReceivedFile(escape_invalid(file.uri), found.id_column, rows))
    return traced


def _row(raw: RawRow, text: str | None, row_id: str | None, reason: str | None, *, masked: bool) -> ReceivedRow:
    shown = None if text is None else escape_invalid(mask_handles(text) if masked else text)
    return ReceivedRow(raw.number, raw.id, shown, row_id, reason)
