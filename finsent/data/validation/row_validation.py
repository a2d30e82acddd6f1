"""The row contract: every row read is either good or quarantined with a reason. Pure: no file, no clock of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Final, Literal

from finsent.labels import LABELS
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
    "bridges splits",
    "id reused",
]
"""Why a row can be quarantined; the last three are found by comparing rows, all others in the row itself."""

CONFLICT: Final[Reason] = "contradictory label"

CLOCK_SKEW: Final = timedelta(days=1)
"""How far ahead of our clock a tweet may be: clocks and time zones of sources are not exact."""

_NAMES: Final = {label.casefold(): label for label in LABELS}
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
        return Rejection("too long", f"{len(value)} characters, at most {max_characters} are taken (data.max_characters)")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            return Rejection("bad encoding", f"{error.object[error.start : error.end]!r} at character {error.start} is not UTF-8")
    if is_blank(value):
        return Rejection("empty", "nothing but white space and links" if value.strip() else "no characters")
    return value


def parse_label(value: object, mapping: Mapping[str, str] | None) -> str | None:
    """Class name that a source's label value stands for, or None.

    A mapping's keys come first; class names are understood in any case, with a mapping too. A number is never guessed,
    since datasets disagree on the order.
    """
    key = label_key(value)
    return (mapping or {}).get(key) or _NAMES.get(key.casefold())


def label_key(value: object) -> str:
    """A label value as the text that a mapping is keyed by: trimmed, and 1.0 as "1" (Parquet and JSON turn ids to floats)."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return "" if value is None else str(value).strip()
    except (ValueError, RecursionError):
        return quoted(value)


def check_label(value: object, mapping: Mapping[str, str] | None) -> str | Rejection:
    """The class name of a row's label, or what is wrong with it."""
    label = parse_label(value, mapping)
    if label is not None:
        return label
    known = ", ".join([*(repr(key) for key in mapping or ()), *LABELS])
    return Rejection("unknown label", f"{quoted(value)}; understood: {known}")


def check_time(value: object, now: datetime) -> datetime | Rejection | None:
    """The time of a row in UTC, None when it has none, or what is wrong with it. Times without a zone are taken as UTC."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    moment = _parse_time(value)
    if moment is None:
        return Rejection("unreadable date", f"{quoted(value)}; understood: ISO 8601, Twitter's form, seconds since 1970")
    if moment > now + CLOCK_SKEW:
        return Rejection("future date", f"{moment.isoformat()} is after {now.isoformat(timespec='seconds')}")
    return moment


def _parse_time(value: object) -> datetime | None:
    try:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            moment = datetime.fromtimestamp(value / 1000 if abs(value) > _MILLISECONDS_FROM else value, UTC)
        elif isinstance(value, str):
            return _parse_time_text(value.strip())
        else:
            return None
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError, OSError):  # out of the calendar's range
        return None


def _parse_time_text(value: str) -> datetime | None:
    try:
        if value.replace(".", "", 1).isdigit() and len(value) > 8:
            return _parse_time(float(value))
        moment = datetime.fromisoformat(value)
    except ValueError:
        try:
            moment = datetime.strptime(value, _TWITTER_TIME)  # noqa: DTZ007 - the form has %z
        except ValueError:
            return None
    return _parse_time(moment)


def quoted(value: object) -> str:
    """A value as a message shows it, shortened; numbers of thousands of digits and endless nests by their type alone."""
    try:
        return shorten(repr(value))
    except (ValueError, RecursionError):  # Python's own limits, both within reach of a JSON file
        return f"<{type(value).__name__} too large to show>"


def shorten(text: str, length: int = 80) -> str:
    """At most `length` characters, the cut marked."""
    return text if len(text) <= length else text[: length - 1] + "…"
