"""Near duplicates: planted twins are found, unrelated texts are not, and nothing is missed against brute force."""

import csv
import gzip
import itertools
import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.config import DataConfig
from finsent.data.dedup.near_duplicates import (
    continues,
    link_near_duplicates,
    merge_components,
    near_duplicate_pairs,
    rows_to_compare,
)
from finsent.data.dedup.shingles import Int64, jaccard, shingle
from finsent.data.dedup.signatures import make_signatures
from finsent.errors import ConfigError
from finsent.text import Forms, forms

CONFIG = DataConfig()
SHARED = Path(__file__).parents[4] / "shared" / "data"
WORDS = st.lists(st.text(string.ascii_lowercase, min_size=2, max_size=9), min_size=12, max_size=25).map(" ".join)
SWAPS = {"$AAPL": "$TSLA"}


def distinct(texts: list[str]) -> list[Forms]:
    """Forms of distinct templates, cut where any text of it is."""
    by_template: dict[str, Forms] = {}
    for form in map(forms, texts):
        there = by_template.get(form.template)
        by_template[form.template] = form._replace(truncated=form.truncated or (there is not None and there.truncated))
    return list(by_template.values())


def linked(made: list[Forms], **more: object) -> Int64:
    return link_near_duplicates(make_signatures(made, CONFIG), lambda rows: [made[row].template for row in rows], CONFIG, **more)  # type: ignore[arg-type]


def near_pairs(made: list[Forms], apart: Int64 | None = None, new_from: int = 0) -> set[tuple[int, int]]:
    apart = np.arange(len(made)) if apart is None else apart
    active = np.arange(len(made)) >= new_from
    pairs = near_duplicate_pairs(
        make_signatures(made, CONFIG), lambda rows: [made[row].template for row in rows], CONFIG, apart, active=active
    )
    return {(low, high) for low, high in pairs.tolist()}


def share_a_group(*texts: str) -> bool:
    return len(set(linked(distinct(list(texts))).tolist())) == 1


@settings(deadline=None, max_examples=120)
@given(WORDS, st.integers(0, 13))
def test_planted_twins_share_a_group(text: str, kind: int) -> None:
    text = f"$AAPL {text} https://t.co/abcd"
    plain = text.removesuffix(" https://t.co/abcd")
    twin = [
        f"RT @some_one: {text}",
        text.replace("t.co/abcd", "t.co/zzzz9"),
        text.replace("$AAPL", "$TSLA"),
        plain[: max(60, int(len(plain) * 0.5))] + "…",
        plain[: max(60, int(len(plain) * 0.8))] + "... https://t.co/x",
        f"RT @x: {plain[: max(60, int(len(plain) * 0.6))]}…",
        text.upper().replace("HTTPS://T.CO/ABCD", "https://t.co/abcd"),
        "".join(chr(ord(c) + 0xFEE0) if c in string.ascii_letters else c for c in plain),
        f"{text} 🚀",
        f"🔥{plain} 🚀🚀🚀 📈 🚀🚀🚀🚀🚀",
        f"  @you {plain}\n\n😂👩🏽‍💻 ",
        f"{plain[: max(60, int(len(plain) * 0.5))]} https://t.co/z…",
        f"{plain[: max(60, int(len(plain) * 0.6))]} https… https://t.co/zz",
        f"“{plain[: max(60, int(len(plain) * 0.5))]}…” (via @some_one)",
    ][kind]
    assert share_a_group(text, twin)


@settings(deadline=None, max_examples=60)
@given(st.lists(WORDS, min_size=2, max_size=6, unique=True))
def test_unrelated_texts_do_not(texts: list[str]) -> None:
    made = distinct(texts)
    true = brute_pairs(made)
    assert near_pairs(made) == true
    if not true:
        assert len(set(linked(made).tolist())) == len(made)


