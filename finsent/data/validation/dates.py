"""Times of writing: finds the one reading of a whole column, and reads its values. Pure: the caller passes the clock.

A value that says itself what it means is read by that: ISO 8601, Twitter's form, RFC 2822, month names, digits whose size
leaves one unit. Numbers such as 05/01/2021 do not say it: other values of the column may. What no value says is never guessed:
the caller stops and shows the choices. No tweet is older than Twitter, which takes most readings away. Times without a zone are
UTC.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import partial
from types import MappingProxyType
from typing import Final

from finsent.errors import InputError, quoted

FIRST_TWEET: Final = datetime(2006, 3, 21, tzinfo=UTC)
CLOCK_SKEW: Final = timedelta(days=1)
"""How far ahead of our clock a tweet may be: clocks and time zones of sources are inexact."""

_MISSING: Final = frozenset(
    {"", "nan", "nat", "none", "null", "<na>", "n/a", "na", "#n/a", "\\n", "(null)", "undefined"}
)  # as pandas, SQL, Excel, R, dumps of databases and JavaScript write it
_ORDERS: Final[Mapping[str, tuple[int, int, int]]] = MappingProxyType(
    {"day-first": (2, 1, 0), "month-first": (2, 0, 1), "year-first": (0, 1, 2)}
)
"""Places of year, month and day."""
_UNITS: Final[Mapping[str, int]] = MappingProxyType({"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9})
_SERIAL_ZERO: Final = datetime(1899, 12, 30, tzinfo=UTC)  # not 31: Excel counts a 29 February 1900
_LATEST_SECOND: Final = 1e10  # since 1970, in the year 2286; as milliseconds that is April 1970
_OUTLIERS: Final = 0.01  # share of a column's dates that may contradict the others and be faults of their rows
_MANY: Final = 3
_SHOWN: Final = 2

_MONTHS: Final = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_ZONES: Final = (
    dict.fromkeys(("", "z", "utc", "gmt", "ut", "wet"), 0)
    | {"est": -5, "edt": -4, "cst": -6, "cdt": -5, "mst": -7, "mdt": -6, "pst": -8, "pdt": -7}  # as RFC 2822 has them
    | {"cet": 1, "cest": 2, "eet": 2, "eest": 3, "west": 1, "msk": 3, "jst": 9}
)
_DAY_NAME: Final = r"(?:(?:mon|tues?|wed(?:nes)?|thu(?:rs?)?|fri|sat(?:ur)?|sun)(?:day)?\.?,?\s+)?"
_MONTH: Final = (
    r"(?P<name>jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    r"|nov(?:ember)?|dec(?:ember)?)\.?"
)
_CLOCK: Final = (
    r"(?P<hour>\d{1,2})[:.h](?P<minute>\d\d)(?:[:.](?P<second>\d\d)(?:[.,:](?P<fraction>\d{1,9}))?)?"
    r"(?:\s*(?P<half>[ap])\.?m\.?|\s*uhr)?"
)
_ZONE: Final = r"(?:\s*(?P<zone>[a-z]{0,4}?)\s*(?P<offset>[+-]\d\d?(?::?\d\d)?)?(?:\s*\([^)]*\))?)"
_GAP: Final = r"(?:[\s,:·]|(?<=\s)-(?=\s)|-(?=\d\d\.\d\d\.)|\b(?:at|um|klo|kl\.|à)(?=\s)|t(?=\d))*"
_DAY: Final = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_DATES: Final = (
    r"(?P<a>\d{1,4})(?P<mark>[/.-])(?P<b>\d{1,2})(?P=mark)(?P<c>\d{1,4})\.?",
    rf"{_DAY}[\s/.-]*{_MONTH}[\s/.,-]*(?P<year>\d{{4}}|\d\d(?!\d|:))",
    rf"{_MONTH}[\s/.-]*{_DAY}[\s/.,-]+(?P<year>\d{{4}}|\d\d(?!\d|:))",
    rf"(?P<year>\d{{4}})[\s/.-]*{_MONTH}[\s/.-]*{_DAY}",
)
_FORMS: Final = tuple(
    re.compile(form, re.IGNORECASE)
    for form in (
        rf"{_DAY_NAME}{_MONTH}\s+{_DAY},?\s+{_CLOCK}{_ZONE}\s+(?P<year>\d{{4}})",  # Twitter's, ctime, Java
        *(rf"{_DAY_NAME}{dates}(?:{_GAP}{_CLOCK}{_ZONE})?" for dates in _DATES),
        *(rf"{_CLOCK}{_ZONE}\s*[\s,·-]\s*{dates}" for dates in _DATES),
    )
)
_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:[.,]\d*)?|\d[.,]\d{9,}[eE]\+?\d+)")  # not 1.61E+09, which was rounded
_BASIC_ISO: Final = re.compile(r"\d{8}T\d")
_DOTNET: Final = re.compile(r"\\?/Date\((-?\d+)(?:[+-]\d{4})?\)\\?/")


@dataclass(frozen=True)
class ColumnTimes:
    """How a column of times is read."""

    form: str | None
    """For `parse_time`; None where every value says itself what it means."""
    name: str
    examples: tuple[tuple[str, datetime], ...] = ()
    """Two values, as they are read."""
    dates: int = 0
    """Values that are there."""
    unreadable: int = 0
    """Those of them that cannot be read."""
    bad: str | None = None
    """One of these, quoted."""
    decided_by: tuple[str, datetime] | None = None
    """A value that only this order of day, month and year reads; None where none shows it."""
    choices: tuple[tuple[str, str, datetime], ...] = ()
    """Forms that `--date-format` could name, each with a value and how it would be read; more than none: somebody has to say."""


def is_missing(value: object) -> bool:
    """Whether a field holds no value, in one of the ways that CSV, pandas and SQL write that."""
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def check_form(form: str) -> None:
    """Check a `date_format`.

    Raises:
        InputError: it is neither a name nor a form of strptime that holds a whole date.
    """
    if form in _ORDERS or form in _UNITS or form == "excel":
        return
    cause = None
    try:
        sample = datetime(2021, 11, 23, 20, 5, tzinfo=UTC)
        if "%" in form and _strptime(sample.strftime(form), form).date() == sample.date():
            return
    except ValueError as error:
        cause = error
    raise InputError(
        f"date_format {form!r} is no form of a whole date. Give one as of Python's strptime, e.g. '%d.%m.%Y %H:%M', or one of "
        f"{', '.join((*_ORDERS, 'excel', *_UNITS))}."
    ) from cause


def parse_time(value: object, form: str | None = None) -> datetime | None:
    """A time in UTC; None where the value is none that `form` reads, or not one of a tweet: before Twitter.

    Args:
        value: As its source has it.
        form: An order (`day-first`), `excel`, a unit, or a form of strptime; None reads what a value says itself.
    """
    try:
        found = _parse(value, form)
        if found is None:
            return None
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError, OSError, TypeError):  # not a time, or outside the calendar's range
        return None
    return found if found >= FIRST_TWEET else None


def _parse(value: object, form: str | None) -> datetime | None:
    if isinstance(value, dict) and len(value) == 1:
        value = value.get("$date")  # as MongoDB exports it
    if isinstance(value, str):
        return _parse_text(value.strip(), form)
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    return _from_number(value, form) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else None


def _parse_text(text: str, form: str | None) -> datetime | None:
    if form is not None and "%" in form:
        return _strptime(text, form)
    if text[4:5] == "-":
        try:
            return datetime.fromisoformat(text)
        except ValueError:
            if text.endswith((" UTC", " GMT")):  # as BigQuery writes it: worth a way of its own
                with suppress(ValueError):
                    return datetime.fromisoformat(f"{text[:-4]}+00:00")
    return _from_number(text, form) if _NUMBER.fullmatch(text) else _from_text(text, form)


def _strptime(text: str, form: str) -> datetime:
    return datetime.strptime(text, form)  # noqa: DTZ007 - the caller takes what has no zone as UTC


def _from_number(value: str | float | Decimal, form: str | None) -> datetime | None:
    """A time written as digits: in the unit that is given, or else the one reading that is a time of a tweet."""
    digits = value if isinstance(value, str) else str(value)
    if (form is None or form in _ORDERS) and (compact := _compact(digits)):
        return compact
    number = float(digits.replace(",", "."))
    if form == "excel":
        return _from_serial(number)
    if form is not None and form in _UNITS:
        return _from_epoch(number, _UNITS[form])
    return next((_from_epoch(number, unit) for unit in _UNITS.values() if abs(number) < _LATEST_SECOND * unit), None)


def _from_epoch(number: float, unit: int) -> datetime | None:
    return datetime.fromtimestamp(number / unit, UTC) if abs(number) < _LATEST_SECOND * unit else None


def _from_serial(number: float) -> datetime | None:
    """A spreadsheet's days since 1900, to the millisecond: what Excel keeps."""
    if not 1 <= number < 1e6:
        return None
    return _SERIAL_ZERO + timedelta(milliseconds=round(number * 86_400_000))


