"""The label map: how a source's label values become the classes Neutral, Bullish and Bearish."""

import math
import re
from collections.abc import Mapping
from typing import Any, Final

from finsent.data.validation.row_validation import Rejection
from finsent.errors import InputError, quoted
from finsent.labels import LABELS

_WHOLE_FLOAT: Final = re.compile(r"([+-]?\d+)\.0+")
_NAMES: Final = {label.casefold(): label for label in LABELS}


def parse_label(value: object, mapping: Mapping[str, str] | None, bins: tuple[float, float] | None = None) -> str | None:
    """Class name of a source's label value, or None. With `bins` it is a score: Bearish below them, Bullish above.

    The mapping's keys take precedence; class names are accepted in any letter case, with a mapping too. A number without a
    mapping is never guessed, since datasets disagree on the order.
    """
    key = label_key(value)
    if (label := (mapping or {}).get(key)) is not None:
        return label
    if bins is not None and (score := label_number(key)) is not None:
        return "Bearish" if score < bins[0] else "Bullish" if score > bins[1] else "Neutral"
    return _NAMES.get(key.casefold())


def label_number(key: str) -> float | None:
    """The number that a value is, with a decimal point or comma; None where it is none, or not finite."""
    try:
        found = float(key.replace(",", ".", 1))
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def label_key(value: object) -> str:
    """A label value as the text that a mapping is keyed by: trimmed, and 1.0 as "1" (Parquet and JSON turn ids to floats).

    Quotes around the whole value are taken off, and a list of one value is that value.
    """
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int | float):
        value = value[0]
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        key = "" if value is None else str(value).strip()
    except (ValueError, RecursionError):
        return quoted(value)
    if len(key) > 1 and key[0] == key[-1] and key[0] in "'\"":
        key = key[1:-1].strip()
    whole = _WHOLE_FLOAT.fullmatch(key)
    return whole[1] if whole else key


def check_label(value: object, mapping: Mapping[str, str] | None, bins: tuple[float, float] | None = None) -> str | Rejection:
    """The class name of a row's label, or what is wrong with it."""
    label = parse_label(value, mapping, bins)
    if label is not None:
        return label
    known = ", ".join([*(repr(key) for key in mapping or ()), *LABELS])
    return Rejection("unknown label", f"{quoted(value)}; understood: {known}")


def parse_label_map(given: str | None) -> dict[str, Any] | None:
    """`0=Bearish,1=Bullish` as a mapping to class names, in any case.

    Raises:
        InputError: not of that form, a class that does not exist, or a value given twice.
    """
    if given is None:
        return None
    names = {label.casefold(): label for label in LABELS}
    mapping: dict[str, Any] = {}
    for item in given.split(","):
        value, found, meaning = (part.strip() for part in item.rpartition("="))
        value = label_key(value)
        if not found or meaning.casefold() not in names:
            raise InputError(f"--label-map {given!r}: {item!r} is not VALUE=CLASS with one of the classes {', '.join(LABELS)}.")
        if value in mapping:
            raise InputError(f"--label-map {given!r}: the value {value!r} is given twice.")
        mapping[value] = names[meaning.casefold()]
    return mapping
