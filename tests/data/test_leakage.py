"""The leak audit counts pairs across splits, and says what a random split would have leaked."""

import numpy as np
import pytest

from finsent.config import DataConfig
from finsent.data.leakage import NaiveSplit, audit_texts, group_sizes, naive_leak, naive_split
from finsent.data.splits import SPLIT_CODES
from finsent.text import forms

CONFIG = DataConfig()
TEXT = "loading up on september calls this morning because the chart looks ready and volume is finally back"


def leaks(*rows: tuple[str, str]) -> int:
    splits = np.array([SPLIT_CODES.index(split) for _, split in rows], np.int8)
    return audit_texts([forms(text) for text, _ in rows], splits, CONFIG).leaks


def test_no_rows_no_leaks() -> None:
    assert leaks() == 0
    assert leaks((TEXT, "train")) == 0


def test_pairs_inside_a_split_are_no_leak() -> None:
    assert leaks((TEXT, "train"), (TEXT + "!", "train"), ("something else altogether", "test")) == 0


def test_equal_and_near_pairs_across_splits_are_counted() -> None:
    assert leaks((TEXT, "train"), (TEXT.upper(), "test")) == 1
    assert leaks((TEXT, "train"), (TEXT + " ok", "validation")) == 1
    assert leaks((TEXT, "train"), (TEXT, "train"), (TEXT, "test"), (TEXT + " ok", "test")) == 4
    assert leaks((TEXT, "train"), (TEXT, "test"), (TEXT + " ok", "validation")) == 3


def test_truncated_copies_are_counted() -> None:
    assert leaks((TEXT, "train"), (TEXT[:55] + "…", "test")) == 1


def test_leaks_are_told_by_pair_of_splits() -> None:
    rows = [(TEXT, "train"), (TEXT.upper(), "test"), (TEXT + " ok", "validation"), (TEXT + " 🚀", "validation")]
    audit = audit_texts(
        [forms(text) for text, _ in rows], np.array([SPLIT_CODES.index(split) for _, split in rows], np.int8), CONFIG
    )
    assert audit.exact == {"train-validation": 1, "train-test": 1, "validation-test": 1}
    assert audit.near == {"train-validation": 1, "train-test": 0, "validation-test": 1}
    assert audit.leaks == 5


def test_rows_used_for_nothing_leak_nothing() -> None:
    assert leaks((TEXT, "train"), (TEXT, "excluded"), (TEXT + " ok", "excluded")) == 0


def test_naive_leak_of_groups_of_known_size() -> None:
    assert naive_leak(np.arange(1000)) == 0.0
    assert naive_leak(np.zeros(1000, np.int64)) == 1.0
    assert naive_leak(np.zeros(0, np.int64)) is None
    # pairs: the partner of a test row is in train with probability 85 %
    assert naive_leak(np.repeat(np.arange(4000), 2)) == pytest.approx(0.85, abs=0.02)


def test_group_sizes_count_rows() -> None:
    groups = np.repeat(np.arange(7), [1, 1, 2, 5, 10, 100, 101])
    assert group_sizes(groups) == {"1": 2, "2": 2, "3-5": 5, "6-10": 10, "11-100": 100, ">100": 101}
    assert sum(group_sizes(np.zeros(0, np.int64)).values()) == 0


def test_copies_read_earlier_are_not_forgotten() -> None:
    first = naive_split(np.repeat(np.arange(40), 10), np.ones(400, bool), None)
    assert first == NaiveSplit(1.0, 400)
    # of the 40 texts that were kept none is another's copy; one more row, near to none
    grown = naive_split(np.arange(41), np.arange(41) >= 40, first)
    assert grown.rows == 401
    assert grown.leak == pytest.approx(400 / 401)
    assert naive_split(np.arange(40), np.zeros(40, bool), first) == first


def test_copies_that_come_later_count_for_the_rows_from_before_too() -> None:
    first = naive_split(np.arange(1000), np.ones(1000, bool), None)
    assert first == NaiveSplit(0.0, 1000)
    both = naive_split(np.concatenate([np.arange(1000), np.arange(1000)]), np.arange(2000) >= 1000, first)
    assert both.rows == 2000
    assert both.leak == pytest.approx(0.85, abs=0.03)
