"""Sentences and figures about evidence and decisions, shared by report, model card, command line and Prefect artifacts."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from finsent.evaluation.evidence import Evidence, NaiveSplitRecord, SliceRecord
from finsent.labels import LABELS

UNKNOWN: Final = "not measured"
Value = float | str | bool | None


class RuleRow(NamedTuple):
    """Outcome of one gate rule."""

    name: str
    value: Value
    threshold: Value
    status: str
    """`pass`, `fail` or `missing`."""
    reason: str
    """One sentence."""


@dataclass(frozen=True)
class DecisionSummary:
    """A decision on a version, as report and card show it."""

    heading: str
    """What was decided: `Version 4 was refused by the gate`."""
    favourable: bool
    """Whether the version passed."""
    reasons: tuple[str, ...]
    rules: tuple[RuleRow, ...] = ()
    when: str | None = None
    who: str | None = None
    why: str | None = None
    """Reason that the person who decided gave."""


RuleValues = tuple[str, Value, Value, str, str]
_OUTCOMES: Final = {
    "promoted": "was promoted: it is the champion",
    "approved": "was approved: it is the champion",
    "pending_approval": "passed the gate and waits for approval",
    "rejected": "was rejected by a person",
    "refused": "was refused by the gate",
    "rolled_back": "was champion and was rolled back",
}


def gate_preview(version: str, decision: str, reasons: Sequence[str], rules: Iterable[RuleValues]) -> DecisionSummary:
    """What the gate would decide (`promote` or `refuse`), before anyone asked for a promotion. `rules`: values of `RuleRow`."""
    passed = decision == "promote"
    outcome = "passes the gate and has not been promoted yet" if passed else "would be refused by the gate"
    return DecisionSummary(f"Version {version} {outcome}", passed, tuple(reasons), tuple(RuleRow(*rule) for rule in rules))


def champion_remeasured(version: str) -> DecisionSummary:
    """Summary for a champion that is evaluated again: there is nothing to decide."""
    reason = "Evaluated again, with no other champion to compare with. `finsent history` shows its promotion."
    return DecisionSummary(f"Version {version} is the champion: there is nothing to decide", favourable=True, reasons=(reason,))


def final_decision(
    version: str,
    outcome: str,
    reasons: Sequence[str],
    rules: Iterable[RuleValues],
    *,
    when: str | None = None,
    who: str | None = None,
    why: str | None = None,
) -> DecisionSummary:
    """A recorded decision; `outcome` is promoted, pending_approval, refused, approved, rejected or rolled_back."""
    favourable = outcome in {"promoted", "approved", "pending_approval"}
    rows = tuple(RuleRow(*rule) for rule in rules)
    return DecisionSummary(f"Version {version} {_OUTCOMES[outcome]}", favourable, tuple(reasons), rows, when, who, why)


def format_score(value: object, digits: int = 3) -> str:
    """A score to `digits` decimals, or `UNKNOWN`."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else UNKNOWN


def format_interval(record: Mapping[str, Any] | None, digits: int = 3) -> str:
    """`low to high`, or `UNKNOWN`."""
    return UNKNOWN if record is None else f"{record['low']:.{digits}f} to {record['high']:.{digits}f}"


def interval_level(evidence: Evidence) -> str:
    """Confidence level of the evidence's intervals: `95 %`; empty without intervals."""
    return next((f"{100 * found['level']:.0f} %" for found in (evidence.intervals or {}).values()), "")


