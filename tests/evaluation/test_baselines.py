"""The baselines."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.errors import InputError
from finsent.evaluation.baselines import baseline_predictions, majority, naive_split_estimate, source_majority, tfidf_predictions

SHARE = st.floats(0, 1)
UP, DOWN, FLAT = "calls printing to the moon", "puts, this is crashing hard", "earnings call on Tuesday"


def test_tfidf_learns_words():
    texts = [f"{text} {number}" for number in range(30) for text in (FLAT, UP, DOWN)]
    labels = np.tile([0, 1, 2], 30)
    predictions = tfidf_predictions(texts, labels, ["moon calls", "crashing", "a call on Tuesday"])
    assert predictions.tolist() == [1, 2, 0]
    assert predictions.dtype == np.int64


def test_tfidf_learns_pieces_of_words_and_emojis_beside_words():
    texts = ["bullishly 🚀", "unbullish 📉"] * 20
    labels = np.array([1, 2] * 20)
    assert tfidf_predictions(texts, labels, ["bullishlyyy", "unbullishest"]).tolist() == [1, 2]


def test_tfidf_is_the_same_every_time():
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(["buy", "sell", "hold", "moon", "dump", "$AAPL"], 4)) for _ in range(200)]
    labels = rng.integers(0, 3, 200)
    first = tfidf_predictions(texts, labels, texts, seed=1)
    assert first.tolist() == tfidf_predictions(texts, labels, texts, seed=1).tolist()


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["up", "up again"], [1, 1], r"two classes or more, and the label ids are \[1\]"),
        (["", " "], [1, 2], "cannot learn from 2"),
    ],
)
def test_tfidf_says_when_there_is_nothing_to_learn(texts, labels, message):
    with pytest.raises(InputError, match=message):
        tfidf_predictions(texts, np.array(labels), ["x"])


def test_majority():
    assert majority(np.array([2, 1, 1]), 3).tolist() == [1, 1, 1]
    assert majority(np.array([2, 1]), 1).tolist() == [1]
    with pytest.raises(InputError, match="no training labels"):
        majority(np.array([], dtype=np.int64), 1)


def test_source_majority_falls_back_on_the_whole_for_a_new_source():
    labels = np.array([1, 1, 2, 0, 1])
    sources = ["news", "news", "forum", "forum", "news"]
    assert source_majority(labels, sources, ["forum", "news", "new source"]).tolist() == [0, 1, 1]


def test_characters_weigh_as_scikit_learns_own_analyzer_counts_them():
    from sklearn.feature_extraction.text import TfidfVectorizer

    from finsent.evaluation.baselines import _character_features

    rng = np.random.default_rng(1)
    words = ["Bullish", "BEARISH", "up", "a", "🚀🚀", "$AAPL", "don't", "İstanbul", "naïve", "x" * 30, "up,"]
    texts = [rng.choice(["  ", " ", "\n", "\u00a0"]).join(rng.choice(words, rng.integers(1, 9))) for _ in range(120)]
    own = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), min_df=2, sublinear_tf=True)
    expected = np.vstack([own.fit_transform(texts[:80]).toarray(), own.transform(texts[80:]).toarray()])
    found = _character_features(texts, 80, 2).toarray()
    assert found.shape == expected.shape
    assert np.allclose(np.sort(found, axis=1), np.sort(expected, axis=1), atol=1e-12)


def test_floors_are_learnt_from_the_same_rows():
    texts = [f"{text} {number}" for number in range(20) for text in (FLAT, UP, DOWN)]
    labels, sources = np.tile([0, 1, 2], 20), ["news", "forum", "forum"] * 20
    baselines = baseline_predictions(texts[1:], labels[1:], sources[1:], [UP, DOWN, FLAT], ["forum", "news", "new"])
    assert {name: values.tolist() for name, values in baselines.items()} == {
        "majority": [1, 1, 1],
        "source_majority": [1, 0, 1],
        "tfidf": [1, 2, 0],
    }
    assert {values.dtype for values in baselines.values()} == {np.dtype(np.int64)}


def test_floors_refuse_columns_that_do_not_fit():
    labels = np.array([1, 2])
    with pytest.raises(InputError, match="2 training texts with 1 sources"):
        baseline_predictions(["a", "b"], labels, ["s"], ["a"], ["s"])
    with pytest.raises(InputError, match="1 test texts with 2 sources"):
        baseline_predictions(["a", "b"], labels, ["s", "s"], ["a"], ["s", "s"])


@settings(deadline=None)
@given(SHARE, SHARE, SHARE)
def test_the_naive_split_estimate_lies_between_held_out_and_training_accuracy(held_out, training, leak):
    estimate = naive_split_estimate(held_out, training, 500, leak)["estimated_accuracy"]
    assert min(held_out, training) - 1e-9 <= estimate <= max(held_out, training) + 1e-9


def test_without_leaks_the_naive_split_estimate_is_the_held_out_accuracy():
    assert naive_split_estimate(0.77, 0.97, 500, 0.0)["estimated_accuracy"] == 0.77


def test_the_naive_split_estimate_weighs_both_accuracies_by_the_leak():
    assert naive_split_estimate(0.77, 0.97, 500, 0.2)["estimated_accuracy"] == pytest.approx(0.81)
