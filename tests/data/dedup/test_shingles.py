"""Shingle sets and their Jaccard similarity, against plain Python sets."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.data.dedup.shingles import jaccard, shingle, windows


def brute_jaccard(one: str, other: str, size: int = 5) -> float:
    sets = [{text.ljust(size, "\0")[at : at + size] for at in range(max(len(text) - size + 1, 1))} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text("abc 🚀", max_size=14), min_size=1, max_size=6))
def test_shingles_are_sets_of_each_text(texts: list[str]) -> None:
    made, every = shingle(texts, 4), windows(texts, 4)
    for index, text in enumerate(texts):
        padded = text.ljust(4, "\0")
        parts = [padded[at : at + 4] for at in range(len(padded) - 3)]
        assert made.sizes()[index] == len(set(parts))
        assert every.sizes()[index] == len(parts)
        start, stop = every.offsets[index : index + 2]
        assert set(every.hashes[start:stop]) == set(made.hashes[made.offsets[index] : made.offsets[index + 1]])
    for left, right in itertools.combinations(range(len(texts)), 2):
        assert jaccard(made, np.array([[left, right]]))[0] == pytest.approx(brute_jaccard(texts[left], texts[right], 4))


def test_no_texts() -> None:
    assert shingle([], 5).offsets.tolist() == [0]
    assert windows([], 5).offsets.tolist() == [0]
    assert jaccard(shingle([], 5), np.zeros((0, 2), np.int64)).tolist() == []
