"""Checks that a source's label mapping is plausible: texts labelled Bullish must read more bullish than those labelled Bearish.

Datasets number their classes differently, and a mapping taken from another one swaps classes without any error: with the ids of
twitter-financial-news-sentiment read in the order of the reference card, every bearish tweet would be trained as neutral. A word
list is far too coarse to label one tweet, but over hundreds of them it separates the classes reliably.
"""

import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

from finsent.labels import LABELS

SIGNIFICANCE_LEVEL: Final = 0.001
"""Level of the check: one-sided Welch tests of at most three pairs of classes, with Bonferroni correction."""
MIN_EFFECT: Final = 0.1
"""Smallest reversal that counts, in units of polarity (-1 to 1): correct labels of eleven real sources are 0.3 apart or more."""
MIN_ROWS: Final = 30
"""A class with fewer rows is not checked."""
MAX_SAMPLED_ROWS: Final = 6000
"""Rows sampled of a class, spread evenly over all of it."""

_BULLISH: Final = """
    buy buying bought long longs call calls bull bulls bullish moon mooning rocket breakout squeeze rip ripping ath hodl hold
    add adding added accumulating undervalued oversold cheap support bounce opportunity green
    beat beats upgrade upgraded upgrades raise raised raises outperform overweight profit profits record growth approval approved
    partnership win wins
    up upside uptrend higher highs high rise rises rising rally rallies gain gains gainers jump jumps surge surges soar soars
    boost boosts rebound rebounds tops strong strength positive great good nice love
    🚀 📈 🔥 💪 🌙 🌕 🐂 💎 🤑 💰 🙌 ✅ 👍 🟢
"""
_BEARISH: Final = """
    sell selling sold short shorts shorted shorting put puts bear bears bearish crash crashes crashing dump dumps dumped dumping
    overvalued overbought resistance bubble fraud scam dead red
    miss misses missed downgrade downgraded downgrades cut cuts underperform underweight loss losses lose losing lost lawsuit
    probe bankrupt bankruptcy offering dilution layoffs recession crisis
    down downside downtrend lower lows low fall falls fell falling drop drops dropped decline declines plunge plunges plunged
    slump slumps tumble tumbles sink sinks slide slides tank tanks tanked weak weakness worst worse bad negative fears
    warns warning
    📉 🐻 🔻 🩸 💩 🔴 👎
"""
_WORD_POLARITY: Final = dict.fromkeys(_BULLISH.split(), 1) | dict.fromkeys(_BEARISH.split(), -1)
_WORD: Final = re.compile(r"\$?[a-z]+|[^\x00-\x7f]")  # $MOON is a name, not the word

_CLASS_ORDER: Final = ("Bullish", "Neutral", "Bearish")
_TYPICAL_POLARITY: Final = {"Bullish": 0.45, "Neutral": 0.1, "Bearish": -0.25}
"""Approximate mean polarity of correctly labelled real sources; only the suggested mapping depends on it."""


def polarity(text: str) -> float:
    """(bullish - bearish) / (bullish + bearish) words of the list, in -1 to 1; 0 without any."""
    found = [_WORD_POLARITY[word] for word in _WORD.findall(text.lower()) if word in _WORD_POLARITY]
    return sum(found) / len(found) if found else 0.0


@dataclass(slots=True)
class _ClassSample:
    """Polarity of every `stride`-th row of a class; a repeated text counts once, so that a busy bot has no extra weight."""

    stride: int = 1
    rows: int = 0
    values: list[float] = field(default_factory=list)
    texts: dict[int, float] = field(default_factory=dict)
    """Polarity by the hash of each text that was sampled."""

    def add(self, text: str) -> None:
        self.rows += 1
        if (self.rows - 1) % self.stride or (key := hash(text)) in self.texts:
            return
        self._take(key, polarity(text))

    def _take(self, key: int, value: float) -> None:
        self.texts[key] = value
        self.values.append(value)
        if len(self.values) == MAX_SAMPLED_ROWS:
            self.values, self.stride = self.values[::2], 2 * self.stride

    def merge(self, other: "_ClassSample") -> None:
        self.rows += other.rows
        for key, value in other.texts.items():
            if key not in self.texts:
                self._take(key, value)


@dataclass(slots=True)
class PolarityStats:
    """Polarity by class of a source, gathered batch by batch."""

    samples: defaultdict[str, _ClassSample] = field(default_factory=lambda: defaultdict(_ClassSample))

    def merge(self, other: "PolarityStats") -> None:
        """Add what was gathered elsewhere; a text that both have counts once."""
        for label, sample in other.samples.items():
            mine = self.samples[label]
            mine.merge(sample)

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Add (class name, text) pairs; the class is the one after mapping, not the source's own value."""
        for label, text in rows:
            self.samples[label].add(text)


@dataclass(frozen=True, slots=True)
class PolarityMean:
    """Mean polarity of a class over `rows` texts, with its standard error."""

    rows: int
    value: float
    error: float


