"""Drift against hand computation, and its error rates by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from finsent.errors import InputError
from finsent.monitoring.drift import Drift, categorical_drift, numeric_drift, population_stability_index

counts = st.lists(st.integers(0, 500), min_size=3, max_size=3).filter(any)


def test_index_by_hand():
    # smoothed shares: (40.5, 40.5, 20.5) / 101.5 and (20.5, 40.5, 40.5) / 101.5
    shift = (40.5 - 20.5) / 101.5
    expected = shift * math.log(40.5 / 20.5) * 2
    assert population_stability_index([40, 40, 20], [20, 40, 40]) == pytest.approx(expected)


@given(counts, counts)
def test_index_is_never_negative_zero_for_the_same_shares_and_symmetric(reference, window):
    index = population_stability_index(reference, window)
    assert index >= -1e-12
    assert population_stability_index(reference, reference) == 0
    assert index == pytest.approx(population_stability_index(window, reference))
    assert math.isfinite(categorical_drift(reference, window).p_value)


def test_categorical_p_is_the_chi_square_test():
    drift = categorical_drift([300, 450, 250], [90, 60, 50])
    assert drift.p_value == pytest.approx(chi2_contingency([[300, 450, 250], [90, 60, 50]]).pvalue)


def test_a_class_that_nobody_saw_does_not_matter_and_a_new_one_does():
    assert categorical_drift([100, 0, 0], [50, 0, 0]).p_value == 1.0
    assert categorical_drift([100, 100, 0], [60, 40, 0]).p_value > 0.05
    assert categorical_drift([1000, 1000, 0], [100, 100, 200]).exceeds(0.2)


def test_a_shift_of_values_is_seen_and_none_is_not():
    rng = np.random.default_rng(0)
    reference = rng.normal(size=3000)
    assert not numeric_drift(reference, rng.normal(size=1000)).exceeds(0.2)
    assert numeric_drift(reference, rng.normal(loc=0.7, size=1000)).exceeds(0.2)
    assert numeric_drift(np.full(100, 7.0), np.full(100, 9.0)).exceeds(0.2)


def test_a_small_batch_has_a_large_index_by_chance_and_is_not_called_drifted():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=2000)
    drifts = [numeric_drift(reference, rng.normal(size=25)) for _ in range(200)]
    assert np.mean([drift.psi > 0.2 for drift in drifts]) > 0.5
    assert np.mean([drift.exceeds(0.2) for drift in drifts]) < 0.03


def test_a_huge_batch_has_a_tiny_p_and_is_not_called_drifted():
    rng = np.random.default_rng(2)
    drift = numeric_drift(rng.normal(size=50000), rng.normal(loc=0.05, size=50000))
    assert drift.p_value < 1e-6
    assert not drift.exceeds(0.2)


def test_both_must_speak():
    assert Drift(0.3, 0.001).exceeds(0.2)
    assert not Drift(0.3, 0.02).exceeds(0.2)
    assert not Drift(0.2, 0.001).exceeds(0.2)


@pytest.mark.parametrize(("reference", "window"), [([0, 0], [1, 2]), ([1, 2], [-1, 2]), ([], []), ([1, 2], [1, 2, 3])])
def test_what_cannot_be_compared_is_refused(reference, window):
    with pytest.raises(InputError):
        population_stability_index(reference, window)


def test_no_values_are_refused():
    with pytest.raises(InputError, match="3 values of reference against 0"):
        numeric_drift([1, 2, 3], [])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_no_numbers_are_never_taken_for_unchanged(bad):
    values = np.linspace(0, 1, 100)
    assert numeric_drift(values, np.append(values, bad)).exceeds(0.2)
    assert numeric_drift(np.append(values, bad), values).exceeds(0.2)
    assert Drift(np.nan, np.nan).exceeds(0.2)
