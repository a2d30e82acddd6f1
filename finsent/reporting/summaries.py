"""How evidence reads in words and figures: shared by report, card, command line and Prefect's pages."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from finsent.evaluation.evidence import Evidence, NaiveSplitRecord, SliceRecord
from finsent.labels import LABELS
from finsent.registry.gate import Decision, RuleResult

UNKNOWN = "not measured"

Value = float | str | bool | None
Rule = tuple[str, Value, Value, str, str]
"""Name, value, threshold, status (`pass`, `fail`, `missing`) and reason: a sentence."""


@dataclass(frozen=True)
class DecisionSummary:
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


def format_score(value: object, digits: int = 3) -> str:
    """A score, or that there is none."""
    return f"{value:.{digits}f}" if isinstance(value, int | float) else UNKNOWN


def format_interval(record: Mapping[str, Any] | None, *, signed: bool = False, digits: int = 3) -> str:
    """Both ends."""
    if record is None:
        return UNKNOWN
    sign = "+" if signed else ""
    return f"{record['low']:{sign}.{digits}f} to {record['high']:{sign}.{digits}f}"


def interval_level(evidence: Evidence) -> str:
    """Level of the evidence's intervals: `95 %`."""
    return next((f"{100 * found['level']:.0f} %" for found in (evidence.intervals or {}).values()), "")


def format_p_value(value: float) -> str:
    """A p-value as it is read: three digits, and no more zeros than tell something."""
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"


def no_comparison_reason(evidence: Evidence) -> str | None:
    """Why there is no comparison with a champion, in a sentence; None where there is one."""
    if evidence.champion is not None:
        return None
    if evidence.champion_version is None:
        return "There was no champion to compare with."
    if evidence.champion_version == evidence.model_version:
        return "This version is the champion itself."
    return "Not measured: the champion was not scored."


def format_test_set_uses(evidence: Evidence) -> str:
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


def format_scaling(evidence: Evidence) -> str | None:
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


def format_abstention(evidence: Evidence) -> str:
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


def format_speed(evidence: Evidence) -> str:
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


def iter_slices(evidence: Evidence) -> Iterable[tuple[str, str, SliceRecord]]:
    """Dimension, value and scores; in each dimension the largest first."""
    for dimension, values in (evidence.slices or {}).items():
        for value in sorted(values, key=lambda name: -values[name]["n"]):
            yield dimension, value, values[value]


def weakest_slices(evidence: Evidence, count: int = 3, least: int = 30) -> list[tuple[str, str, SliceRecord]]:
    """The slices of the lowest accuracy; of fewer than `least` rows accuracy says nothing."""
    every = [found for found in iter_slices(evidence) if found[2]["n"] >= least]
    return sorted(every, key=lambda found: found[2]["accuracy"])[:count]


# merged from finsent.reporting.summaries: The score that a plain random split would have claimed: an estimate for people, which no gate reads.


def format_naive_split(record: NaiveSplitRecord) -> str:
    """The claim beside what held-out rows say."""
    return (
        f"A naive random split would have claimed {record['claimed_accuracy']:.3f} where held-out rows say "
        f"{record['held_out_accuracy']:.3f}."
    )


def format_naive_split_method(record: NaiveSplitRecord) -> str:
    """Where the claim comes from, with the numbers put in."""
    leak = record["leak"]
    return (
        f"Estimate: {1 - leak:.3f} x {record['held_out_accuracy']:.3f} (held-out accuracy) + {leak:.3f} x "
        f"{record['training_accuracy']:.3f} (accuracy on {record['n_training']:,} rows trained on), since {leak:.1%} of its test "
        "rows would have had a near copy among the training rows."
    )


# merged from finsent.reporting.summaries: The gate's decision in the form in which a page tells it.


def gate_preview(decision: Decision, version: str) -> DecisionSummary:
    """What the gate makes of evidence before anybody asked it for a promotion."""
    passed = decision.decision == "promote"
    said = "passes the gate as it stands, and is not promoted yet" if passed else "would be refused by the gate as it stands"
    return DecisionSummary(f"Version {version} {said}", passed, decision.reasons, rule_rows(decision.rules))


def champion_remeasured(version: str) -> DecisionSummary:
    """What is said of the champion where it is measured again."""
    reason = "Measured again, with no champion to compare with; `finsent history` tells of its promotion."
    return DecisionSummary(f"Version {version} is the champion: nothing is to be decided", favourable=True, reasons=(reason,))


def final_decision(
    version: str,
    outcome: str,
    reasons: Sequence[str],
    rules: Sequence[RuleResult],
    *,
    when: str | None = None,
    who: str | None = None,
    why: str | None = None,
) -> DecisionSummary:
    """A decision that was made: `outcome` is promoted, pending_approval, refused, approved, rejected or rolled_back."""
    said = {
        "promoted": "was promoted: it is the champion",
        "approved": "was approved: it is the champion",
        "pending_approval": "passed the gate and waits for approval",
        "rejected": "was rejected by a person",
        "refused": "was refused by the gate",
        "rolled_back": "was champion and was rolled back",
    }[outcome]
    favourable = outcome in {"promoted", "approved", "pending_approval"}
    return DecisionSummary(f"Version {version} {said}", favourable, tuple(reasons), rule_rows(rules), when, who, why)


def rule_rows(
    rules: Sequence[RuleResult],
) -> tuple[tuple[str, float | str | bool | None, float | str | bool | None, str, str], ...]:
    """Rules as plain rows."""
    return tuple((rule.name, rule.value, rule.threshold, rule.status, rule.reason) for rule in rules)
