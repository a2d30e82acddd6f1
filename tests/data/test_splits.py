"""Splits: stable, and of the sizes asked for."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from finsent.config import DataConfig
from finsent.data.splits import SPLIT_CODES, TEST, TRAIN, VALIDATION, split_of_group, split_rule

RULE = split_rule(DataConfig())
PINNED = ["validation", *["train"] * 4, "test", *["train"] * 4, "test", "train"]


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_a_group_always_has_the_same_split(group: str) -> None:
    assert split_of_group(group, RULE) in (TRAIN, VALIDATION, TEST)
    assert split_of_group(group, RULE) == split_of_group(group, split_rule(DataConfig(permutations=64)))


def test_splits_do_not_change_between_releases() -> None:
    assert [SPLIT_CODES[split_of_group(f"group {index}", RULE)] for index in range(12)] == PINNED


def test_shares_are_those_asked_for() -> None:
    counts = Counter(split_of_group(str(index), RULE) for index in range(20_000))
    assert abs(counts[TEST] / 20_000 - 0.15) < 0.01
    assert abs(counts[VALIDATION] / 20_000 - 0.15) < 0.01


def test_the_salt_decides() -> None:
    salted = split_rule(DataConfig(split_salt="other"))
    assert any(split_of_group(str(index), RULE) != split_of_group(str(index), salted) for index in range(50))


def test_a_larger_training_share_takes_nothing_from_the_test_set() -> None:
    wider = split_rule(DataConfig(validation_fraction=0.05))
    groups = [str(index) for index in range(2000)]
    assert [g for g in groups if split_of_group(g, RULE) == TEST] == [g for g in groups if split_of_group(g, wider) == TEST]