def format_p_value(value: float) -> str:
    """A p-value: three decimals, one significant digit below 0.001."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def no_comparison_reason(evidence: Evidence) -> str | None:
    """Why there is no comparison with a champion, as a sentence; None if there is one."""
    if evidence.champion is not None:
        return None
    if evidence.champion_version is None:
        return "There was no champion to compare with."
    if evidence.champion_version == evidence.model_version:
        return "This version is the champion itself."
    return "Not measured: the champion was not scored."


def format_test_set_uses(evidence: Evidence) -> str:
    """How often the test set has been used."""
    if evidence.test_set_uses is None:
        return "How often this test set has been used is not on record."
    here, anywhere = (
        {1: "once", 2: "twice"}.get(count, f"{count:,} times")
        for count in (evidence.test_set_uses["at_these_rows"], evidence.test_set_uses["at_any_rows"])
    )
    return (
        f"The test set has been used {here} with exactly these rows and {anywhere} over all data versions, this evaluation "
        "included. Repeated use of the test set weakens the result."
    )


def format_scaling(evidence: Evidence) -> str | None:
    """A sentence where temperature scaling increased the calibration error (to three decimals); None elsewhere."""
    before = evidence.calibration["ece_before_scaling"] if evidence.calibration else None
    if before is None or evidence.ece is None or round(evidence.ece, 3) <= round(before, 3):
        return None
    return (
        f"Temperature scaling increased the calibration error here ({before:.3f} before, {evidence.ece:.3f} after). The "
        "temperature is fitted on validation rows; on these rows the error is larger by chance or because the rows differ."
    )


def always_answers(threshold: float) -> bool:
    """Whether no prediction can be below an abstain threshold: the largest probability is at least 1 / classes."""
    return threshold <= 1 / len(LABELS)


def format_abstention(evidence: Evidence) -> str:
    """Effect of the version's abstain threshold."""
    if evidence.calibration is None:
        return "Abstention was not measured."
    found = evidence.calibration["abstention"]
    if found is None:
        return (
            "This version has no abstain threshold of its own: on its validation rows no threshold reached the target "
            "precision, or the version is older than the fitting. It abstains below 0.5."
        )
    precise = "no answer was given" if found["precision"] is None else f"{found['precision']:.1%} of its answers are right"
    target = f"{found['target_precision']:.0%}"
    if always_answers(found["threshold"]):
        return (
            f"It always answers: on validation rows it reached a precision of {target} without abstaining; on these rows "
            f"{precise}."
        )
    return (
        f"Below a confidence of {found['threshold']:.3f} it gives no answer; the threshold was fitted on validation rows for a "
        f"precision of {target}. On these rows it answers {found['coverage']:.1%}, and {precise}."
    )


def format_speed(evidence: Evidence) -> str:
    """Throughput, latency and the cost of a million tweets."""
    speed = evidence.speed
    if speed is None:
        return "Speed was not measured."
    price = speed["cost_per_million"]
    cost = "" if price is None else f" and cost {price:.2f} {speed.get('currency', 'in the currency of the configured price')}"
    return (
        f"{speed['rows_per_second']:,.0f} tweets/s in batches on {speed['device']}; one at a time "
        f"{speed['latency_ms_p50']:.1f} ms each (median), {speed['latency_ms_p95']:.1f} ms at the 95th percentile. "
        f"A million tweets take {speed['hours_per_million']:.2f} hours{cost}."
    )


def format_naive_split(record: NaiveSplitRecord) -> str:
    """Estimated score under a naive random split, beside the held-out score."""
    return (
        f"A naive random split would have reported an accuracy of {record['estimated_accuracy']:.3f}; held-out rows give "
        f"{record['held_out_accuracy']:.3f}."
    )


def format_naive_split_method(record: NaiveSplitRecord) -> str:
    """How that score was estimated, with the numbers."""
    leak = record["leak"]
    return (
        f"Estimate: {1 - leak:.3f} x {record['held_out_accuracy']:.3f} (held-out accuracy) + {leak:.3f} x "
        f"{record['training_accuracy']:.3f} (accuracy on {record['n_training']:,} training rows), since {leak:.1%} of its test "
        "rows would have had a near-duplicate among the training rows."
    )


def iter_slices(evidence: Evidence) -> Iterable[tuple[str, str, SliceRecord]]:
    """Dimension, value and scores of each slice; within a dimension the largest first."""
    for dimension, values in (evidence.slices or {}).items():
        for value in sorted(values, key=lambda name: -values[name]["n"]):
            yield dimension, value, values[value]


def weakest_slices(evidence: Evidence, count: int = 3, min_rows: int = 30) -> list[tuple[str, str, SliceRecord]]:
    """The `count` slices of the lowest accuracy; those of fewer than `min_rows` rows are too small to rank."""
    slices = [found for found in iter_slices(evidence) if found[2]["n"] >= min_rows]
    return sorted(slices, key=lambda found: found[2]["accuracy"])[:count]
