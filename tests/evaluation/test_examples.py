"""Rows that are shown: the right ones, the surest first, none twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.examples import NEITHER, ONLY_CHAMPION, ONLY_OWN, disagreements, worst_errors
from finsent.labels import LABELS


def table(own, sure):
    """Probabilities whose largest is `sure` at class `own`."""
    p = np.repeat(((1 - np.array(sure)) / 2)[:, None], 3, axis=1)
    p[np.arange(len(own)), own] = sure
    return p


def test_each_kind_of_disagreement_by_hand():
    labels, champion, own = np.array([0, 0, 0, 0, 1, 1]), np.array([1, 0, 2, 0, 0, 0]), [0, 1, 1, 0, 1, 1]
    p = table(own, [0.6, 0.7, 0.8, 0.9, 0.7, 0.8])
    found = disagreements([f"t{i}" for i in range(6)], labels, champion, p, ["a", "b", "c", "d", "e", "e"])
    assert [(row.kind, row.text) for row in found] == [(ONLY_OWN, "t5"), (ONLY_OWN, "t0"), (ONLY_CHAMPION, "t1"), (NEITHER, "t2")]
    assert (found[3].label, found[3].own, found[3].champion) == ("Neutral", "Bullish", "Bearish")
    assert found[0].confidence == pytest.approx(0.8)


def test_worst_errors_by_pair():
    labels, own = np.array([0, 0, 0, 2, 1]), [1, 1, 1, 0, 1]
    pairs = worst_errors(["a", "b", "c", "d", "e"], labels, table(own, [0.6, 0.9, 0.7, 0.8, 1.0]), ["1", "2", "3", "4", "5"], 2)
    assert [(pair.label, pair.own, pair.count) for pair in pairs] == [("Neutral", "Bullish", 3), ("Bearish", "Neutral", 1)]
    assert [error.text for error in pairs[0].worst] == ["b", "c"]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_what_is_shown_is_what_it_is_called(rows, seed, k):
    rng = np.random.default_rng(seed)
    labels, champion, p = rng.integers(0, 3, rows), rng.integers(0, 3, rows), rng.dirichlet([1, 1, 1], rows)
    groups, texts = [str(g) for g in rng.integers(0, 20, rows)], [str(i) for i in range(rows)]
    own = p.argmax(axis=1)
    found = disagreements(texts, labels, champion, p, groups, k)
    for row in found:
        i = int(row.text)
        assert row.kind == {
            (True, False): ONLY_OWN, (False, True): ONLY_CHAMPION, (False, False): NEITHER,
        }[own[i] == labels[i], champion[i] == labels[i]]  # fmt: skip
        assert (row.label, row.own, row.champion) == (LABELS[labels[i]], LABELS[own[i]], LABELS[champion[i]])
        assert row.own != row.champion
    for kind in (ONLY_OWN, ONLY_CHAMPION, NEITHER):
        shown = [row for row in found if row.kind == kind]
        assert len(shown) <= k
        assert len({groups[int(row.text)] for row in shown}) == len(shown)
        assert [row.confidence for row in shown] == sorted((row.confidence for row in shown), reverse=True)
    pairs = worst_errors(texts, labels, p, groups, k)
    assert sum(pair.count for pair in pairs) == (own != labels).sum()


def test_columns_of_other_lengths_are_refused():
    with pytest.raises(InputError, match=r"of \[2, 1, 1, 1\] rows"):
        worst_errors(["a", "b"], np.array([0]), np.array([[1.0, 0.0, 0.0]]), ["g"])
