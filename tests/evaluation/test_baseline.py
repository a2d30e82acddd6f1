"""The floors."""

import numpy as np
import pytest

from finsent.errors import InputError
from finsent.evaluation.baseline import majority, source_majority, tfidf_predictions

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
