"""Decides how a file's column of times is read: from the first rows that have any, or from all where these leave it open."""

import logging
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime
from typing import Final

from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, RequestedColumns, SourceFile
from finsent.data.validation.dates import ColumnTimes, check_form, is_missing, read_column
from finsent.errors import InputError, escape_invalid

_log = logging.getLogger(__name__)

_NEARLY_ALL: Final = 0.9


def with_time_form(
    batches: Iterable[list[RawRow]], file: SourceFile, now: datetime, *, needed: bool = False
) -> Iterator[tuple[list[RawRow], str | None]]:
    """The batches, each with the form that `parse_time` reads its times by.

    Args:
        batches: Rows of the file.
        file: Its source may name the form.
        now: Current time.
        needed: Whether rows without a time are of no use (`data.split: time`).

    Raises:
        InputError: the dates leave more than one reading, or a form that was given reads none of them.
    """
    form, decided = file.source.date_format, False
    if form is not None:
        check_form(form)
    for batch in batches:
        if not decided and not all(is_missing(raw.created_at) for raw in batch):
            found, decided = read_column((raw.created_at for raw in batch), now, form), True
            # what other rows decide, later ones may contradict; a query is not asked twice for that
            if found.choices or (found.form != form and file.format != "sql"):
                found = read_column(_whole_column(file), now, form)
            form = _require_reading(found, file, needed=needed)
        yield batch, form


def _whole_column(file: SourceFile) -> Iterator[object]:
    """All values of the column; the file is opened a second time, since its rows are not kept."""
    wanted = RequestedColumns({"created_at": _column(file)})
    for batch in read_rows(replace(file, seen={}), wanted):
        yield from (raw.created_at for raw in batch)


def _column(file: SourceFile) -> str:
    return file.source.created_at or "created_at"


def _require_reading(found: ColumnTimes, file: SourceFile, *, needed: bool) -> str | None:
    column = _column(file)
    if found.choices:
        readings = "; ".join(
            f"--date-format {form} reads {escape_invalid(value)} as {moment:%d %B %Y %H:%M}"
            for form, value, moment in found.choices
        )
        what = "are numbers of a spreadsheet's days" if found.name == "excel" else "can be read in more than one way"
        raise InputError(
            f"{file.uri!r}: the dates in column {column!r} {what}, and none is guessed. Say which (or `date_format` in the "
            f"source): {readings}. Or leave them out: --created-at none. Nothing was written."
        )
    if found.dates < 2 or found.unreadable < _NEARLY_ALL * found.dates:
        return found.form
    problem = f"{file.uri!r}: nearly all dates in column {column!r} are unreadable, such as {found.bad}"
    how = "Say their form with --date-format ('%d.%m.%Y %H:%M', or `date_format` in the source), or write them in ISO 8601"
    if found.form is not None:
        raise InputError(f"{problem}, by the date_format {found.form!r}. Correct it. Nothing was written.")
    if needed and file.source.created_at is None:
        raise InputError(f"{problem}. Rows are split by time (data.split). {how}. Nothing was written.")
    if not needed:
        _log.warning("%s: all rows are taken without a date. %s, or name another column with --created-at", problem, how)
    return found.form