def brute_pairs(made: list[Forms]) -> set[tuple[int, int]]:
    """Every pair compared: what near duplicates are by definition."""
    sets = [set(zip(*(text.template.ljust(5, "\0")[at:] for at in range(5)), strict=False)) for text in made]
    found = set()
    for i, j in itertools.combinations(range(len(made)), 2):
        if len(sets[i]) < 0.8 * len(sets[j]) or len(sets[j]) < 0.8 * len(sets[i]):
            similar = False
        else:
            shared = len(sets[i] & sets[j])
            similar = shared / (len(sets[i]) + len(sets[j]) - shared) >= CONFIG.near_duplicate_jaccard - 1e-12
        if similar or any(
            one.truncated and continues(one.template, other.template, CONFIG.truncation_min_characters)
            for one, other in ((made[i], made[j]), (made[j], made[i]))
        ):
            found.add((i, j))
    return found


def twins_of_all_degrees(count: int, seed: int = 0) -> list[Forms]:
    draw = np.random.default_rng(seed)
    words = ["".join(draw.choice(list("abcdefghij"), 4)) for _ in range(60)]
    texts = [" ".join(draw.choice(words, 24)) for _ in range(count)]
    for text in texts[: count * 2 // 3]:
        changed = text.split()
        for _ in range(int(draw.integers(1, 5))):
            changed[int(draw.integers(len(changed)))] = str(draw.choice(words))
        texts.append(" ".join(changed) if draw.random() < 0.8 else text[: int(draw.integers(40, 100))] + "…")
    return distinct(texts)


def test_nothing_is_missed_and_nothing_is_invented_against_brute_force() -> None:
    made = twins_of_all_degrees(150)
    true = brute_pairs(made)
    assert len(true) > 30
    assert near_pairs(made) == true
    assert (linked(made) == merge_components(np.arange(len(made)), np.array(sorted(true)))).all()


@pytest.mark.skipif(not SHARED.is_dir(), reason="real tweets are not beside this checkout (../shared/data)")
def test_recall_and_precision_on_real_tweets() -> None:
    with gzip.open(SHARED / "mattgilgo.csv.gz", "rt", encoding="utf-8", newline="") as stream:
        made = distinct([row["text"] for row in itertools.islice(csv.DictReader(stream), 2000)])
    true, found = brute_pairs(made), near_pairs(made)
    assert len(true) > 100
    assert found <= true
    assert len(found) >= 0.99 * len(true)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.floats(0.05, 0.95))
def test_in_two_steps_as_at_once(seed: int, share: float) -> None:
    made = twins_of_all_degrees(40, seed)
    first = int(len(made) * share)
    before = linked(made[:first])
    start = np.concatenate([before, np.arange(first, len(made))])
    assert (linked(made, active=np.arange(len(made)) >= first, joined=start) == linked(made)).all()
    apart = near_pairs(made, new_from=first)
    assert apart == {pair for pair in near_pairs(made) if pair[1] >= first}
    needed = rows_to_compare(make_signatures(made, CONFIG), CONFIG, np.arange(len(made)) >= first, start)
    assert {row for pair in apart for row in pair} <= set(needed.tolist())


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sets(st.integers(0, 60)))
def test_only_pairs_with_an_active_row(seed: int, chosen: set[int]) -> None:
    made = twins_of_all_degrees(40, seed)
    active = np.isin(np.arange(len(made)), sorted(chosen))
    signatures, apart = make_signatures(made, CONFIG), np.arange(len(made))
    found = near_duplicate_pairs(signatures, lambda rows: [made[row].template for row in rows], CONFIG, apart, active=active)
    assert {(low, high) for low, high in found.tolist()} == {pair for pair in near_pairs(made) if active[list(pair)].any()}


def test_only_pairs_that_are_apart() -> None:
    made = distinct(["buying the dip in $tag today with both hands" + suffix for suffix in ("", " a", " b", " ok")])
    every = near_pairs(made)
    assert len(every) == 6
    assert near_pairs(made, np.array([0, 0, 1, 1])) == every - {(0, 1), (2, 3)}


def test_a_wave_of_copies_costs_no_square() -> None:
    wave = distinct([f"loading up on calls this morning because the chart looks ready {number}" for number in range(6000)])
    assert len(set(linked(wave).tolist())) == 1


