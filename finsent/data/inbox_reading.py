"""Reads a file of unlabelled tweets: id, time and text of each row, or why it is rejected."""

import dataclasses
import logging
import shlex
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from finsent.data.quarantine import input_identity
from finsent.data.sources.column_times import SourceTimes, with_time_form
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.reading import quarantine_row
from finsent.data.sources.records import QuarantinedRow, RawRow, RequestedColumns, SourceFile, inbox_columns
from finsent.data.validation.dates import is_missing
from finsent.data.validation.ids import FEWEST_NUMBERS, find_id_column, find_id_fault, is_good_part, likely_id_columns
from finsent.data.validation.row_validation import Rejection, check_id, check_time, reject_json
from finsent.data.validation.text_cleaning import CleanText, clean_text, mask_handles
from finsent.errors import InputError, escape_invalid, quoted, shorten
from finsent.text import text_id

_log = logging.getLogger(__name__)


class InboxRow(NamedTuple):
    """A row for the inbox and its origin. A tuple to save memory: there may be millions."""

    id: str
    created_at: datetime | None
    text: str
    """As stored."""
    given_id: str | None
    """Identity of the text as it came, where repairing it made another one: what earlier releases stored it by."""
    raw: RawRow
    """As read."""
    file: SourceFile
    input: str
    """See `input_identity`."""


class FileRows(NamedTuple):
    """What one file held."""

    rows: list[InboxRow]
    bad: list[QuarantinedRow]
    read: int
    """Number of both."""
    undated: int
    """Rows taken without their date, which cannot be read."""
    flags: Counter[str]
    """Rows by what was noticed about their texts."""
    advice: str | None = None
    """What its reader should know of its ids: a column that looks like them and is not read, or rows without one."""
    bad_raw: Sequence[RawRow] = ()
    """The rows of `bad` as read."""
    id_column: str | None = None
    """Column that `RawRow.id` is of; None where the file has none that is called as ids are."""


def read_file(
    file: SourceFile, times: SourceTimes | None = None, *, max_characters: int, masked: bool, repaired: bool = True
) -> FileRows:
    """Read a file to its end; texts are stored as labelled ones are, see `clean_text`. `times` is of all files of its source.

    Raises:
        InputError: it is damaged, a column is missing, or the one of the ids holds none.
        ServiceError: a store or database does not answer.
    """
    wanted = inbox_columns(file.source)
    good, unreadable, bad_raw, rounded, number_read, undated, now = [], [], [], [], 0, 0, datetime.now(UTC)
    flags: Counter[str] = Counter()
    for batch, form in with_time_form(read_rows(file, wanted), file, now, times):
        number_read += len(batch)
        for raw in batch:
            checked = check_row(raw, max_characters, now, form, repaired=repaired, has_ids=not wanted.likely_ids)
            if isinstance(checked, Rejection):
                unreadable.append(refuse(raw, checked, file, masked))
                bad_raw.append(raw)
                if checked.reason == "rounded id":
                    rounded.append(str(raw.id))
            else:
                name, moment, (text, noticed), given_id = checked
                undated += moment is None and not is_missing(raw.created_at)
                flags.update(noticed)
                good.append((name, moment, mask_handles(text) if masked else text, given_id, raw))
    advice = _judge_ids(file, wanted, good, rounded, number_read)
    given = input_identity(fingerprint_file(file))
    rows = [InboxRow(*row, file, given) for row in good]
    if undated:
        _log.warning("%s: %d rows are taken without a date, since theirs cannot be read", file.label, undated)
    bad = [dataclasses.replace(row, input=given) for row in unreadable]
    return FileRows(rows, bad, number_read, undated, flags, advice, bad_raw, _id_column(wanted))


def _id_column(wanted: RequestedColumns) -> str | None:
    named = wanted.required.get("id") or next(iter(wanted.likely_ids), None)
    return named or next((name for role, name in wanted.optional.items() if role == "id" and name in wanted.seen_columns), None)


