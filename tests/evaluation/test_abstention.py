"""Thresholds by hand, and the promise that a fitted one makes: that it holds on new rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.calibration import abstention, abstention_curve, fit_abstain_threshold


def honest(rng, n):
    """Probabilities [n, 3] between 0.34 and 1, and labels that are right exactly as often as they say."""
    sure = rng.uniform(0.34, 1.0, n)
    p = np.stack([sure, (1 - sure) / 2, (1 - sure) / 2], axis=1)
    return p, np.where(rng.random(n) < sure, 0, 1)


def test_curve_by_hand():
    points = abstention_curve([0.9, 0.5, 0.7, 0.7], [True, False, True, False])
    assert [(p["threshold"], p["coverage"], p["precision"]) for p in points] == [
        (0.5, 1.0, 0.5),
        (0.7, 0.75, pytest.approx(2 / 3)),
        (0.9, 0.25, 1.0),
    ]


def test_what_a_threshold_does_by_hand():
    sure, right = np.array([0.9, 0.5, 0.7, 0.7]), np.array([True, False, True, False])
    found = abstention(sure, right, 0.7, 0.8)
    assert (found["coverage"], found["precision"], found["target_precision"]) == (0.75, pytest.approx(2 / 3), 0.8)
    nothing = abstention(sure, right, 0.95, 0.8)
    assert (nothing["coverage"], nothing["precision"]) == (0.0, None)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.integers(34, 100), st.booleans()), min_size=1, max_size=200))
def test_a_point_of_the_curve_is_what_its_threshold_does(rows):
    sure, right = np.array([row[0] / 100 for row in rows]), np.array([row[1] for row in rows])
    points = abstention_curve(sure, right)
    assert len(points) <= 50
    assert points[0]["coverage"] == 1.0
    assert [p["threshold"] for p in points] == sorted({p["threshold"] for p in points})
    for point in points:
        found = abstention(sure, right, point["threshold"], 0.9)
        assert (found["coverage"], found["precision"]) == pytest.approx((point["coverage"], point["precision"]))


def test_a_fitted_threshold_holds_on_new_rows():
    # among rows as sure as t or more, (t + 1) / 2 are right: the target 0.9 is truly reached from 0.8 on
    fitted = [fit_abstain_threshold(*honest(np.random.default_rng(seed), 1500), 0.9) for seed in range(150)]
    found = [threshold for threshold in fitted if threshold is not None]
    assert len(found) >= 0.95 * len(fitted)
    assert np.mean([threshold >= 0.8 for threshold in found]) >= 0.92
    assert np.median(found) < 0.88  # and it is not more careful than it has to be


def test_copies_of_rows_prove_no_more_than_the_rows():
    p, labels = honest(np.random.default_rng(1), 1500)
    groups = [str(i // 8) for i in range(12000)]
    many, same = np.repeat(p, 8, axis=0), np.repeat(labels, 8)
    once = fit_abstain_threshold(p, labels, 0.9)
    grouped = fit_abstain_threshold(many, same, 0.9, groups)
    blind = fit_abstain_threshold(many, same, 0.9)
    assert blind < grouped
    assert grouped == pytest.approx(once, abs=0.04)


def test_a_model_that_is_right_enough_answers_everything():
    p = np.tile([0.8, 0.1, 0.1], (500, 1))
    assert fit_abstain_threshold(p, np.zeros(500, dtype=int), 0.9) == 0.0


def test_a_target_that_is_not_reached_or_not_provable_gives_none():
    rng = np.random.default_rng(0)
    p = np.tile([0.8, 0.1, 0.1], (500, 1)) + rng.normal(scale=0.01, size=(500, 1)) * [1, -0.5, -0.5]
    assert fit_abstain_threshold(p, rng.integers(0, 3, 500), 0.9) is None
    assert fit_abstain_threshold(p[:40], np.zeros(40, dtype=int), 0.9) is None  # all right, and too few to say so


def test_bad_input_is_refused():
    p = np.full((4, 3), 1 / 3)
    with pytest.raises(InputError, match=r"1\.5 is not between 0 and 1"):
        fit_abstain_threshold(p, np.zeros(4, dtype=int), 1.5)
    with pytest.raises(InputError, match="do not go together"):
        fit_abstain_threshold(p, np.zeros(3, dtype=int), 0.9)
    with pytest.raises(InputError, match="N > 0"):
        abstention_curve([], [])