def _compact(digits: str) -> datetime | None:
    """20210114, 202101142310 or 20210114231054, where that is a time of a tweet."""
    whole = digits.removesuffix(".0")
    if not whole.startswith("20") or not whole.isdecimal() or len(whole) not in (8, 12, 14):
        return None
    try:
        return datetime.strptime(whole.ljust(14, "0"), "%Y%m%d%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None


def _match(text: str) -> re.Match[str] | None:
    if len(text) > 100 or not any(character.isdecimal() for character in text):
        return None
    text = " ".join(text.split())  # of a long gap the forms would try each way to share it out
    return next((found for form in _FORMS if (found := form.fullmatch(text))), None)


def _from_text(text: str, form: str | None) -> datetime | None:
    if _BASIC_ISO.match(text):
        return datetime.fromisoformat(text)
    if wrapped := _DOTNET.fullmatch(text):
        return _from_number(int(wrapped[1]), "ms")
    if (found := _match(text)) is None:
        return None
    parts = found.groupdict()
    if parts.get("name"):
        return _moment(parts, _full_year(parts["year"]), _MONTHS.index(parts["name"][:3].lower()) + 1, int(parts["day"]))
    if len(parts["a"]) == 4:
        form = "year-first"
    return _in_order(parts, form) if form is not None and form in _ORDERS else None


def _in_order(parts: Mapping[str, str], order: str) -> datetime | None:
    """The time in an order of year, month and day; a year has four digits or two."""
    numbers = (parts["a"], parts["b"], parts["c"])
    year, month, day = (numbers[place] for place in _ORDERS[order])
    return _moment(parts, _full_year(year), int(month), int(day)) if len(year) in (2, 4) and len(day) <= 2 else None


def _full_year(year: str) -> int:
    return int(year) + 2000 if len(year) == 2 else int(year)


def _moment(parts: Mapping[str, str], year: int, month: int, day: int) -> datetime | None:
    hour, zone, offset = int(parts["hour"] or 0), (parts["zone"] or "").lower(), parts["offset"]
    if zone not in _ZONES:
        return None
    if parts["half"]:
        if hour > 12:
            return None
        hour = hour % 12 + (12 if parts["half"] in "pP" else 0)
    hours = timedelta(hours=_ZONES[zone])
    if offset:
        numbers = offset[1:].replace(":", "").zfill(2)
        away = timedelta(hours=int(numbers[:2]), minutes=int(numbers[2:] or 0))
        hours = -away if offset[0] == "-" else away
    fraction = int((parts["fraction"] or "0")[:6].ljust(6, "0"))
    minute, second = int(parts["minute"] or 0), int(parts["second"] or 0)
    return datetime(year, month, day, hour, minute, second, fraction, timezone(hours))


@dataclass
class _Evidence:
    """What the values of a column say about the order of year, month and day."""

    now: datetime
    possible: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_ORDERS, 0))
    """Values that the order can read."""
    differing: tuple[str, dict[str, datetime]] | None = None
    """A value that orders read differently."""
    deciding: dict[str, tuple[str, datetime]] = field(default_factory=dict)
    """A value that only this order reads."""
    decided: int = 0
    """Values that only one order reads."""
    values: int = 0
    first: set[str] = field(default_factory=set)
    last: set[str] = field(default_factory=set)
    dashed: bool = False
    agree: bool = True
    """Whether every value is the same time in all orders that can read it."""

    def add(self, text: str, parts: Mapping[str, str]) -> bool:
        """Take a value; False where no order reads it."""
        read: dict[str, datetime] = {}
        for order in _ORDERS:
            moment = _sensible(partial(_in_order, parts, order), self.now)
            if moment is not None:
                read[order] = moment
                self.possible[order] += 1
        if not read:
            return False
        if len(read) == 1:
            self.decided += 1
            self.deciding.setdefault(next(iter(read)), (repr(text), next(iter(read.values()))))
        self.values += 1
        self.first.add(parts["a"])
        self.last.add(parts["c"])
        self.dashed |= parts["mark"] == "-"
        self.agree &= len(set(read.values())) == 1
        if self.differing is None or _tells_apart(read) > _tells_apart(self.differing[1]):
            self.differing = (text, read)
        return True

    def choices(self, orders: Iterable[str]) -> tuple[tuple[str, str, datetime], ...]:
        """The orders that are left with a value that they read differently; or those that only one can read."""
        text, read = self.differing or ("", {})
        shown = [(order, repr(text), read[order]) for order in orders if order in read]
        return tuple(shown or [(order, *example) for order, example in self.deciding.items()])

    def orders(self) -> list[str]:
        """The orders that read all values but for some outliers; of those that agree on every value, one."""
        found = [order for order, n in self.possible.items() if self.values - n <= _OUTLIERS * self.decided]
        # of two places that may be a year of two digits, the one that changes least is it
        changes_last, changes_first = len(self.last), len(self.first)
        if changes_last >= _MANY and changes_last > 2 * changes_first:
            found = [order for order in found if order == "year-first"] or found
        elif (changes_first >= _MANY and changes_first > 2 * changes_last) or not self.dashed:
            found = [order for order in found if order != "year-first"] or found
        return found


