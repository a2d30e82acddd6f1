"""The ways in which label values may be meant, for a person to choose from: maps, bins, one class for all. Pure."""

import itertools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from finsent.data.validation.label_check import PolarityStats, mapping_error
from finsent.data.validation.label_mapping import label_number, parse_label
from finsent.data.validation.label_values import RARE_SHARE
from finsent.data.validation.label_vocabulary import are_scores, offered_classes
from finsent.labels import LABELS

CLASS: Final = "CLASS"
"""Stands in a map for a class that somebody has to fill in."""
_MOST_ON_A_SCALE: Final = 11
_MOST_PERMUTED: Final = 3
_MOST_VALUES: Final = 30
_NUMBERED: Final = re.compile(r"(?:[^\W\d_]+[\s_-]?)?([+-]?\d+)")  # LABEL_0 is a number, too
_UNCHECKED: Final = "check_labels=false switches off, for all sources, the checks that labels are known and plausible"
_BY_ORDER: Final[Mapping[int, tuple[tuple[str, ...], ...]]] = {
    2: (("Bearish", "Bullish"), ("Bullish", "Bearish"), ("Neutral", "Bullish"), ("Bullish", "Neutral")),
    3: (("Bearish", "Neutral", "Bullish"), ("Bullish", "Neutral", "Bearish"), ("Neutral", "Bullish", "Bearish")),
}
"""Classes of values in their order, as data sets number them, the commonest first."""


@dataclass(frozen=True)
class Choice:
    """Settings of a source, one of several ways to read it."""

    settings: dict[str, Any]
    """Fields of `Source`; a map may hold `CLASS`, to be filled in."""
    why: str = ""
    """When it is the right one, or what it does."""
    by_file: dict[str, str] = field(default_factory=dict)
    """Class of every row of each file, where each file is of one class."""
    look_again: bool = False
    """Whether more is open, and depends on this."""
    leaves_out: bool = False
    """Whether rows of some label values are to be quarantined (`data.check_labels: false`)."""


@dataclass(frozen=True)
class LabelChoices:
    """How the values of a label column could be read."""

    choices: tuple[Choice, ...]
    """One: nothing is open."""
    problem: str = ""
    """What is open, or why nothing can be offered."""
    told: dict[str, str] = field(default_factory=dict)
    """Classes of values that are understood, or are offered to be."""


def label_choices(seen: Counter[str], polarity: PolarityStats, labels: Mapping[str, str] | None = None) -> LabelChoices:
    """The ways to read these values.

    Args:
        seen: Rows by value, blank ones left out.
        polarity: Of the texts, by value; only the order of numbers depends on it.
        labels: A map that was given.
    """
    told = {value: label for value in seen if (label := parse_label(value, labels)) is not None}
    unknown = Counter({value: n for value, n in seen.items() if value not in told})
    if unknown.total() <= max(1 if told else 0, RARE_SHARE * seen.total()):
        return LabelChoices((Choice({}),), "", told)
    numbers = [number for value in seen if (number := label_number(value)) is not None]
    if are_scores(seen) or (len(numbers) == len(seen) and any(number != int(number) for number in numbers)):
        return LabelChoices(_bins(seen), "The labels are scores: say where a class begins.")
    whole = len(numbers) == len(seen)
    if whole and _MOST_PERMUTED < len(seen) <= _MOST_ON_A_SCALE:
        problem = "The labels are a scale, where a higher number may be the more bullish: say where a class begins."
        return LabelChoices(_bins(seen), problem)
    offered = offered_classes(seen, labels)
    if len(offered) == len(seen) or {"Bullish", "Bearish"} <= set(offered.values()):
        return _offered(seen, offered)
    if len(seen) in _BY_ORDER and all(_NUMBERED.fullmatch(value) for value in seen):
        return LabelChoices(_orders(seen, polarity), "The labels are numbers: say what each means, as the file's source has it.")
    return _unknown(seen, offered)


