"""Intervals and paired tests against hand computation, brute force and simulation."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix as sklearn_confusion
from sklearn.metrics import f1_score

from finsent.errors import InputError
from finsent.evaluation.statistics import bootstrap, class_f1, confusion_matrix, mcnemar, paired_bootstrap
from finsent.labels import LABELS

ids = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=60)


def simulated(rng, n, skill):
    labels = rng.integers(0, 3, n)
    return labels, np.where(rng.random(n) < skill, labels, (labels + rng.integers(1, 3, n)) % 3)


@settings(deadline=None, max_examples=60)
@given(ids)
def test_confusion_and_f1_are_sklearns(rows):
    labels, predictions = (np.array(column) for column in zip(*rows, strict=True))
    counts = confusion_matrix(labels, predictions)
    assert counts.tolist() == sklearn_confusion(labels, predictions, labels=[0, 1, 2]).tolist()
    expected = f1_score(labels, predictions, labels=[0, 1, 2], average=None, zero_division=0)
    assert class_f1(counts) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("only_a", "only_b", "one_sided", "two_sided"),
    [
        (5, 0, 1 / 32, 2 / 32),
        (0, 5, 1.0, 2 / 32),
        (8, 2, (math.comb(10, 8) + math.comb(10, 9) + 1) / 1024, 2 * 56 / 1024),
        (3, 3, (math.comb(6, 3) + math.comb(6, 4) + 6 + 1) / 64, 1.0),
        (0, 0, 1.0, 1.0),
    ],
)
def test_mcnemar_is_the_binomial_by_hand(only_a, only_b, one_sided, two_sided):
    both = 7  # rows that both models have right tell nothing
    n = only_a + only_b + both
    labels = np.zeros(n, dtype=np.int64)
    a, b = labels.copy(), labels.copy()
    b[:only_a] = 1
    a[only_a : only_a + only_b] = 2
    result = mcnemar(labels, a, b)
    assert (result["only_a"], result["only_b"]) == (only_a, only_b)
    assert result["p_one_sided"] == pytest.approx(one_sided)
    assert result["p_two_sided"] == pytest.approx(two_sided)


def test_twenty_copies_of_one_tweet_are_one_piece_of_evidence():
    labels, b = np.zeros(20, dtype=np.int64), np.ones(20, dtype=np.int64)
    assert mcnemar(labels, labels, b)["p_one_sided"] < 1e-5
    by_group = mcnemar(labels, labels, b, groups=["same tweet"] * 20)
    assert (by_group["only_a"], by_group["only_b"], by_group["p_one_sided"]) == (1, 0, 0.5)


def test_a_group_won_and_lost_equally_often_counts_for_neither():
    labels = np.zeros(4, dtype=np.int64)
    a, b = np.array([0, 1, 0, 0]), np.array([1, 0, 0, 1])
    result = mcnemar(labels, a, b, groups=["x", "x", "y", "z"])
    assert (result["only_a"], result["only_b"]) == (1, 0)


def test_bootstrap_agrees_with_drawing_groups_one_by_one():
    rng = np.random.default_rng(3)
    labels, predictions = simulated(rng, 300, 0.7)
    groups = [str(group) for group in rng.integers(0, 120, 300)]
    fast = bootstrap(labels, predictions, groups, resamples=4000, seed=1)
    members = [np.flatnonzero(np.array(groups) == name) for name in sorted(set(groups))]
    scores = []
    for _ in range(4000):
        rows = np.concatenate([members[index] for index in rng.integers(0, len(members), len(members))])
        counts = confusion_matrix(labels[rows], predictions[rows])
        scores.append((np.trace(counts) / counts.sum(), class_f1(counts).mean()))
    slow = np.quantile(np.array(scores), [0.025, 0.975], axis=0)
    for index, name in enumerate(("accuracy", "macro_f1")):
        assert fast[name]["low"] == pytest.approx(slow[0, index], abs=0.006)
        assert fast[name]["high"] == pytest.approx(slow[1, index], abs=0.006)


def test_bootstrap_by_group_covers_where_a_bootstrap_by_row_does_not():
    rng = np.random.default_rng(11)
    covered = {"by group": 0, "by row": 0}
    for seed in range(150):
        labels, predictions = simulated(rng, 150, 0.8)
        labels, predictions = np.repeat(labels, 6), np.repeat(predictions, 6)  # every tweet six times
        tweets = np.repeat(np.arange(150), 6).astype(str).tolist()
        rows = np.arange(900).astype(str).tolist()
        for name, groups in (("by group", tweets), ("by row", rows)):
            interval = bootstrap(labels, predictions, groups, resamples=200, seed=seed)["accuracy"]
            covered[name] += interval["low"] <= 0.8 <= interval["high"]
    assert covered["by group"] / 150 > 0.88
    assert covered["by row"] / 150 < 0.7


def test_paired_bootstrap_of_a_model_with_itself_is_zero():
    labels, predictions = simulated(np.random.default_rng(0), 200, 0.6)
    result = paired_bootstrap(labels, predictions, predictions, [str(i) for i in range(200)], 200)
    assert (result["macro_f1_difference"]["low"], result["macro_f1_difference"]["high"]) == (0.0, 0.0)
    assert set(result["class_f1_difference"]) == set(LABELS)


def test_paired_bootstrap_sees_which_class_got_worse():
    rng = np.random.default_rng(5)
    labels, b = simulated(rng, 3000, 0.85)
    a = np.where((labels == 2) & (rng.random(3000) < 0.3), 0, b)
    result = paired_bootstrap(labels, a, b, [str(i) for i in range(3000)], 500)
    assert result["class_f1_difference"]["Bearish"]["high"] < -0.05
    assert result["class_f1_difference"]["Bullish"]["low"] > -0.01
    swapped = paired_bootstrap(labels, b, a, [str(i) for i in range(3000)], 500)
    assert swapped["class_f1_difference"]["Bearish"]["low"] == pytest.approx(
        -result["class_f1_difference"]["Bearish"]["high"], abs=0.005
    )


def test_the_seed_decides_and_another_seed_hardly_matters():
    labels, predictions = simulated(np.random.default_rng(2), 1000, 0.75)
    groups = [str(i // 2) for i in range(1000)]
    first = bootstrap(labels, predictions, groups, 1000, seed=0)
    assert first == bootstrap(labels, predictions, groups, 1000, seed=0)
    assert first["accuracy"]["low"] == pytest.approx(
        bootstrap(labels, predictions, groups, 1000, seed=1)["accuracy"]["low"], abs=0.005
    )


def test_six_thousand_rows_take_well_under_five_seconds():
    rng = np.random.default_rng(0)
    labels, a = simulated(rng, 6000, 0.8)
    b = np.where(rng.random(6000) < 0.05, 0, a)
    groups = [str(group) for group in rng.integers(0, 5500, 6000)]
    started = time.process_time()
    bootstrap(labels, a, groups, 1000)
    paired_bootstrap(labels, a, b, groups, 1000)
    assert time.process_time() - started < 2.0


@pytest.mark.parametrize(
    ("labels", "predictions", "groups", "message"),
    [
        ([], [], [], "at least one row"),
        ([0, 1], [0], ["a", "b"], "cannot be compared"),
        ([0, 3], [0, 1], ["a", "b"], "whole numbers from 0 to 2"),
        ([0, 1], [0, -1], ["a", "b"], "whole numbers from 0 to 2"),
        ([0.5, 1], [0, 1], ["a", "b"], "whole numbers from 0 to 2"),
        ([0, 1], [0, 1], ["a"], "1 near-duplicate groups for 2 rows"),
    ],
)
def test_rows_that_do_not_fit_are_refused(labels, predictions, groups, message):
    with pytest.raises(InputError, match=message):
        bootstrap(labels, predictions, groups)