def test_a_crowd_of_alike_texts_is_told_apart_as_by_brute_force() -> None:
    draw = np.random.default_rng(1)
    crowd = [f"price alert {draw.integers(10**6)} for the stock was triggered this morning by our bot" for _ in range(400)]
    made = distinct(crowd + [text + " now" for text in crowd[:50]] + [text[:50] + "…" for text in crowd[:20]])
    true = brute_pairs(made)
    assert near_pairs(made) == true
    assert (linked(made) == merge_components(np.arange(len(made)), np.array(sorted(true)))).all()
    first = 300
    start = np.concatenate([linked(made[:first]), np.arange(first, len(made))])
    assert (linked(made, active=np.arange(len(made)) >= first, joined=start) == linked(made)).all()


def test_a_cut_text_is_a_twin_of_what_goes_on_after_it() -> None:
    whole = "for a limited time we are opening our trading chat room to the public and everyone is welcome to join us there"
    made = distinct([whole, whole[:60] + "…", "for a limited time…", whole[:60] + " other words altogether and many of them"])
    assert near_pairs(made) == {(0, 1), (1, 3)}
    assert not near_pairs([form._replace(truncated=False) for form in made])


def test_what_goes_on() -> None:
    assert continues("buy the dip now becau", "buy the dip now because", 12)
    assert not continues("buy the dip now", "buy the other dip now", 12)
    assert not continues("buy", "buy the dip", 12)
    assert continues("supercalifragilisticexpi", "supercalifragilisticexpialidocious", 12)


def test_few_or_no_texts() -> None:
    assert near_pairs([]) == set()
    assert linked([]).tolist() == []
    assert linked(distinct(["alone…"])).tolist() == [0]
    assert linked(distinct(["", "a"])).tolist() == [0, 1]


@settings(deadline=None)
@given(
    st.integers(1, 30).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)))))
)
def test_components_are_those_of_the_graph(case: tuple[int, list[tuple[int, int]]]) -> None:
    import scipy.sparse as sp
    from scipy.sparse.csgraph import connected_components

    count, pairs = case
    made = merge_components(np.arange(count), np.array(pairs, np.int64).reshape(-1, 2))
    left, right = (np.array([pair[side] for pair in pairs], np.int64) for side in (0, 1))
    _, expected = connected_components(sp.coo_matrix((np.ones(len(pairs)), (left, right)), shape=(count, count)), directed=False)
    for row in range(count):
        assert made[row] == np.flatnonzero(expected == expected[row]).min()


def test_true_similarity_decides_not_the_sketch() -> None:
    made = twins_of_all_degrees(60, seed=3)
    shingles = shingle([form.template for form in made], 5)
    for low, high in near_pairs(made):
        similar = jaccard(shingles, np.array([[low, high]]))[0]
        cut = made[low].truncated or made[high].truncated
        assert similar >= CONFIG.near_duplicate_jaccard or cut


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.9])
def test_bands_follow_the_threshold(threshold: float) -> None:
    config = CONFIG.model_copy(update={"near_duplicate_jaccard": threshold})
    draw = np.random.default_rng(5)
    words = ["".join(draw.choice(list("abcdefghijklmnop"), 5)) for _ in range(500)]
    texts = []
    for _ in range(150):
        text = draw.choice(words, 20)
        texts += [
            " ".join(text),
            " ".join([*text[: int(20 - draw.integers(0, 9))], *draw.choice(words, int(draw.integers(0, 4)))]),
        ]
    made = distinct(texts)
    pairs = np.array(list(itertools.combinations(range(len(made)), 2)))
    similar = jaccard(shingle([form.template for form in made], 5), pairs) >= threshold - 1e-12
    true = {(low, high) for low, high in pairs[similar].tolist()}
    found = near_duplicate_pairs(
        make_signatures(made, config), lambda rows: [made[row].template for row in rows], config, np.arange(len(made))
    )
    assert len(true) > 10
    assert {(low, high) for low, high in found.tolist()} == true


def test_a_threshold_that_cannot_be_held_is_refused() -> None:
    config = CONFIG.model_copy(update={"near_duplicate_jaccard": 0.05, "permutations": 64})
    with pytest.raises(ConfigError, match=r"data.permutations = 64 cannot find near duplicates at .* = 0.05"):
        make_signatures(distinct(["some text"]), config)
