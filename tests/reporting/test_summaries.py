"""Sentences say what the figures say, also where the figures are odd."""

import pytest

from finsent.reporting.summaries import always_answers, format_abstention, format_scaling


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
    assert "on these rows it answers" in said
    assert "test rows" not in said


def test_scaling_that_made_calibration_worse_is_explained_and_only_that(specimen):
    evidence = specimen.evidence
    worse = format_scaling(with_calibration(evidence, 0.05, ece_before_scaling=0.03))
    assert worse is not None
    assert "0.030 before, 0.050 after" in worse
    assert format_scaling(with_calibration(evidence, 0.03, ece_before_scaling=0.05)) is None
    assert format_scaling(with_calibration(evidence, 0.0301, ece_before_scaling=0.03)) is None  # no digit shown differs
    assert format_scaling(evidence.model_copy(update={"calibration": None})) is None
