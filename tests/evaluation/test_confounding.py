"""Whether the source tells the label: measures against hand-made tables and scikit-learn, and the sentence that says so."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.evaluation.baselines import majority, source_majority
from finsent.evaluation.confounding import confounding, cramers_v, entropy, majority_scores, mutual_information

TABLES = st.lists(st.lists(st.integers(0, 60), min_size=3, max_size=3), min_size=1, max_size=6).map(
    lambda rows: np.array(rows, np.int64)
)


def test_a_source_that_is_the_label_and_one_that_says_nothing():
    same, unrelated = np.diag([100, 100, 100]), np.full((3, 3), 100)
    assert mutual_information(same) == pytest.approx(np.log2(3))
    assert cramers_v(same)[0] == pytest.approx(1.0, abs=0.01)
    assert mutual_information(unrelated) == pytest.approx(0, abs=1e-9)
    assert cramers_v(unrelated) == (0.0, 0.0)


@settings(deadline=None)
@given(TABLES)
def test_measures_keep_their_bounds_and_agree_with_scikit_learn(table):
    from sklearn.metrics import mutual_info_score

    information = mutual_information(table)
    if table.sum():
        assert information == pytest.approx(mutual_info_score(None, None, contingency=table) / np.log(2), abs=1e-9)
    assert 0 <= information <= entropy(table.sum(axis=0)) + 1e-9
    v, w = cramers_v(table)
    assert 0 <= v <= 1
    assert w >= 0


@settings(deadline=None)
@given(TABLES, st.randoms(use_true_random=False))
def test_guesses_score_as_the_row_by_row_baselines_do(table, random):
    train = np.array(table)
    test = np.array([[random.randint(0, 5) for _ in row] for row in table])
    found = majority_scores(train, test)
    if not train.sum() or not test.sum():
        assert found == (None, None)
        return
    (train_sources, train_labels), (test_sources, test_labels) = (expanded(part) for part in (train, test))
    overall = (majority(train_labels, len(test_labels)) == test_labels).mean()
    by_source = (source_majority(train_labels, train_sources, test_sources) == test_labels).mean()
    assert found == (pytest.approx(overall), pytest.approx(by_source))


def expanded(table):
    rows, columns = np.indices(table.shape)
    return [str(row) for row in rows.repeat(table.ravel())], columns.ravel().repeat(table.ravel())


def test_the_sentence_names_what_is_confounded():
    train = np.array([[600, 100, 100], [0, 300, 200], [50, 50, 50]])
    found = confounding(train * 2, train, train, ["wire", "forum", "desk"])
    assert found.confounded
    assert "92% of the Neutral rows come from wire, which is 55% of all rows" in found.sentence
    assert "no Neutral rows at all in forum" in found.sentence
    assert "right on 65.5% of the test rows, guessing the most frequent class of all on 44.8%" in found.sentence
    assert list(found.by_source) == ["wire", "forum", "desk"]
    assert found.by_source["forum"] == {"Neutral": 0, "Bullish": 600, "Bearish": 400}
    assert 0 < found.explained < 1


def test_the_sentence_says_too_when_nothing_is():
    alike = np.array([[100, 200, 100], [50, 100, 50]])
    assert confounding(alike, alike, alike, ["a", "b"]).sentence.startswith("Label and source are hardly related.")
    one = alike[:1]
    assert "cannot be confounded" in confounding(one, one, one, ["a"]).sentence
    assert confounding(one, one, 0 * one, ["a"]).source_majority_accuracy is None


def test_millions_of_rows_take_no_time():
    import time

    rng = np.random.default_rng(0)
    began = time.perf_counter()
    table = np.bincount(rng.integers(0, 27, 1_400_000), minlength=27).reshape(9, 3)
    found = confounding(table, table, table, [str(number) for number in range(9)])
    assert not found.confounded
    assert time.perf_counter() - began < 2
