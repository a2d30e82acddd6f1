"""Calibration figures by hand, and a temperature that is known."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.calibration import (
    TEMPERATURES,
    brier_score,
    calibration,
    calibration_intervals,
    expected_calibration_error,
    fit_temperature,
    reliability,
)
from finsent.evaluation.evidence import Evidence
from finsent.models.predict import probabilities as softmax


def sampled(seed, n=20000):
    """Logits, and labels drawn from exactly the probabilities that they stand for."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=1.5, size=(n, 3))
    labels = (softmax(logits, 1.0).cumsum(axis=1) < rng.random((n, 1))).sum(axis=1)
    return logits, labels


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.5])
def test_temperature_finds_the_scale_that_logits_were_multiplied_with(scale):
    logits, labels = sampled(0)
    assert fit_temperature((logits * scale).astype(np.float32), labels) == pytest.approx(scale, rel=0.04)


def test_temperature_lowers_the_calibration_error_and_keeps_the_predictions():
    logits, labels = sampled(1)
    loud = logits * 3
    temperature = fit_temperature(loud, labels)
    before, after = softmax(loud, 1.0), softmax(loud, temperature)
    assert expected_calibration_error(before, labels) > 0.1
    assert expected_calibration_error(after, labels) < 0.015
    assert (before.argmax(axis=1) == after.argmax(axis=1)).all()


def test_temperature_of_faultless_logits_stays_in_range():
    logits = np.eye(3)[[0, 1, 2, 0]] * 5
    assert TEMPERATURES[0] <= fit_temperature(logits, np.array([0, 1, 2, 0])) <= TEMPERATURES[1]


def test_calibration_error_by_hand():
    # bin (0.6, 0.667]: two rows at 0.65, one right -> |0.65 - 0.5|; bin (0.933, 1]: two rows at 1.0, both right -> 0
    probabilities = np.array([[0.65, 0.2, 0.15], [0.65, 0.15, 0.2], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    labels = np.array([0, 1, 1, 2])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.15)
    rows = reliability(probabilities, labels)
    assert rows.count.tolist() == [0] * 9 + [2] + [0] * 4 + [2]
    assert rows.accuracy[9] == 0.5
    assert rows.confidence[14] == 1.0


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(-30, 30), st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 2)), min_size=1, max_size=40)
)
def test_errors_stay_in_their_range(rows):
    table = np.array([row[:3] for row in rows])
    labels = np.array([row[3] for row in rows])
    probabilities = softmax(table, 1.0)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(rows)))
    assert 0 <= expected_calibration_error(probabilities, labels) <= 1


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        (np.zeros((2, 3)), np.array([0]), "do not go with labels"),
        (np.zeros((0, 3)), np.array([], dtype=np.int64), "N > 0"),
        (np.array([[0.0, np.nan, 1.0]]), np.array([0]), "not finite in 1 rows, first row 0"),
        (np.zeros((1, 3)), np.array([3]), "from 3 to 3"),
    ],
)
def test_broken_rows_are_refused(scores, labels, message):
    with pytest.raises(InputError, match=message):
        fit_temperature(scores, labels)


def test_brier_score_by_hand():
    probabilities = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]])
    # right and sure: 0; wrong and sure: 1 + 1; half and half: 0.25 + 0.25
    assert brier_score(probabilities, np.array([0, 2, 1])) == pytest.approx((0 + 2 + 0.5) / 3)


def test_brier_score_of_honest_probabilities_is_what_they_promise():
    logits, labels = sampled(2)
    p = softmax(logits, 1.0)
    assert brier_score(p, labels) == pytest.approx((1 - (p**2).sum(axis=1)).mean(), abs=0.01)


def test_intervals_take_rows_of_a_group_for_one():
    logits, labels = sampled(3, n=600)
    p = softmax(logits, 1.0)
    alone = calibration_intervals(p, labels, [str(i) for i in range(600)], 400)
    copies = calibration_intervals(np.repeat(p, 5, axis=0), np.repeat(labels, 5), [str(i // 5) for i in range(3000)], 400)
    blind = calibration_intervals(np.repeat(p, 5, axis=0), np.repeat(labels, 5), [str(i) for i in range(3000)], 400)

    def width(found):
        return found["brier"]["high"] - found["brier"]["low"]

    assert width(copies) == pytest.approx(width(alone), rel=0.2)
    assert width(blind) < 0.6 * width(copies)
    assert alone["brier"]["low"] < brier_score(p, labels) < alone["brier"]["high"]


def test_a_resample_that_can_only_be_the_rows_themselves_gives_the_scores_themselves():
    logits, labels = sampled(4, n=300)
    p = softmax(logits, 1.0)
    found = calibration_intervals(p, labels, ["one"] * 300, 100)
    assert (found["ece"]["low"], found["ece"]["high"]) == pytest.approx((expected_calibration_error(p, labels),) * 2)
    assert (found["brier"]["low"], found["brier"]["high"]) == pytest.approx((brier_score(p, labels),) * 2)


def test_the_interval_of_the_calibration_error_covers_a_truth_from_above():
    p, upper = np.tile([0.9, 0.05, 0.05], (800, 1)), []
    for seed in range(60):  # right 8 times of 10 where it says 9: an error of 0.1
        labels = (np.random.default_rng(seed).random(800) > 0.8).astype(np.int64)
        upper.append(calibration_intervals(p, labels, [str(i) for i in range(800)], 200, seed)["ece"]["high"])
    assert np.mean(np.array(upper) >= 0.1) >= 0.9


def test_six_thousand_rows_are_resampled_in_no_time():
    logits, labels = sampled(5, n=6000)
    groups = [f"group {i * 9 // 10}" for i in range(6000)]
    p = softmax(logits, 1.0)
    started = time.process_time()
    calibration_intervals(p, labels, groups, 1000)
    assert time.process_time() - started < 1.5


def test_calibration_gathers_what_the_evidence_keeps():
    logits, labels = sampled(6, n=3000)
    groups = [str(i) for i in range(3000)]
    found, intervals = calibration(logits * 2, labels, groups, 2.0, 0.7, 0.8, 200)
    p = softmax(logits, 1.0)
    assert found["brier"] == pytest.approx(brier_score(p, labels))
    assert found["ece_before_scaling"] > 0.1
    assert found["abstention"]["coverage"] == pytest.approx((p.max(axis=1) >= 0.7).mean())
    assert len(found["curve"]) == 50
    assert calibration(logits, labels, groups, 1.0, None, 0.8, 100)[0]["abstention"] is None
    evidence = Evidence(model_name="finsent", model_version="1", calibration=found, intervals=intervals)
    again = Evidence.model_validate_json(evidence.model_dump_json())
    assert again.calibration["abstention"]["threshold"] == 0.7
    assert again.calibration["curve"][0]["coverage"] == 1.0
    with pytest.raises(InputError, match="299 near-duplicate groups for 300 rows"):
        calibration(logits[:300], labels[:300], groups[:299], 1.0, None, 0.8, 100)
