"""The power of the paired test: against simulation, against the level, and what a test set can see."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from finsent.evaluation.power import detectable_difference, mcnemar_power


@pytest.mark.parametrize(("groups", "share", "difference"), [(500, 0.06, 0.02), (800, 0.1, 0.0), (60, 0.3, 0.1)])
def test_power_is_what_simulation_gives(groups, share, difference):
    rng = np.random.default_rng(3)
    wins = rng.multinomial(groups, [(share + difference) / 2, (share - difference) / 2, 1 - share], size=6000)
    passed = {}
    for a, b in {tuple(row[:2]) for row in wins.tolist()}:
        passed[a, b] = a + b > 0 and binomtest(a, a + b, alternative="greater").pvalue < 0.05
    simulated = np.mean([passed[a, b] for a, b in wins[:, :2].tolist()])
    assert mcnemar_power(groups, share, difference, 0.05) == pytest.approx(simulated, abs=0.02)


@settings(deadline=None)
@given(st.integers(20, 5000), st.floats(0.02, 0.3), st.floats(0.01, 0.2))
def test_equal_models_pass_at_most_at_the_level(groups, share, alpha):
    assert mcnemar_power(groups, share, 0.0, alpha) <= alpha + 1e-9


@settings(deadline=None, max_examples=30)
@given(st.integers(200, 8000), st.floats(0.03, 0.3))
def test_the_detectable_difference_is_the_smallest_found_that_often(groups, share):
    found = detectable_difference(groups, round(groups * share), 0.05, 0.8)
    if found["detectable_difference"] is None:
        assert mcnemar_power(groups, found["discordant_share"], found["discordant_share"], 0.05) < 0.8
        return
    assert mcnemar_power(groups, found["discordant_share"], found["detectable_difference"], 0.05) >= 0.8
    assert mcnemar_power(groups, found["discordant_share"], found["detectable_difference"] * 0.97, 0.05) < 0.8


def test_more_rows_see_smaller_differences():
    seen = [detectable_difference(groups, groups // 16, 0.05)["detectable_difference"] for groups in (500, 1000, 2400, 6000)]
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(0.008, abs=0.001)


@pytest.mark.parametrize(("groups", "discordant"), [(0, 0), (500, 0), (500, 3)])
def test_models_that_hardly_disagree_cannot_be_told_apart(groups, discordant):
    assert detectable_difference(groups, discordant, 0.05)["detectable_difference"] is None
