"""Validates the fields of a row; an invalid one is quarantined with a reason. Pure: the caller passes the clock."""

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Literal

from finsent.data.validation.dates import CLOCK_SKEW, FIRST_TWEET, is_missing, parse_time
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
    "not finite",
]
"""Why a row can be quarantined. `contradictory label`, `split conflict` and `id reused` come from comparing rows, `not finite` of
logits that are no numbers."""

CONFLICT: Final[Reason] = "contradictory label"

_WHOLE_FLOAT: Final = re.compile(r"(-?\d+)\.0")  # as pandas writes it: "1." and "1.00" may be names
_SCIENTIFIC: Final = re.compile(r"[+-]?\d+(?:[.,]\d*[eE][+-]?|[eE]\+)\d+")  # not 12e4, which may be an id of hexadecimal digits
EXACT_FLOATS: Final = 2**53
"""A float from here on may stand for another whole number."""
_FLOAT_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a row is quarantined."""

    reason: Reason
    detail: str


def reject_json(text: object) -> Rejection | None:
    """Why a text is no tweet where it is a JSON object, as queues wrap them: the tweet and its label are within."""
    if not isinstance(text, str) or not text.lstrip().startswith('{"') or not text.rstrip().endswith("}"):
        return None
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return None
    detail = f"not a tweet but a JSON object; `jq -c '.COLUMN | fromjson' FILE > FILE.jsonl` unpacks such: {shorten(text, 80)!r}"
    return Rejection("malformed row", detail)


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


def check_time(value: object, now: datetime, form: str | None = None) -> datetime | Rejection | None:
    """The time of a row in UTC, None when it has none, or what is wrong with it. Times without a zone are taken as UTC.

    `form` is the reading of its column, see `finsent.data.validation.dates`.
    """
    if is_missing(value):
        return None
    parsed = parse_time(value, form)
    if parsed is None:
        as_what = "" if form is None else f" (read as {form})"
        return Rejection("unreadable date", f"{quoted(value)}{as_what}: not a time since {FIRST_TWEET:%Y-%m-%d}")
    if parsed > now + CLOCK_SKEW:
        return Rejection("future date", f"{parsed.isoformat()} is after {now.isoformat(timespec='seconds')}")
    return parsed


def check_id(value: object) -> str | Rejection | None:
    """The id of a row, None when it has none, or what is wrong with it: a float from 2**53 may stand for another number.

    pandas makes floats of whole numbers as soon as one of a column is missing; below 2**53 they are still exact.
    """
    if is_missing(value):
        return None
    given = str(value).strip()
    whole = _WHOLE_FLOAT.fullmatch(given)
    if whole and len(whole[1]) <= _FLOAT_DIGITS and int(whole[1]) < EXACT_FLOATS:
        return whole[1]
    if whole or _SCIENTIFIC.fullmatch(given) or (isinstance(value, float) and not abs(value) < EXACT_FLOATS):
        detail = f"{shorten(given)!r} is a rounded number, not an id. Write the column as text where the file is made"
        return Rejection("rounded id", detail)
    return given
