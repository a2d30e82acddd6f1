"""The leak audit counts pairs across splits, and says what a random split would have leaked."""

import numpy as np
import pytest

from finsent.config import DataConfig
from finsent.data.audit import count_leaks, naive_leak
from finsent.text import forms

CONFIG = DataConfig()
TEXT = "loading up on september calls this morning because the chart looks ready and volume is finally back"


def leaks(*rows: tuple[str, str]) -> int:
    return count_leaks([forms(text) for text, _ in rows], [split for _, split in rows], CONFIG)


def test_no_rows_no_leaks() -> None:
    assert leaks() == 0
    assert leaks((TEXT, "train")) == 0


def test_pairs_inside_a_split_are_no_leak() -> None:
    assert leaks((TEXT, "train"), (TEXT + "!", "train"), ("something else altogether", "test")) == 0


def test_equal_and_near_pairs_across_splits_are_counted() -> None:
    assert leaks((TEXT, "train"), (TEXT.upper(), "test")) == 1
    assert leaks((TEXT, "train"), (TEXT + " 🚀", "validation")) == 1
    assert leaks((TEXT, "train"), (TEXT, "train"), (TEXT, "test"), (TEXT + " ok", "test")) == 4
    assert leaks((TEXT, "train"), (TEXT, "test"), (TEXT + " ok", "validation")) == 3


def test_truncated_copies_are_counted() -> None:
    assert leaks((TEXT, "train"), (TEXT[:55] + "…", "test")) == 1


def test_naive_leak_of_groups_of_known_size() -> None:
    assert naive_leak(list(range(1000))) == 0.0
    assert naive_leak([0] * 1000) == 1.0
    assert naive_leak([]) is None
    # pairs: the partner of a test row is in train with probability 85 %
    assert naive_leak(np.repeat(np.arange(4000), 2).tolist()) == pytest.approx(0.85, abs=0.02)
