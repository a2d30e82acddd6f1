"""No worse than a margin: the levels that Holm's correction gives, what is no number, and the error rate."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finsent.evaluation.noninferiority import Estimate, check_noninferiority

VALUES = st.builds(Estimate, st.floats(-0.2, 0.2), st.floats(1e-6, 0.1))


def test_one_difference_is_held_to_alpha():
    (shown,) = check_noninferiority({"a": Estimate(0.0, 0.01)}, 0.02, 0.05).values()
    assert shown.shown
    assert math.isclose(shown.lower, -0.01 * 1.6448536, rel_tol=1e-6)
    (hidden,) = check_noninferiority({"a": Estimate(0.0, 0.01)}, 0.016, 0.05).values()
    assert not hidden.shown


def test_levels_step_down_from_the_clearest():
    found = check_noninferiority(
        {"unclear": Estimate(-0.01, 0.01), "clear": Estimate(0.05, 0.01), "middle": Estimate(0.01, 0.01)}, 0.03, 0.06
    )
    assert [round(1 - found[name].level, 6) for name in ("clear", "middle", "unclear")] == [0.02, 0.03, 0.06]
    assert list(found) == ["unclear", "clear", "middle"]


def test_from_the_first_that_fails_on_all_fail():
    # the second would pass at its own, laxer level, and comes after one that failed
    found = check_noninferiority({"first": Estimate(0.0, 0.0100), "second": Estimate(0.0, 0.0101)}, 0.0185, 0.05)
    assert not found["first"].shown
    assert found["second"].lower > -0.0185
    assert not found["second"].shown


def test_without_any_disagreement_the_difference_itself_counts():
    assert check_noninferiority({"a": Estimate(0.0, 0.0)}, 0.01, 0.05)["a"].shown
    assert not check_noninferiority({"a": Estimate(-0.02, 0.0)}, 0.01, 0.05)["a"].shown
    assert not check_noninferiority({"a": Estimate(0.0, 0.0)}, 0.0, 0.05)["a"].shown


@given(
    st.sampled_from([(math.nan, 0.1), (0.0, math.nan), (0.0, math.inf), (math.inf, 0.1), (0.1, -0.1)]),
    st.lists(VALUES, max_size=4),
)
def test_what_is_no_number_shows_nothing(broken, others):
    differences = {"broken": Estimate(*broken), **{str(index): value for index, value in enumerate(others)}}
    assert not check_noninferiority(differences, 0.5, 0.05)["broken"].shown


@given(st.dictionaries(st.text(min_size=1), VALUES, min_size=1), st.floats(0.001, 0.1))
def test_correction_is_never_laxer_than_none_and_a_wider_margin_never_stricter(differences, margin):
    corrected = check_noninferiority(differences, margin, 0.05)
    wider = check_noninferiority(differences, margin + 0.01, 0.05)
    for name, value in differences.items():
        alone = check_noninferiority({name: value}, margin, 0.05)[name]
        assert alone.shown or not corrected[name].shown
        assert wider[name].shown or not corrected[name].shown


def test_that_any_harmful_slice_is_called_harmless_is_bounded_by_alpha():
    rng = np.random.default_rng(5)
    wrong = 0
    for _ in range(4000):
        harmful = {f"bad {index}": Estimate(rng.normal(-0.05, 0.02), 0.02) for index in range(6)}
        harmless = {f"good {index}": Estimate(rng.normal(0.0, 0.01), 0.01) for index in range(6)}
        found = check_noninferiority(harmful | harmless, 0.05, 0.05)
        wrong += any(found[name].shown for name in harmful)
    assert wrong / 4000 < 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 4000)


def paired(rng, rows, disagreement, difference):
    own, other = rng.multinomial(rows, [(disagreement + difference) / 2, (disagreement - difference) / 2, 1 - disagreement])[:2]
    seen = (own - other) / rows
    error = math.sqrt(((own + other) / rows - seen**2) / rows)
    return Estimate(seen, error), Estimate(seen, error, (rows, int(own), int(other)))


def test_accuracies_keep_the_level_where_the_error_that_was_seen_does_not():
    rng = np.random.default_rng(11)
    wald = score = 0
    for _ in range(6000):
        plain, counted = paired(rng, 300, 0.06, -0.05)
        wald += check_noninferiority({"a": plain}, 0.05, 0.05)["a"].shown
        score += check_noninferiority({"a": counted}, 0.05, 0.05)["a"].shown
    noise = 2.6 * math.sqrt(0.05 * 0.95 / 6000)
    assert score / 6000 < 0.05 + noise
    assert wald / 6000 > 0.05 + noise


@given(st.integers(50, 3000), st.floats(0.0, 0.3), st.floats(0.0, 1.0), st.floats(0.005, 0.1))
def test_lower_end_and_verdict_agree(rows, disagreement, share, margin):
    differing = int(rows * disagreement)
    own = int(differing * share)
    other = differing - own
    seen = (own - other) / rows
    estimate = Estimate(seen, math.sqrt(max((own + other) / rows - seen**2, 0.0) / rows), (rows, own, other))
    found = check_noninferiority({"a": estimate}, margin, 0.05)["a"]
    assert found.lower <= seen + 1e-9
    if abs(found.lower + margin) > 1e-6:
        assert found.shown == (found.lower > -margin)


def test_copies_widen_the_interval():
    independent = Estimate(0.0, math.sqrt(20 / 400) / math.sqrt(400), (400, 10, 10))
    in_groups = Estimate(0.0, 2 * independent.standard_error, (400, 10, 10))
    narrow, wide = (check_noninferiority({"a": one}, 0.1, 0.05)["a"].lower for one in (independent, in_groups))
    assert wide < 1.5 * narrow < 0
