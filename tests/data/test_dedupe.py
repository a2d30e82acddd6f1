"""Near duplicates: planted twins are found, unrelated texts are not, and nothing is missed against brute force."""

import itertools
import string

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.config import DataConfig
from finsent.data.dedupe import candidate_pairs, components, cut_pairs, jaccard, near_pairs, shingle, signatures
from finsent.text import forms

CONFIG = DataConfig()
WORDS = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=9), min_size=12, max_size=25).map(" ".join)


def pairs_of(texts: list[str]) -> set[tuple[int, int]]:
    """Near pairs of texts whose templates differ, and pairs of equal templates."""
    made = [forms(text) for text in texts]
    distinct = list(dict.fromkeys(form.template for form in made))
    cut = [any(form.cut for form in made if form.template == template) for template in distinct]
    near = {(distinct[a], distinct[b]) for a, b in near_pairs(distinct, cut, CONFIG).tolist()}
    return {
        (i, j)
        for i, j in itertools.combinations(range(len(texts)), 2)
        if made[i].template == made[j].template
        or {(made[i].template, made[j].template), (made[j].template, made[i].template)} & near
    }


@settings(deadline=None, max_examples=60)
@given(WORDS, st.integers(0, 7))
def test_planted_twins_are_near(text: str, kind: int) -> None:
    text = f"$AAPL {text} https://t.co/abcd"
    twin = [
        f"RT @some_one: {text}",
        text.replace("t.co/abcd", "t.co/zzzz9"),
        text.replace("$AAPL", "$TSLA"),
        text.removesuffix(" https://t.co/abcd")[: int(len(text) * 0.7)] + "…",
        text.upper().replace("HTTPS://T.CO/ABCD", "https://t.co/abcd"),
        "".join(chr(ord(c) + 0xFEE0) if c in string.ascii_letters else c for c in text.split(" https")[0]),
        f"{text} 🚀",
        f"{text} 🚀🚀🚀🚀🚀🚀🚀🚀",
    ][kind]
    assert pairs_of([text, twin]) == {(0, 1)}


@settings(deadline=None, max_examples=40)
@given(WORDS, WORDS)
def test_unrelated_texts_are_not(one: str, other: str) -> None:
    shingles = shingle([one, other], CONFIG.shingle_size)
    expected = set() if brute_jaccard(one, other) < CONFIG.near_duplicate_jaccard else {(0, 1)}
    assert pairs_of([one, other]) == expected
    assert jaccard(shingles, np.array([[0, 1]]))[0] == pytest.approx(brute_jaccard(one, other))


def brute_jaccard(one: str, other: str, size: int = 5) -> float:
    sets = [{text.ljust(size, "\0")[at : at + size] for at in range(max(len(text) - size + 1, 1))} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@settings(deadline=None, max_examples=80)
@given(st.lists(st.text("abc 🚀", max_size=14), min_size=1, max_size=6))
def test_shingles_are_sets_of_each_text(texts: list[str]) -> None:
    made = shingle(texts, 4)
    for text, size in zip(texts, made.sizes().tolist(), strict=True):
        padded = text.ljust(4, "\0")
        assert size == len({padded[at : at + 4] for at in range(len(padded) - 3)})
    for left, right in itertools.combinations(range(len(texts)), 2):
        assert jaccard(made, np.array([[left, right]]))[0] == pytest.approx(brute_jaccard(texts[left], texts[right], 4))


def test_nothing_is_missed_and_nothing_is_invented_against_brute_force() -> None:
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(list("abcdefghij"), 4)) for _ in range(60)]
    texts = [" ".join(draw.choice(words, 24)) for _ in range(150)]
    for text in texts[:100]:  # twins of all degrees
        changed = text.split()
        for _ in range(int(draw.integers(1, 5))):
            changed[int(draw.integers(len(changed)))] = str(draw.choice(words))
        texts.append(" ".join(changed))
    texts = list(dict.fromkeys(texts))
    found = {tuple(pair) for pair in near_pairs(texts, [False] * len(texts), CONFIG).tolist()}
    true = {(i, j) for i, j in itertools.combinations(range(len(texts)), 2) if brute_jaccard(texts[i], texts[j]) >= 0.8}
    assert found == true
    assert len(true) > 30


def test_only_pairs_with_a_new_row_when_asked() -> None:
    texts = ["buying the dip in $tag today with both hands" + suffix for suffix in ("", "!", "!!", " ok")]
    none = [False] * len(texts)
    every = {tuple(pair) for pair in near_pairs(texts, none, CONFIG).tolist()}
    assert {tuple(pair) for pair in near_pairs(texts, none, CONFIG, new_from=2).tolist()} == {p for p in every if p[1] >= 2}
    together = np.array([0, 0, 1, 1])
    assert {tuple(p) for p in near_pairs(texts, none, CONFIG, together=together).tolist()} == every - {(0, 1), (2, 3)}


def test_a_cut_text_is_a_twin_of_what_goes_on_after_it() -> None:
    whole = (
        "for a limited time we are opening our trading chat room to the public and everyone is welcome to join us there tonight"
    )
    templates = [
        whole,
        whole[:60],
        "for a limited time offer",
        whole[:60] + " other words altogether and many of them to be sure",
    ]
    assert [tuple(pair) for pair in cut_pairs(templates, [False, True, True, False]).tolist()] == [(0, 1), (1, 3)]
    assert cut_pairs(templates, [False] * 4).shape == (0, 2)


def test_few_or_no_texts() -> None:
    assert near_pairs([], [], CONFIG).shape == (0, 2)
    assert near_pairs(["alone"], [True], CONFIG).shape == (0, 2)
    assert candidate_pairs(signatures(shingle(["", "a"], 5), 32)).shape == (0, 2)


@settings(deadline=None)
@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))))
)
def test_components_are_those_of_the_graph(case: tuple[int, list[tuple[int, int]]]) -> None:
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    count, pairs = case
    made = components(count, np.array(pairs, np.int64).reshape(-1, 2))
    left, right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    _, expected = connected_components(sp.coo_matrix((np.ones(len(pairs)), (left, right)), shape=(count, count)), directed=False)
    for row in range(count):
        assert made[row] == np.flatnonzero(expected == expected[row]).min()
