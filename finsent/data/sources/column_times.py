"""Decides how a file's column of times is read.

From the first rows that have any time; where these leave it open, from all rows of the file; where they do, too, from those of
the other files of its source.
"""

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, RequestedColumns, SourceFile
from finsent.data.validation.dates import ColumnTimes, check_form, is_missing, read_column
from finsent.errors import InputError, escape_invalid

_log = logging.getLogger(__name__)

_NEARLY_ALL: Final = 0.9


@dataclass
class SourceTimes:
    """The order of day, month and year in the files of one source, which is one."""

    files: Sequence[SourceFile]
    shown: dict[str, tuple[str, str, datetime]] = field(default_factory=dict)
    """Order to the address of a file that shows it, with the value that only this order reads."""
    _looked: bool = False

    def look_at_all(self, now: datetime) -> None:
        """Find what each file shows, once.

        Raises:
            InputError: they contradict each other.
        """
        for file in () if self._looked else self.files:
            self.require_agreement(read_column(_whole_column(file), now), file)
        self._looked = True

    def require_agreement(self, found: ColumnTimes, file: SourceFile) -> None:
        """Check the order that a file shows against that of the files before it.

        Raises:
            InputError: they differ.
        """
        if found.form is None or found.decided_by is None:
            return
        self.shown.setdefault(found.form, (file.uri, *found.decided_by))
        if len(self.shown) > 1:
            said = "; ".join(
                f"{uri!r} is {order}, as {escape_invalid(value)} is {moment:%d %B %Y}"
                for order, (uri, value, moment) in self.shown.items()
            )
            raise InputError(
                f"files of one source write dates in different orders: {said}. Ingest them on their own, each with its "
                "--date-format, or leave the dates out: --created-at none. Nothing was written."
            )


def with_time_form(
    batches: Iterable[list[RawRow]], file: SourceFile, now: datetime, times: SourceTimes | None = None, *, needed: bool = False
) -> Iterator[tuple[list[RawRow], str | None]]:
    """The batches, each with the form that `parse_time` reads its times by.

    Args:
        batches: Rows of the file.
        file: Its source may name the form.
        now: Current time.
        times: What the files of its source show; None where it is looked at alone.
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
            if times is not None and file.source.date_format is None and len(times.files) > 1:
                found = _agreed(found, file, times, now)
            form = _require_reading(found, file, needed=needed)
        yield batch, form


def _agreed(found: ColumnTimes, file: SourceFile, times: SourceTimes, now: datetime) -> ColumnTimes:
    """How a file is read in agreement with the others of its source: by them, where it leaves its order open.

    Raises:
        InputError: they contradict each other.
    """
    orders = {order for order, *_ in found.choices}
    if not orders or "excel" in orders:
        times.require_agreement(found, file)
        return found
    times.look_at_all(now)
    order, (uri, value, _) = next(iter(times.shown.items()), (None, ("", "", now)))
    if order not in orders:
        return found
    _log.warning("%r: its dates are read %s, as %r in %r is", file.uri, order, value, uri)
    return replace(found, form=order, name=str(order), choices=())


def _whole_column(file: SourceFile) -> Iterator[object]:
    """All values of the column, if there is one; the file is opened a second time, since its rows are not kept."""
    column = {"created_at": _column(file)}
    named = file.source.created_at is not None
    wanted = RequestedColumns({"text": file.source.text} | (column if named else {}), {} if named else column)
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