@dataclass(frozen=True, slots=True)
class LabelMismatch:
    """Labels that look mapped wrongly."""

    means: Mapping[str, PolarityMean]
    """By class."""
    reversed: tuple[tuple[str, str], ...]
    """Pairs of classes in the wrong order: the first should have the higher polarity, and has the lower one."""
    suggested: Mapping[str, str]
    """Class as labelled to the class whose polarity it has."""
    mapping: Mapping[str, str] | None
    """The same by the source's own values, where it came with a mapping."""


def mean_polarity(gathered: PolarityStats) -> dict[str, PolarityMean]:
    """Mean polarity of each class, from Bullish to Bearish."""
    found = {}
    for label in _CLASS_ORDER:
        if label in gathered.samples:
            values = gathered.samples[label].values
            rows = len(values)
            mean = math.fsum(values) / rows
            variance = math.fsum((value - mean) ** 2 for value in values) / max(rows - 1, 1)
            found[label] = PolarityMean(rows, mean, math.sqrt(variance / rows))
    return found


def check_label_polarity(gathered: PolarityStats, labels: Mapping[str, str] | None = None) -> LabelMismatch | None:
    """What is implausible about a source's labels; None if the classes are in order, not significantly reversed, or too small.

    `labels` is the source's mapping of values to class names, for a suggestion in its own values. A pair of classes is reversed
    if a one-sided Welch test rejects at `SIGNIFICANCE_LEVEL` / 3 and the difference is `MIN_EFFECT` or more. Not detected: two
    classes of which one has the wrong name while the order holds (bearish tweets labelled Neutral).
    """
    means = mean_polarity(gathered)
    large = {label: mean for label, mean in means.items() if mean.rows >= MIN_ROWS}
    critical = NormalDist().inv_cdf(1 - SIGNIFICANCE_LEVEL / 3)
    reversed_pairs = tuple(
        (upper, lower)
        for upper, lower in itertools.combinations(large, 2)
        if large[lower].value - large[upper].value
        >= max(MIN_EFFECT, critical * math.hypot(large[upper].error, large[lower].error))
    )
    if not reversed_pairs:
        return None
    suggested = _best_assignment(list(means), large)
    if set(means) == {"Bullish", "Bearish"}:
        suggested = {"Bullish": "Bearish", "Bearish": "Bullish"}  # two values and a reversed order: no Neutral was ever meant
    mapping = {value: suggested.get(label, label) for value, label in labels.items()} if labels else None
    return LabelMismatch(means, reversed_pairs, suggested, mapping)


def mapping_error(by_value: PolarityStats, mapping: Mapping[str, str]) -> float | None:
    """How badly a map of label values fits: squared distances of each value's mean polarity from the typical one of its class.

    None where a value has too few texts to tell.
    """
    error = 0.0
    for value, label in mapping.items():
        found = by_value.samples[value].values if value in by_value.samples else []
        if len(found) < MIN_ROWS:
            return None
        error += (math.fsum(found) / len(found) - _TYPICAL_POLARITY[label]) ** 2
    return error


def format_label_mismatch(mismatch: LabelMismatch, source: str) -> str:
    """The error message: what was found, which mapping would fit, what to do."""
    means = ", ".join(
        f"{label} {mean.value:+.2f} [{mean.value - 1.96 * mean.error:+.2f}, {mean.value + 1.96 * mean.error:+.2f}] "
        f"({mean.rows} rows)"
        for label, mean in mismatch.means.items()
    )
    pairs = " and ".join(f"{lower} rows read more bullish than {upper} ones" for upper, lower in mismatch.reversed)
    if mismatch.mapping:
        advice = "--label-map '" + ",".join(f"{value}={label}" for value, label in mismatch.mapping.items()) + "' would fit"
    else:
        swaps = (f"{label} is {other}" for label, other in mismatch.suggested.items() if label != other)
        advice = "By their words, " + ", ".join(swaps)
    return (
        f"source {source!r}: its labels look mapped wrongly, for {pairs}. Mean polarity of the words, "
        f"-1 bearish to +1 bullish, with 95 % intervals: {means}. {advice}. "
        "Check the source's description; if its labels are right as they are, accept them with --set data.check_labels=false."
    )


def _best_assignment(present: Sequence[str], means: Mapping[str, PolarityMean]) -> dict[str, str]:
    """Each class to the name with the nearest typical mean, by least squares over all; of three classes that is their order.

    A class of too few rows gets the name that is left over.
    """

    def squared_error(naming: tuple[str, ...]) -> float:
        return sum((mean.value - _TYPICAL_POLARITY[name]) ** 2 for mean, name in zip(means.values(), naming, strict=True))

    best: tuple[str, ...] = min(itertools.permutations(LABELS, len(means)), key=squared_error)
    assigned = dict(zip(means, best, strict=True))
    unused = [label for label in LABELS if label not in assigned.values()]
    return assigned | dict(zip((label for label in present if label not in assigned), unused, strict=False))
