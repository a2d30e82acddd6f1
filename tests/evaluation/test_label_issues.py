"""Confident learning on texts whose wrong labels are known, because they were planted."""

import numpy as np
import pytest
from numpy.typing import NDArray

from finsent.errors import InputError
from finsent.evaluation.label_issues import out_of_fold, suspect_labels

WORDS = (("flat meeting agenda report", "news"), ("moon rally calls breakout", "bull"), ("crash puts selloff dump", "bear"))
Labels = NDArray[np.int64]


def tweets(rows: int, seed: int = 0) -> tuple[list[str], Labels]:
    """Texts of three words, two of the class's own and one of any; their true labels."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, rows)
    anything = " ".join(words for words, _ in WORDS).split()
    texts = [
        f"{' '.join(rng.choice(WORDS[label][0].split(), 2))} {rng.choice(anything)} {number}"
        for number, label in enumerate(labels)
    ]
    return texts, labels.astype(np.int64)


def test_planted_errors_are_found_and_ranked_first() -> None:
    texts, truth = tweets(600)
    planted = np.random.default_rng(1).choice(600, 18, replace=False)
    labels = truth.copy()
    labels[planted] = (labels[planted] + 1) % 3
    found = suspect_labels(texts, labels, [str(number) for number in range(600)])
    assert np.isin(planted, found.rows).sum() >= 14
    assert len(found.rows) < 60
    assert np.isin(found.rows[:12], planted).mean() > 0.9
    right = [index for index, row in enumerate(found.rows.tolist()) if row in set(planted.tolist())]
    assert (found.suggested[right] == truth[found.rows[right]]).mean() > 0.9
    assert (np.diff(found.confidence) >= 0).all()
    assert (found.suggested != labels[found.rows]).all()
    assert found.looked_at == 600


def test_twins_do_not_vouch_for_one_another() -> None:
    texts, labels = tweets(300)
    twins = ["zork blip quux said so", "zork blip quux said so!", "zork blip quux said so..", "zork blip quux said so?"] * 5
    everything = np.concatenate([labels, np.full(20, 1)]).astype(np.int64)
    numbers = [str(number) for number in range(300)]
    alone = out_of_fold(texts + twins, everything, numbers + [f"t{n}" for n in range(20)], 5)
    together = out_of_fold(texts + twins, everything, numbers + ["twins"] * 20, 5)
    assert alone[-20:, 1].min() > 0.8
    assert together[-20:, 1].max() < 0.6


def test_probabilities_add_up_to_one_for_every_row() -> None:
    texts, labels = tweets(100)
    found = out_of_fold(texts, labels, [str(number // 2) for number in range(100)], 5)
    assert found.shape == (100, 3)
    assert found.sum(axis=1) == pytest.approx(1)


def test_the_same_rows_give_the_same_list() -> None:
    texts, labels = tweets(200)
    labels[:10] = (labels[:10] + 1) % 3
    groups = [str(number) for number in range(200)]
    once, again = suspect_labels(texts, labels, groups), suspect_labels(texts, labels, groups)
    assert once.rows.tolist() == again.rows.tolist()
    assert once.confidence.tolist() == again.confidence.tolist()


def test_of_very_many_rows_a_sample_is_looked_at() -> None:
    texts, labels = tweets(400)
    labels[::20] = (labels[::20] + 1) % 3
    found = suspect_labels(texts, labels, [str(number) for number in range(400)], most_rows=200)
    assert found.looked_at == 200
    assert 0 < len(set(found.rows.tolist()) & set(range(0, 400, 20))) < 20
    assert (found.suggested != labels[found.rows]).all()


def test_two_classes_are_enough_and_keep_their_ids() -> None:
    texts, labels = tweets(400)
    kept = np.flatnonzero(labels != 1)
    given = labels[kept].copy()
    given[:5] = 2 - given[:5]
    found = suspect_labels([texts[index] for index in kept], given, [str(index) for index in kept])
    assert set(range(5)) <= set(found.rows.tolist())
    assert set(found.suggested.tolist()) <= {0, 2}


def test_too_little_to_tell_is_said() -> None:
    texts, labels = tweets(30)
    with pytest.raises(InputError, match="among 30 rows of 1 classes in 30"):
        suspect_labels(texts, np.zeros(30, np.int64), [str(number) for number in range(30)])
    with pytest.raises(InputError, match="takes two classes and 5 groups"):
        suspect_labels(texts, labels, ["one"] * 30)