def _unknown(seen: Counter[str], told: dict[str, str]) -> LabelChoices:
    several = any(mark in value.strip("[]") for value in seen for mark in ",;|[")
    if several or len(seen) > _MOST_VALUES:
        what = "Values hold several labels" if several else f"There are {len(seen)} different values, which are no classes"
        how = "make a column of one class a row first, e.g. in pandas: df['label'] = df[...].map(...)"
        return LabelChoices((), f"{what}: {how}.")
    named = {value: told.get(value, CLASS) for value, _ in seen.most_common()}
    choice = Choice({"labels": named}, f"put one of {', '.join(LABELS)} in place of each {CLASS}")
    return LabelChoices((choice,), "What the label values mean is not known: say it.", told)


def _offered(seen: Counter[str], offered: dict[str, str]) -> LabelChoices:
    others = {value: n for value, n in seen.items() if value not in offered}
    if not others:
        return LabelChoices((Choice({"labels": offered}, "what these words usually mean: check it"),), "", offered)
    n, listed = sum(others.values()), ", ".join(map(repr, list(others)[:5]))
    choices = (
        Choice({"labels": offered}, f"the {n:,} rows of {listed} are quarantined; {_UNCHECKED}", leaves_out=True),
        Choice({"labels": offered | dict.fromkeys(others, "Neutral")}, f"the {n:,} rows of {listed} are Neutral"),
    )
    return LabelChoices(choices, f"What {listed} means is for you to say.", offered)


def _orders(seen: Counter[str], polarity: PolarityStats) -> tuple[Choice, ...]:
    """Maps of two or three numbers, in every order, those that fit the words of the texts best first."""
    values = sorted(seen, key=lambda value: int(_NUMBERED.sub(r"\1", value)))
    usual = _BY_ORDER[len(values)]
    orders = [
        *usual,
        *(order for order in itertools.permutations(LABELS, len(values)) if order not in usual),
    ]
    maps = [dict(zip(values, order, strict=True)) for order in orders]
    fit = [mapping_error(polarity, mapping) for mapping in maps]
    if None in fit:
        return tuple(Choice({"labels": mapping}) for mapping in maps)
    ranked = [mapping for _, mapping in sorted(zip(fit, maps, strict=True), key=lambda item: item[0] or 0.0)]
    best = Choice({"labels": ranked[0]}, "fits the words of the tweets best")
    return (best, *(Choice({"labels": mapping}) for mapping in ranked[1:]))


def _bins(seen: Counter[str]) -> tuple[Choice, ...]:
    """Two pairs of thresholds about the middle of the scale, each with the rows of every class; the more balanced one first."""
    scores: Counter[float] = Counter()
    for value, n in seen.items():
        if (number := label_number(value)) is not None:
            scores[number] += n
    low, high = min(scores), max(scores)
    if low < 0:
        middle, half = 0.0, next((top for top in (1.0, 5.0, 10.0, 100.0) if max(-low, high) <= top), max(-low, high))
    else:
        top = next((top for top in (1.0, 5.0, 10.0, 100.0) if high <= top), high)
        middle, half = (top / 2, top / 2) if low < 1 else ((1 + top) / 2, (top - 1) / 2)
    whole = all(number == int(number) for number in scores)
    width = 0.5 if whole and half <= _MOST_ON_A_SCALE // 2 else float(f"{half / 10:.1g}")
    pairs = [(middle, middle), (middle - width, middle + width)]
    counted = [(pair, _count(scores, *pair)) for pair in (pairs[1:] if whole else pairs)]
    balanced = sorted(counted, key=lambda item: -min(item[1]))  # the one first that leaves no class with few rows
    return tuple(
        Choice({"label_bins": (float(f"{low:g}"), float(f"{high:g}"))}, f"{bear:,} Bearish, {flat:,} Neutral, {bull:,} Bullish")
        for (low, high), (bear, flat, bull) in balanced
    )


def _count(scores: Mapping[float, int], below: float, above: float) -> tuple[int, int, int]:
    """Rows that are Bearish, Neutral and Bullish."""
    bearish = sum(n for score, n in scores.items() if score < below)
    bullish = sum(n for score, n in scores.items() if score > above)
    return bearish, sum(scores.values()) - bearish - bullish, bullish