def _tells_apart(read: Mapping[str, datetime]) -> tuple[int, int]:
    """How well a value shows that orders differ: into how many times they read it, and how many read it."""
    return len(set(read.values())), len(read)


def _sensible(read: Callable[[], datetime | None], now: datetime) -> datetime | None:
    try:
        moment = read()
    except (ValueError, OverflowError):
        return None
    return moment if moment is not None and FIRST_TWEET <= moment <= now + CLOCK_SKEW else None


@dataclass
class _Column:
    """What the values of a column were, as they are counted."""

    now: datetime
    form: str | None
    dates: int = 0
    unreadable: int = 0
    bad: str | None = None
    examples: list[tuple[str, datetime]] = field(default_factory=list)
    serials: list[tuple[str, datetime]] = field(default_factory=list)
    """The first value that could be a spreadsheet's day, and as what."""
    n_serials: int = 0
    open_values: list[str] = field(default_factory=list)
    """The first that leave the order open."""

    def add(self, value: object, evidence: "_Evidence") -> None:
        """Take a value that is there."""
        self.dates += 1
        moment = parse_time(value, self.form)
        if moment is not None and moment <= self.now + CLOCK_SKEW:
            if len(self.examples) < _SHOWN:
                self.examples.append((quoted(value), moment))
            return
        text = value.strip() if isinstance(value, str) else ""
        if self.form is None and (found := _match(text)) and found.groupdict().get("a") and evidence.add(text, found.groupdict()):
            self.open_values += [text] if len(self.open_values) < _SHOWN else []
        elif self.form is None and (day := _serial_day(value, self.now)) is not None:
            self.n_serials += 1
            self.serials += [] if self.serials else [(quoted(value), day)]
        else:
            self.unreadable += 1
            self.bad = self.bad or quoted(value)


