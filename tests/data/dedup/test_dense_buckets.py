"""Crowds of alike texts: no near pair is missed by what is left out, and little is left in."""

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.data.dedup.dense_buckets import candidate_pairs
from finsent.data.dedup.shingles import Int64, jaccard, shingle

THRESHOLD, SIZE = 0.8, 5


def alerts(count: int, seed: int) -> list[str]:
    """A bot's texts, alike to about 0.75; some near duplicates among them."""
    draw = random.Random(seed)
    made = [
        f"price alert {draw.randrange(10**6)} for $tag was triggered {draw.choice(('up', 'down'))} by our bot"
        for _ in range(count)
    ]
    return made + [text + "!" for text in made[: count // 5]] + ["something else altogether", "some other thing"]


def near(texts: list[str]) -> set[tuple[int, int]]:
    pairs = np.array(list(itertools.combinations(range(len(texts)), 2)))
    similar = jaccard(shingle(texts, SIZE), pairs) >= THRESHOLD - 1e-12
    return {(low, high) for low, high in pairs[similar].tolist()}


def likely(texts: list[str], numbers: Int64, rows: Int64 | None = None, new_from: int = 0) -> set[tuple[int, int]]:
    rows = np.arange(len(texts)) if rows is None else rows
    found = candidate_pairs(rows, numbers, texts, np.arange(len(texts)) >= new_from, threshold=THRESHOLD, size=SIZE)
    return {(low, high) for pairs in found for low, high in pairs.tolist()}


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10**6), st.integers(5, 60))
def test_no_near_pair_is_missed(seed: int, count: int) -> None:
    texts = alerts(count, seed)
    found = likely(texts, np.arange(len(texts)))
    assert near(texts) <= found
    assert all(low < high for low, high in found)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.text("ab ", min_size=1, max_size=12), min_size=2, max_size=25, unique=True))
def test_nor_among_texts_of_few_characters(texts: list[str]) -> None:
    assert near(texts) <= likely(texts, np.arange(len(texts)))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(1, 4))
def test_only_wanted_pairs_come(seed: int, new_from: int, groups: int) -> None:
    texts = alerts(50, seed)
    numbers = np.array([random.Random(seed + row).randrange(groups) for row in range(len(texts))])
    found = likely(texts, numbers, new_from=new_from)
    wanted = {(low, high) for low, high in near(texts) if numbers[low] != numbers[high] and high >= new_from}
    assert wanted <= found
    assert all(numbers[low] != numbers[high] and high >= new_from for low, high in found)


def test_rows_are_named_by_their_numbers() -> None:
    texts = alerts(40, 1)
    rows = np.arange(len(texts)) * 3 + 7
    found = likely(texts, np.arange(len(texts)), rows)
    assert {(low * 3 + 7, high * 3 + 7) for low, high in near(texts)} <= found
    assert {row for pair in found for row in pair} <= set(rows.tolist())


@pytest.mark.parametrize("count", [2000])
def test_hardly_any_other_pair_has_to_be_compared(count: int) -> None:
    draw = random.Random(0)
    texts = [f"price alert number {draw.randrange(10**8)} for $tag was triggered this morning by our bot" for _ in range(count)]
    assert len(likely(texts, np.arange(len(texts)))) < 0.1 * count**2 / 2
