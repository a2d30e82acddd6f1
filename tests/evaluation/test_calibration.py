"""Calibration figures by hand, and a temperature that is known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.calibration import TEMPERATURES, expected_calibration_error, fit_temperature, reliability
from finsent.model.engine import probabilities as softmax


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
