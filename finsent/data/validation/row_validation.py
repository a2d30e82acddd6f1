"""Validates the fields of a row; an invalid one is quarantined with a reason. Pure: the caller passes the clock."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from finsent.errors import quoted
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
]
"""Why a row can be quarantined; the last three come from comparing rows, all others from the row alone."""

CONFLICT: Final[Reason] = "contradictory label"

CLOCK_SKEW: Final = timedelta(days=1)
"""How far ahead of our clock a tweet may be: clocks and time zones of sources are inexact."""

_TWITTER_TIME: Final = "%a %b %d %H:%M:%S %z %Y"
_MILLISECONDS_FROM: Final = 1e11  # as seconds that would be the year 5138


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
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    parsed = _parse_time(value)
    if parsed is None:
        return Rejection("unreadable date", f"{quoted(value)}; understood: ISO 8601, Twitter's form, seconds since 1970")
    if parsed > now + CLOCK_SKEW:
        return Rejection("future date", f"{parsed.isoformat()} is after {now.isoformat(timespec='seconds')}")
    return parsed


def _parse_time(value: object) -> datetime | None:
    try:
        if isinstance(value, str):
            text = value.strip()
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
