"""Sentences about evidence and decisions, edge cases included."""

import pytest

from finsent.evaluation.baselines import naive_split_estimate
from finsent.reporting.summaries import (
    always_answers,
    champion_remeasured,
    final_decision,
    format_abstention,
    format_naive_split,
    format_naive_split_method,
    format_scaling,
    gate_preview,
)


def with_calibration(evidence, ece=None, **changed):
    found = {**evidence.calibration, **changed}
    return evidence.model_copy(update={"calibration": found, "ece": evidence.ece if ece is None else ece})


def with_threshold(evidence, threshold):
    return with_calibration(evidence, abstention={**evidence.calibration["abstention"], "threshold": threshold})


@pytest.mark.parametrize("threshold", [0.0, 0.2, 1 / 3])
def test_a_threshold_that_no_confidence_is_below_is_no_threshold(specimen, threshold):
    said = format_abstention(with_threshold(specimen.evidence, threshold))
    assert said.startswith("It always answers")
    assert "Below a confidence" not in said
    assert always_answers(threshold)


def test_a_threshold_is_told_of_the_rows_that_were_scored_whichever_they_are(specimen):
    said = format_abstention(with_threshold(specimen.evidence, 0.4))
    assert "Below a confidence of 0.400 it gives no answer" in said
    assert "On these rows it answers" in said
    assert "test rows" not in said


def test_scaling_that_made_calibration_worse_is_explained_and_only_that(specimen):
    evidence = specimen.evidence
    worse = format_scaling(with_calibration(evidence, 0.05, ece_before_scaling=0.03))
    assert worse is not None
    assert "0.030 before, 0.050 after" in worse
    assert format_scaling(with_calibration(evidence, 0.03, ece_before_scaling=0.05)) is None
    assert format_scaling(with_calibration(evidence, 0.0301, ece_before_scaling=0.03)) is None  # no digit shown differs
    assert format_scaling(evidence.model_copy(update={"calibration": None})) is None


def test_a_decision_that_was_made_keeps_who_and_why():
    rules = [("accuracy", 0.9, 0.5, "pass", "fine")]
    made = final_decision("7", "rejected", ["not before the fair"], rules, when="today", who="Ada", why="not before the fair")
    assert (made.favourable, made.rules) == (False, (("accuracy", 0.9, 0.5, "pass", "fine"),))
    assert made.heading == "Version 7 was rejected by a person"
    assert final_decision("7", "promoted", ["better"], rules).favourable


@pytest.mark.parametrize(
    ("decision", "favourable", "said"), [("promote", True, "passes"), ("refuse", False, "would be refused by")]
)
def test_a_preview_shows_what_the_gate_would_decide(decision, favourable, said):
    found = gate_preview("7", decision, ["a reason"], [("accuracy", 0.9, 0.5, "pass", "fine")])
    assert found.favourable == favourable
    assert f"Version 7 {said} the gate" in found.heading
    assert found.rules[0].name == "accuracy"
    assert champion_remeasured("7").favourable


def test_the_naive_split_estimate_is_stated_with_its_formula():
    record = naive_split_estimate(0.77, 0.97, 500, 0.2)
    assert (
        format_naive_split(record) == "A naive random split would have reported an accuracy of 0.810; held-out rows give 0.770."
    )
    formula = "0.800 x 0.770 (held-out accuracy) + 0.200 x 0.970 (accuracy on 500 training rows)"
    assert formula in format_naive_split_method(record)