def read_column(values: Iterable[object], now: datetime, form: str | None = None) -> ColumnTimes:
    """How a column of times is to be read; `form` is what somebody said of it."""
    column, evidence = _Column(now, form), _Evidence(now)
    for value in values:
        if not is_missing(value):
            column.add(value, evidence)
    found = ColumnTimes(
        form=form,
        name=form or "each by its own form",
        examples=tuple(column.examples),
        dates=column.dates,
        unreadable=column.unreadable + column.n_serials,
        bad=column.bad or next((value for value, _ in column.serials), None),
    )
    if column.n_serials > _OUTLIERS * column.dates:
        return replace(found, name="excel", choices=tuple(("excel", *example) for example in column.serials))
    if not evidence.values:
        return found
    orders = evidence.orders()
    if not orders or (len(orders) > 1 and not evidence.agree):
        return replace(found, name="", choices=evidence.choices(orders))
    order = orders[0]
    read = [(repr(text), moment) for text in column.open_values if (moment := parse_time(text, order)) is not None]
    misfits = evidence.values - evidence.possible[order]
    examples = tuple([*column.examples, *read][:_SHOWN])
    shown = evidence.deciding.get(order)
    return replace(found, form=order, name=order, examples=examples, unreadable=found.unreadable + misfits, decided_by=shown)


def _serial_day(value: object, now: datetime) -> datetime | None:
    """A number as a spreadsheet's day, where that may be a tweet's."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value.strip()):
        return None
    day = parse_time(value, "excel")
    return day if day is not None and day <= now + CLOCK_SKEW else None
