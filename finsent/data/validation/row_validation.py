"""Validates the fields of a row; an invalid one is quarantined with a reason. Pure: the caller passes the clock."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from finsent.errors import quoted, shorten
from finsent.text import is_blank

Reason = Literal[
    "malformed row",
    "bad encoding",
    "not a string",
    "empty",
    "too long",
    "unknown label",
    "unreadable date",
    "future date",
    "no date",
    "other language",
    "dropped by review",
    "contradictory label",
    "split conflict",
    "id reused",
    "rounded id",
]
"""Why a row can be quarantined. `contradictory label`, `split conflict` and `id reused` come from comparing rows."""

CONFLICT: Final[Reason] = "contradictory label"

CLOCK_SKEW: Final = timedelta(days=1)
"""How far ahead of our clock a tweet may be: clocks and time zones of sources are inexact."""

_TWITTER_TIME: Final = "%a %b %d %H:%M:%S %z %Y"
_MILLISECONDS_FROM: Final = 1e11  # as seconds that would be the year 5138
_MISSING: Final = frozenset({"", "nan", "nat", "none", "null", "<na>"})  # how pandas and SQL write that there is no value
_ZONE: Final = re.compile(r"(?<=\d) (?:UTC|GMT)$", re.IGNORECASE)  # as BigQuery writes it
_WHOLE_FLOAT: Final = re.compile(r"(-?\d+)\.0")  # as pandas writes it: "1." and "1.00" may be names
_SCIENTIFIC: Final = re.compile(r"[+-]?\d+(?:[.,]\d*[eE][+-]?|[eE]\+)\d+")  # not 12e4, which may be an id of hexadecimal digits
_EXACT_FLOATS: Final = 2**53
_FLOAT_DIGITS: Final = 16
_NEARLY_ALL: Final = 0.9


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is quarantined."""

    reason: Reason
    detail: str


def check_text(value: object, max_characters: int) -> str | Rejection:
    """The text of a row, untouched, or what is wrong with it."""
    if value is None:
        return Rejection("empty", "no value")
    if not isinstance(value, str):
        return Rejection("not a string", f"{type(value).__name__}: {quoted(value)}")
    if len(value) > max_characters:
        return Rejection("too long", f"{len(value)} characters, at most {max_characters} are accepted (data.max_characters)")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Rejection("bad encoding", f"{error.object[error.start : error.end]!r} at character {error.start} is not UTF-8")
    if is_blank(value):
        return Rejection("empty", "nothing but white space and links" if value.strip() else "no characters")
    return value


def check_time(value: object, now: datetime) -> datetime | Rejection | None:
    """The time of a row in UTC, None when it has none, or what is wrong with it. Times without a zone are taken as UTC."""
    if is_missing(value):
        return None
    parsed = _parse_time(value)
    if parsed is None:
        return Rejection("unreadable date", f"{quoted(value)}; understood: ISO 8601, Twitter's form, seconds since 1970")
    if parsed > now + CLOCK_SKEW:
        return Rejection("future date", f"{parsed.isoformat()} is after {now.isoformat(timespec='seconds')}")
    return parsed


def find_unreadable_date(values: Sequence[object]) -> str | None:
    """One of these dates, for a message, where nearly all that are there cannot be read: the column's fault, not its rows'."""
    there = [value for value in values if not is_missing(value)]
    bad = [value for value in there if _parse_time(value) is None]
    return quoted(bad[0]) if len(there) > 1 and len(bad) >= _NEARLY_ALL * len(there) else None


def check_id(value: object) -> str | Rejection | None:
    """The id of a row, None when it has none, or what is wrong with it: a float from 2**53 may stand for another number.

    pandas makes floats of whole numbers as soon as one of a column is missing; below 2**53 they are still exact.
    """
    if is_missing(value):
        return None
    given = str(value).strip()
    whole = _WHOLE_FLOAT.fullmatch(given)
    if whole and len(whole[1]) <= _FLOAT_DIGITS and int(whole[1]) < _EXACT_FLOATS:
        return whole[1]
    if whole or _SCIENTIFIC.fullmatch(given) or (isinstance(value, float) and not abs(value) < _EXACT_FLOATS):
        detail = f"{shorten(given)!r} is a rounded number, not an id. Write the column as text where the file is made"
        return Rejection("rounded id", detail)
    return given


def is_missing(value: object) -> bool:
    """Whether a field holds no value, in one of the ways that CSV, pandas and SQL write that."""
    if isinstance(value, str):
        return value.strip().casefold() in _MISSING
    return value is None or (isinstance(value, float) and math.isnan(value))


def _parse_time(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            text = _ZONE.sub("+00:00", value.strip())
            if text.replace(".", "", 1).isdigit() and len(text) > 8:
                value = float(text)
            else:
                try:
                    value = datetime.fromisoformat(text)
                except ValueError:
                    value = datetime.strptime(text, _TWITTER_TIME)  # noqa: DTZ007 - the format has %z
        if isinstance(value, date) and not isinstance(value, datetime):
            value = datetime.combine(value, time())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = datetime.fromtimestamp(value / 1000 if abs(value) > _MILLISECONDS_FROM else value, UTC)
        if not isinstance(value, datetime):
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # not a time, or outside the calendar's range
        return None