def _judge_ids(
    file: SourceFile,
    wanted: RequestedColumns,
    good: Sequence[tuple[str, datetime | None, str, str | None, RawRow]],
    rounded: Sequence[str],
    rows: int,
) -> str | None:
    """Which column looks like the ids, where none is read as that; or how many rows have none.

    Raises:
        InputError: the one that is read holds none.
    """
    if wanted.likely_ids:
        column, why_likely = find_id_column({wanted.likely_ids[0]: [raw.id for *_, raw in good]})
        seen = f"{file.uri!r}: its tweets are known by their texts"
        if column is None:
            return f"{seen}, for column {why_likely}"
        return (
            f"{seen}, and a column looks like their ids: {why_likely}. Read it with --id {shlex.quote(column)}, or say --id none"
        )
    ids = [name for name, *_, raw in good if not is_missing(raw.id)]
    # a query's numbers are keys of its table, and who names a column has looked at it
    trusted = file.format == "sql" or file.source.id is not None
    if (why := find_id_fault(ids, rounded, rows, may_be_numbers=trusted)) is not None:
        raise InputError(f"{no_ids(file, why, wanted.seen_columns)} Nothing was written.")
    if 0 < len(ids) < len(good):
        return f"{file.uri!r}: {len(good) - len(ids)} of its {rows} rows have no id, and are known by their texts"
    return None


def find_reuse(rows: Sequence[InboxRow], reused: Sequence[tuple[InboxRow, QuarantinedRow]]) -> dict[int, str]:
    """Files of which a good part of the rows reuse an id, and what to do about each, by the `id` of their `SourceFile`.

    A source's files of a few rows are judged together: each may begin anew with its only row.
    """
    if not reused:
        return {}
    all_of, reused_of = Counter(id(row.file) for row in rows), Counter(id(row.file) for row, _ in reused)
    small = {key for key, count in all_of.items() if count < FEWEST_NUMBERS}
    all_in = Counter(row.file.source.uri for row in rows if id(row.file) in small)
    reused_in = Counter(row.file.source.uri for row, _ in reused if id(row.file) in small)
    found: dict[int, str] = {}
    for item, row in reused:
        file, key, uri = item.file, id(item.file), item.file.source.uri
        if key in found:
            continue
        if is_good_part(reused_of[key], all_of[key]) or (key in small and is_good_part(reused_in[uri], all_in[uri])):
            why = (
                f"{reused_of[key]:,} of its {all_of[key]:,} rows reuse one for another text, such as: {shorten(row.detail, 300)}"
            )
            found[key] = no_ids(file, why)
    return found


def no_ids(file: SourceFile, why: str, columns: Sequence[str] = ()) -> str:
    """The message that a column holds no ids."""
    column = file.source.id or "id"
    others = [name for name in likely_id_columns(columns) if name != column]
    return (
        f"{file.uri!r}: the column {quoted(column)} holds no ids of tweets: {why}. Name the column that does "
        f"(--id {shlex.quote(others[0]) if others else 'COLUMN'}), or know each tweet by its text (--id none)."
    )


def refuse(raw: RawRow, why: Rejection, file: SourceFile, masked: bool) -> QuarantinedRow:
    """For the quarantine, which records a row once by its place: in a query's result that is its id, since the order changes."""
    row = quarantine_row(raw, why, file, mask=masked)
    if file.format != "sql":
        return row
    place = row.place if raw.id is None else f"{row.place}, id {shorten(escape_invalid(str(raw.id)))}"
    return dataclasses.replace(row, place=place, number=0)


def check_row(
    raw: RawRow, longest: int, now: datetime, form: str | None, *, repaired: bool, has_ids: bool
) -> tuple[str, datetime | None, CleanText, str | None] | Rejection:
    """Id, time and text of a row and `InboxRow.given_id`, or why it is rejected."""
    if (fault := raw.fault or reject_json(raw.text)) is not None:
        return fault
    clean = clean_text(raw.text, longest, repaired=repaired, whole=raw.whole)
    if isinstance(clean, Rejection):
        return clean
    moment = check_time(raw.created_at, now, form)
    if isinstance(moment, Rejection):
        moment = None  # a prediction needs no date
    own_id = check_id(raw.id) if has_ids else None
    if isinstance(own_id, Rejection):
        return own_id
    if clean.text == raw.text:
        return own_id or text_id(clean.text), moment, clean, None
    identity, given_id = text_id(clean.text), text_id(str(raw.text))
    return own_id or identity, moment, clean, None if given_id == identity else given_id
