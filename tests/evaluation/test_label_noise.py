"""Expected label errors against errors that are known, because they were planted."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from finsent.evaluation.label_noise import ExpectedErrors, error_probabilities, expected_errors, worth_reading

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def judged(rows: int, noise: float, seed: int) -> tuple[Labels, Floats, NDArray[np.bool_]]:
    """Labels of which a share was turned, out-of-fold probabilities of a middling model, and which were turned."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 3, rows)
    evidence = rng.normal(0, 1, (rows, 3))
    evidence[np.arange(rows), truth] += 2.5
    odds = np.exp(2.5 * evidence)
    turned = rng.random(rows) < noise
    return np.where(turned, (truth + rng.integers(1, 3, rows)) % 3, truth), odds / odds.sum(axis=1, keepdims=True), turned


@pytest.mark.parametrize("noise", [0.02, 0.1])
def test_as_many_are_expected_as_were_planted_at_every_rank(noise: float) -> None:
    labels, probabilities, turned = judged(8000, noise, seed=1)
    found = error_probabilities(labels, probabilities)
    ranked = np.argsort(-found, kind="stable")
    assert worth_reading(found[ranked]) > 40
    for rank in (50, 100, 300, len(labels)):
        assert found[ranked[:rank]].sum() == pytest.approx(turned[ranked[:rank]].sum(), rel=0.35)


def test_a_bad_source_is_expected_to_be_bad_and_a_good_one_good() -> None:
    bad, good = judged(4000, 0.15, seed=2), judged(4000, 0.01, seed=3)
    labels, probabilities, turned = (np.concatenate(pair) for pair in zip(bad, good, strict=True))
    found = error_probabilities(labels, probabilities, ["bad"] * 4000 + ["good"] * 4000)
    assert found[:4000].sum() == pytest.approx(turned[:4000].sum(), rel=0.35)
    assert found[4000:].sum() < 120


def test_small_sources_are_estimated_together() -> None:
    labels, probabilities, _ = judged(900, 0.05, seed=4)
    names = [f"desk {number % 9}" for number in range(900)]
    assert error_probabilities(labels, probabilities, names).tolist() == error_probabilities(labels, probabilities).tolist()


@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(2, 3), st.integers(0, 99), st.booleans())
def test_any_probabilities_give_probabilities_that_fall_with_the_score(rows: int, classes: int, seed: int, even: bool) -> None:
    rng = np.random.default_rng(seed)
    probabilities = np.full((rows, classes), 1 / classes) if even else rng.dirichlet([0.2] * classes, rows)
    labels = rng.integers(0, classes, rows)
    found = error_probabilities(labels, probabilities)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found[np.argsort(probabilities[np.arange(rows), labels], kind="stable")]) <= 1e-9).all()


def test_what_is_worth_reading() -> None:
    ranked = np.linspace(1, 0, 401)
    assert worth_reading(ranked, 0.25) == 301
    assert worth_reading(ranked, 1.0) == 1
    assert worth_reading(np.full(5, 0.5)) == 5
    assert worth_reading(np.zeros(0)) == worth_reading(np.zeros(9)) == 0
    assert expected_errors(np.full(120, 0.5)) == (ExpectedErrors(50, 25), ExpectedErrors(100, 50), ExpectedErrors(120, 60))
    assert expected_errors(np.zeros(0)) == ()
