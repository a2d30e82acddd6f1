"""Checks the label values that a source holds, before anything is written: each must have a class, but for rare ones.

The usual vocabularies are offered as a map to copy, and never applied: datasets disagree on what a value means.
"""

import shlex
from collections import Counter
from collections.abc import Mapping
from typing import Final

from finsent.config import Source
from finsent.data.validation.label_mapping import parse_label
from finsent.errors import InputError, escape_control, escape_invalid, shorten
from finsent.labels import LABELS

RARE_SHARE: Final = 0.01
"""Share of a source's labelled rows up to which values without a class are faults of their rows; a single row always is."""
_USUAL: Final[Mapping[str, str]] = (
    dict.fromkeys(["positive", "pos", "bull", "bullish", "buy", "long", "up", "optimistic", "1"], "Bullish")
    | dict.fromkeys(["negative", "neg", "bear", "bearish", "sell", "short", "down", "pessimistic", "-1"], "Bearish")
    | dict.fromkeys(["neutral", "neu", "hold", "flat", "sideways", "mixed", "0"], "Neutral")
)
_NUMBERS: Final = frozenset({"-1", "0", "1"})
_SHOWN: Final = 12


def check_label_values(source: Source, seen: Counter[str], *, check: bool = True) -> list[str]:
    """Check the values `seen` (rows by `label_mapping.label_key`, blank ones left out); returns warnings.

    Raises:
        InputError: no value is understood, or, with `check`, more than a few rows have one without a class, or the map has a key
            that occurs nowhere beside a value that has none.
    """
    if source.label_value is not None or not seen:
        return []
    # the name of the column itself: the header repeated within the file, as where files were put together
    seen = Counter({value: n for value, n in seen.items() if value != source.label or len(seen) == 1})
    unknown = Counter({value: n for value, n in seen.items() if parse_label(value, source.labels, source.label_bins) is None})
    unused = [key for key in source.labels or {} if key.strip() not in seen]
    n = unknown.total()
    rare = not unused and n <= max(1, RARE_SHARE * seen.total())
    if not unknown or (n < seen.total() and (rare or not check)):
        return [f"{source.uri!r}: {_unused(unused)} in column {source.label!r}. Values: {_counted(seen)}"] if unused else []
    if n == seen.total():
        problem = f"no label in column {source.label!r} is understood. Values: {_counted(unknown)}."
    else:
        problem = (
            f"{n} of {seen.total()} rows have a label in column {source.label!r} that is not understood: {_counted(unknown)}."
        )
    if unused:
        problem += f" And of the map, {_unused(unused)}."
    skip = "" if n == seen.total() else " To leave those rows in the quarantine instead: --set data.check_labels=false."
    raise InputError(f"{source.uri!r}: {problem} {_advice(source, seen)}{skip} Nothing was written.")


def offered_map(seen: Mapping[str, int], given: Mapping[str, str] | None) -> dict[str, str] | None:
    """A whole map for these values by their usual meaning; None where one of them has none, or numbers other than -1, 0, 1."""
    meanings = {value: (given or {}).get(value) or _USUAL.get(value.strip().strip("'\"").casefold()) for value in seen}
    numbers = {value for value in seen if value in _NUMBERS}
    if numbers and "-1" not in numbers and not (given or {}).keys() >= numbers:
        return None  # 0 and 1 alone are as often bearish and bullish as neutral and bullish
    found = {value: meaning for value, meaning in meanings.items() if meaning is not None}
    return found if len(found) == len(meanings) or len(set(found.values()) & {"Bullish", "Bearish"}) > 1 else None


def are_scores(seen: Mapping[str, int]) -> bool:
    """Whether the values are scores, not classes: numbers of which some are no whole ones, and more than three of them."""
    numbers = [number for value in seen if (number := _number(value)) is not None]
    whole = all(number.is_integer() for number in numbers)
    return len(numbers) >= max(4, 0.9 * len(seen)) and (not whole or len(numbers) > 11)


def _advice(source: Source, seen: Mapping[str, int]) -> str:
    if are_scores(seen):
        numbers = sorted(number for value in seen if (number := _number(value)) is not None)
        return (
            f"These are scores, from {numbers[0]:g} to {numbers[-1]:g}: say from where on they are a class, for example "
            "--label-bins '-0.1,0.1' (in YAML `label_bins: [-0.1, 0.1]`): Bearish below the first, Bullish above the second."
        )
    if any(mark in value.strip("[]") for value in seen for mark in ",;|[") and len(seen) > 1:
        return (
            "Values hold several labels or probabilities: a row has one class. Make a column of it first, such as "
            "`df['label'] = df[['neutral', 'bullish', 'bearish']].idxmax(axis=1)` for probabilities in three columns, or drop "
            "the rows with several."
        )
    offered = offered_map(seen, source.labels)
    if offered is not None:
        return (
            f"If they mean what they usually do: {_option(offered)} (in YAML `labels: {_yaml(offered)}`). Check it with the "
            "source's description: it is offered, never guessed."
        )
    values = {value: (source.labels or {}).get(value, "CLASS") for value in seen}
    numbers_only = all(_number(value) is not None for value in seen)
    return f"Say what they mean, one of {', '.join(LABELS)}: {_option(values)} (in YAML `labels`)." + (
        " Numbers are never guessed: datasets disagree on their order, e.g. --label-map '0=Bearish,1=Bullish,2=Neutral'."
        if numbers_only
        else ""
    )


def _option(mapping: Mapping[str, str]) -> str:
    shown = list(mapping.items())[:_SHOWN]
    more = ",..." if len(mapping) > _SHOWN else ""
    # a value such as -1 in front must not look like an option of its own
    return ("--label-map=" if next(iter(mapping), "").startswith("-") else "--label-map ") + shlex.quote(
        ",".join(f"{_clean(value)}={label}" for value, label in shown) + more
    )


def _yaml(mapping: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{_clean(value)!r}: {label}" for value, label in list(mapping.items())[:_SHOWN]) + "}"


def _unused(keys: list[str]) -> str:
    return ", ".join(repr(_clean(key)) for key in keys) + (" occurs" if len(keys) == 1 else " occur") + " nowhere"


def _counted(values: Counter[str]) -> str:
    shown = ", ".join(f"{_clean(value)!r} ({n} rows)" for value, n in values.most_common(10))
    return shown + (f" and {len(values) - 10} more" if len(values) > 10 else "")


def _clean(value: str) -> str:
    return escape_control(escape_invalid(shorten(value)))


def _number(value: str) -> float | None:
    try:
        found = float(value.replace(",", ".", 1))
    except ValueError:
        return None
    return found if found == found and abs(found) != float("inf") else None  # noqa: PLR0124 - nan differs from itself
