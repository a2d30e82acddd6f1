"""How evidence reads in words and figures: shared by report, card, command line and Prefect's pages."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from finsent.evaluation.evidence import Evidence, SliceRecord
from finsent.labels import LABELS

UNKNOWN = "not measured"

Value = float | str | bool | None
Rule = tuple[str, Value, Value, str, str]
"""Name, value, threshold, status (`pass`, `fail`, `missing`) and reason: a sentence."""


@dataclass(frozen=True)
class Verdict:
    """A decision on a version, as a page tells it."""

    heading: str
    """What was decided, in words: `Version 4 was refused`."""
    favourable: bool
    """Whether the version passed."""
    reasons: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    when: str | None = None
    who: str | None = None
    why: str | None = None
    """What the person who decided wrote."""


def decimal(value: object, digits: int = 3) -> str:
    """A score, or that there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else UNKNOWN


def interval(record: Mapping[str, Any] | None, *, signed: bool = False, digits: int = 3) -> str:
    """Both ends."""
    if record is None:
        return UNKNOWN
    sign = "+" if signed else ""
    return f"{record['low']:{sign}.{digits}f} to {record['high']:{sign}.{digits}f}"


def level(evidence: Evidence) -> str:
    """Level of the evidence's intervals: `95 %`."""
    return next((f"{100 * found['level']:.0f} %" for found in (evidence.intervals or {}).values()), "")


def p_value(value: float) -> str:
    """A p-value as it is read: three digits, and no more zeros than tell something."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def not_compared_because(evidence: Evidence) -> str | None:
    """Why there is no comparison with a champion, in a sentence; None where there is one."""
    if evidence.champion is not None:
        return None
    if evidence.champion_version is None:
        return "There was no champion to compare with."
    if evidence.champion_version == evidence.model_version:
        return "This version is the champion itself."
    return "Not measured: the champion was not scored."


def looks_in_words(evidence: Evidence) -> str:
    """How often the test set was looked at."""
    if evidence.looks is None:
        return "How often this test set has been looked at is not on record."
    here, anywhere = evidence.looks["at_these_rows"], evidence.looks["at_any_rows"]
    return (
        f"The test set has been looked at {_times(here)} at exactly these rows and {_times(anywhere)} at any version of the "
        "data, this time included: with every look its verdict is worth a little less."
    )


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count:,} times")


def scaling_in_words(evidence: Evidence) -> str | None:
    """Why temperature scaling left a larger calibration error than it found, a sentence; None where it did not."""
    before = evidence.calibration["ece_before_scaling"] if evidence.calibration else None
    if before is None or evidence.ece is None or round(evidence.ece, 3) <= round(before, 3):
        return None
    return (
        f"Scaling made the calibration error larger here ({before:.3f} before, {evidence.ece:.3f} after): the temperature is "
        "fitted on validation rows, and on these rows the error is larger by chance or because the rows differ."
    )


def always_answers(threshold: float) -> bool:
    """Whether no text is too unsure for a threshold: the largest of the probabilities is never below an equal share."""
    return threshold <= 1 / len(LABELS)


def abstention_in_words(evidence: Evidence) -> str:
    """What the version's abstain threshold does."""
    if evidence.calibration is None:
        return "What abstaining would buy was not measured."
    found = evidence.calibration["abstention"]
    if found is None:
        return (
            "This version has no abstain threshold of its own: on its validation rows none was shown to reach the target "
            "precision, or it is older than the fitting. It abstains below 0.5."
        )
    precise = "no answer was given" if found["precision"] is None else f"of its answers {found['precision']:.1%} are right"
    if always_answers(found["threshold"]):
        return (
            f"It always answers: on validation rows a precision of {found['target_precision']:.0%} was shown without abstaining; "
            f"on these rows {precise}."
        )
    return (
        f"Below a confidence of {found['threshold']:.3f} it gives no answer. That was fitted on validation rows for a precision "
        f"of {found['target_precision']:.0%}; on these rows it answers {found['coverage']:.1%}, and {precise}."
    )


def cost_in_words(evidence: Evidence) -> str:
    """Speed and what a million tweets cost."""
    speed = evidence.speed
    if speed is None:
        return "Speed was not measured."
    cost = (
        "" if speed["cost_per_million"] is None else f", {speed['cost_per_million']:.2f} in the currency of the configured price"
    )
    return (
        f"{speed['rows_per_second']:,.0f} tweets/s in batches on {speed['device']}; one at a time "
        f"{speed['latency_ms_p50']:.1f} ms each (median), {speed['latency_ms_p95']:.1f} ms at the 95th percentile. "
        f"A million tweets take {speed['hours_per_million']:.2f} hours{cost}."
    )


def each_slice(evidence: Evidence) -> Iterable[tuple[str, str, SliceRecord]]:
    """Dimension, value and scores; in each dimension the largest first."""
    for dimension, values in (evidence.slices or {}).items():
        for value in sorted(values, key=lambda name: -values[name]["n"]):
            yield dimension, value, values[value]


def weakest(evidence: Evidence, count: int = 3, least: int = 30) -> list[tuple[str, str, SliceRecord]]:
    """The slices of the lowest accuracy; of fewer than `least` rows accuracy says nothing."""
    every = [found for found in each_slice(evidence) if found[2]["n"] >= least]
    return sorted(every, key=lambda found: found[2]["accuracy"])[:count]
