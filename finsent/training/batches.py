"""Which rows go into which step: a pure function of the seed, so that a resumed training sees the same order."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

WINDOW = 50
"""Steps to a window of similar lengths, when grouping by length."""


def epoch_steps(lengths: Sequence[int], rows_per_step: int, *, seed: int, epoch: int, group_by_length: bool) -> list[list[int]]:
    """Row indices of each optimiser step of one epoch; every row once, the last step may be short.

    Grouped, rows are shuffled, sorted by length inside windows of `WINDOW` steps, cut into steps, and the steps
    shuffled: little padding, and still a random order.
    """
    generator = np.random.default_rng([seed, epoch])
    order = generator.permutation(len(lengths))
    if not group_by_length:
        return [order[i : i + rows_per_step].tolist() for i in range(0, len(order), rows_per_step)]
    steps = []
    size = rows_per_step * WINDOW
    for start in range(0, len(order), size):
        window = sorted(order[start : start + size].tolist(), key=lambda i: lengths[i])
        steps += [window[i : i + rows_per_step] for i in range(0, len(window), rows_per_step)]
    return [steps[i] for i in generator.permutation(len(steps))]


def steps_in_total(rows: int, rows_per_step: int, epochs: float) -> int:
    """Optimiser steps of a training; a fractional epoch is cut to whole steps, at least one."""
    return max(1, round(-(-rows // rows_per_step) * epochs))


def drop_tokens(ids: Sequence[int], keep: NDArray[np.bool_]) -> list[int]:
    """The tokens to keep; the first and the last stay, they are the tokenizer's marks of start and end."""
    return [token for i, token in enumerate(ids) if keep[i] or i in {0, len(ids) - 1}]
