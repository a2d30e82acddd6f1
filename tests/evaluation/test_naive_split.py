"""The estimate of what a random split would have claimed, and the words for it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.evaluation.baselines import naive_split_estimate
from finsent.reporting.summaries import format_naive_split, format_naive_split_method

SHARE = st.floats(0, 1)


@settings(deadline=None)
@given(SHARE, SHARE, SHARE)
def test_the_claim_lies_between_held_out_and_training(held_out, training, leak):
    claimed = naive_split_estimate(held_out, training, 500, leak)["claimed_accuracy"]
    assert min(held_out, training) - 1e-9 <= claimed <= max(held_out, training) + 1e-9


def test_nothing_leaked_claims_nothing_more():
    assert naive_split_estimate(0.77, 0.97, 500, 0.0)["claimed_accuracy"] == 0.77


def test_the_words_hold_the_formula():
    record = naive_split_estimate(0.77, 0.97, 500, 0.2)
    assert record["claimed_accuracy"] == pytest.approx(0.81)
    assert format_naive_split(record) == "A naive random split would have claimed 0.810 where held-out rows say 0.770."
    assert "0.800 x 0.770 (held-out accuracy) + 0.200 x 0.970 (accuracy on 500 rows trained on)" in format_naive_split_method(
        record
    )
