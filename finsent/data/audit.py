"""The leak audit: pairs of equal or near-equal texts on two sides of a split, and what a random split would have leaked."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np

from finsent.config import DataConfig
from finsent.data.dedupe import near_pairs
from finsent.data.splits import SPLITS
from finsent.text import Forms

_SEED: Final = 2  # other permutations than grouping used: what those missed, these can find
_NAIVE_TEST_SHARE: Final = 0.15
_NAIVE_SEEDS: Final = 10


def count_leaks(texts: Sequence[Forms], splits: Sequence[str], config: DataConfig) -> int:
    """Pairs of rows in different splits whose texts are equal or near duplicates; 0 is what held-out means."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0] * len(SPLITS))
    cut: dict[str, bool] = defaultdict(bool)
    position: dict[str, int] = {name: index for index, name in enumerate(SPLITS)}
    for text, split in zip(texts, splits, strict=True):
        counts[text.template][position[split]] += 1
        cut[text.template] |= text.cut
    table = np.array(list(counts.values()), np.int64).reshape(-1, len(SPLITS))
    equal = ((table.sum(axis=1) ** 2 - (table**2).sum(axis=1)) // 2).sum()
    # a text with rows in several splits is compared with all others
    several = (table > 0).sum(axis=1) > 1
    home = np.where(several, len(SPLITS) + np.arange(len(table)), table.argmax(axis=1)) if len(table) else np.zeros(0, np.int64)
    pairs = near_pairs(list(counts), list(cut.values()), config, together=home, seed=_SEED)
    left, right = table[pairs[:, 0]], table[pairs[:, 1]]
    near = (left.sum(axis=1) * right.sum(axis=1) - (left * right).sum(axis=1)).sum()
    return int(equal + near)


def naive_leak(groups: Sequence[int]) -> float | None:
    """Share of test rows with a near duplicate in train under a plain random 85/15 split, mean of ten seeds.

    Args:
        groups: Near-duplicate group of each row, copies included.
    """
    numbers = np.asarray(groups, np.int64)
    tested = round(len(numbers) * _NAIVE_TEST_SHARE)
    if not tested:
        return None
    _, numbers = np.unique(numbers, return_inverse=True)
    shares = []
    for seed in range(_NAIVE_SEEDS):
        order = np.random.default_rng(seed).permutation(len(numbers))
        in_train = np.bincount(numbers[order[tested:]], minlength=numbers.max() + 1) > 0
        shares.append(in_train[numbers[order[:tested]]].mean())
    return float(np.mean(shares))
