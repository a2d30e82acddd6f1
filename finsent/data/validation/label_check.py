"""Do a source's labels mean what its mapping says? Rows called Bullish must speak more bullish than those called Bearish.

Datasets number their classes differently, and a mapping taken from another one turns the classes round without any error: with
the ids of twitter-financial-news-sentiment read in the order of the reference card, every bearish tweet would be trained as
neutral. A word list is far too coarse to label a tweet, but over hundreds of them it tells the classes apart with certainty.
"""

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import Final

from finsent.labels import LABELS

SIGNIFICANCE_LEVEL: Final = 0.001
"""Level of the verdict: one-sided Welch tests of at most three pairs of classes, by Bonferroni."""
MIN_EFFECT: Final = 0.1
"""Least reversal, in units of polarity (-1 to 1), that counts: right labels of eleven real sources lie 0.3 apart or more."""
MIN_ROWS: Final = 30
"""Rows of a class under which nothing is said of it."""
MAX_SAMPLED_ROWS: Final = 6000
"""Rows of a class that are looked at, spread evenly over all of it."""

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
_WORD: Final = re.compile(r"\$?[a-z]+|[^\x00-\x7f]")  # $MOON is a name

_CLASS_ORDER: Final = ("Bullish", "Neutral", "Bearish")
_TYPICAL_POLARITY: Final = {"Bullish": 0.45, "Neutral": 0.1, "Bearish": -0.25}
"""Mean polarity as right labels of real sources have it, roughly; only a suggestion depends on it."""


def polarity(text: str) -> float:
    """(bullish - bearish) / (bullish + bearish) words of the list, in -1 to 1; 0 without any."""
    found = [_WORD_POLARITY[word] for word in _WORD.findall(text.lower()) if word in _WORD_POLARITY]
    return sum(found) / len(found) if found else 0.0


@dataclass(slots=True)
class _ClassSample:
    """Polarity of every `stride`-th row of a class; repeats of a text count once, or a busy bot would decide."""

    stride: int = 1
    rows: int = 0
    values: list[float] = field(default_factory=list)
    texts: set[int] = field(default_factory=set)

    def add(self, text: str) -> None:
        self.rows += 1
        if (self.rows - 1) % self.stride or (key := hash(text)) in self.texts:
            return
        self.texts.add(key)
        self.values.append(polarity(text))
        if len(self.values) == MAX_SAMPLED_ROWS:
            self.values, self.stride = self.values[::2], 2 * self.stride


@dataclass(slots=True)
class PolarityStats:
    """What a source's classes speak like, gathered batch by batch."""

    samples: dict[str, _ClassSample] = field(default_factory=dict)

    def add(self, rows: Iterable[tuple[str, str]]) -> None:
        """Take in (class name, text) pairs: what the labels were understood as, not the source's own values."""
        for label, text in rows:
            if (sample := self.samples.get(label)) is None:
                sample = self.samples[label] = _ClassSample()
            sample.add(text)


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
    """Of each class that was there."""
    reversed: tuple[tuple[str, str], ...]
    """Pairs of classes in the wrong order: the first should speak more bullish, and speaks more bearish."""
    fits: Mapping[str, str]
    """Class as labelled to the class that it speaks like."""
    mapping: Mapping[str, str] | None
    """The same in the source's own values, where it came with a mapping."""


def mean_polarity(gathered: PolarityStats) -> dict[str, PolarityMean]:
    """Mean polarity of each class, most bullish name first."""
    return {label: _mean(gathered.samples[label].values) for label in _CLASS_ORDER if label in gathered.samples}


def check_label_polarity(gathered: PolarityStats, labels: Mapping[str, str] | None = None) -> LabelMismatch | None:
    """What is implausible about a source's labels, or None: in order, not reversed with certainty, or too few rows to tell.

    `labels` is the source's mapping of values to class names, for a suggestion in its own values. A pair of classes is reversed
    when a one-sided Welch test says so at `LEVEL` / 3 and the difference is `EFFECT` or more. A source of two classes of which
    one goes by the wrong name while the order holds (bearish tweets called Neutral) is not told.
    """
    everything = mean_polarity(gathered)
    found = {label: mean for label, mean in everything.items() if mean.rows >= MIN_ROWS}
    critical = NormalDist().inv_cdf(1 - SIGNIFICANCE_LEVEL / 3)
    turned = tuple(
        (upper, lower)
        for upper, lower in itertools.combinations(found, 2)
        if found[lower].value - found[upper].value
        >= max(MIN_EFFECT, critical * math.hypot(found[upper].error, found[lower].error))
    )
    if not turned:
        return None
    fits = _best_assignment(list(everything), found)
    mapping = {value: fits.get(label, label) for value, label in labels.items()} if labels else None
    return LabelMismatch(everything, turned, fits, mapping)


def format_label_mismatch(what: LabelMismatch, source: str) -> str:
    """The error that a person reads: what was found, what would fit, what to do."""
    spoken = ", ".join(
        f"{label} {mean.value:+.2f} [{mean.value - 1.96 * mean.error:+.2f}, {mean.value + 1.96 * mean.error:+.2f}] "
        f"({mean.rows} rows)"
        for label, mean in what.means.items()
    )
    pairs = " and ".join(f"{lower} rows speak more bullish than {upper} ones" for upper, lower in what.reversed)
    if what.mapping:
        advice = "--label-map '" + ",".join(f"{value}={label}" for value, label in what.mapping.items()) + "' would fit"
    else:
        advice = "By their words, " + ", ".join(f"{label} is {other}" for label, other in what.fits.items() if label != other)
    return (
        f"source {source!r}: its labels look mapped wrongly, for {pairs}. Mean polarity of the words, "
        f"-1 bearish to +1 bullish, with 95 % intervals: {spoken}. {advice}. "
        "Look at the source's description; if its labels are right as they are, accept them with --set data.check_labels=false."
    )


def _mean(values: list[float]) -> PolarityMean:
    rows = len(values)
    mean = math.fsum(values) / rows
    variance = math.fsum((value - mean) ** 2 for value in values) / max(rows - 1, 1)
    return PolarityMean(rows, mean, math.sqrt(variance / rows))


def _best_assignment(present: Sequence[str], found: Mapping[str, PolarityMean]) -> dict[str, str]:
    """Each class present by the name whose typical mean it lies nearest to, all in all; of three classes that is their order.

    A class of too few rows gets the name that is left over.
    """

    def distance(naming: tuple[str, ...]) -> float:
        return sum((mean.value - _TYPICAL_POLARITY[name]) ** 2 for mean, name in zip(found.values(), naming, strict=True))

    namings: list[tuple[str, ...]] = list(itertools.permutations(LABELS, len(found)))
    nearest = min(namings, key=distance)
    fits = dict(zip(found, nearest, strict=True))
    left = [label for label in LABELS if label not in fits.values()]
    return fits | dict(zip((label for label in present if label not in fits), left, strict=False))
