"""Which rows, and which of their tokens, go into which optimiser step: pure functions of the seed, for exact resumption."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from finsent.config import Recipe

WINDOW = 50
"""Steps in a window of similar lengths, when grouping by length."""


def steps_in_total(rows: int, rows_per_step: int, epochs: float) -> int:
    """Optimiser steps of a training; a fractional epoch is cut to whole steps, at least one."""
    return max(1, round(-(-rows // rows_per_step) * epochs))


def step_schedule(lengths: list[int], rows_per_step: int, recipe: Recipe) -> Callable[[int], list[int]]:
    """Step number to its row indices; one epoch's order is held at a time."""
    per_epoch = math.ceil(len(lengths) / rows_per_step)
    cache: dict[int, list[list[int]]] = {}

    def rows_of(step: int) -> list[int]:
        epoch = step // per_epoch
        if epoch not in cache:
            cache.clear()
            cache[epoch] = epoch_steps(
                lengths, rows_per_step, seed=recipe.seed, epoch=epoch, group_by_length=recipe.group_by_length
            )
        return cache[epoch][step % per_epoch]

    return rows_of


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


def apply_token_dropout(tokens: list[list[int]], rows: Sequence[int], recipe: Recipe, step: int) -> list[list[int]]:
    """The rows' tokens with some left out at random, decided by seed, step and row alone."""
    if not recipe.token_dropout:
        return [tokens[row] for row in rows]
    drawn = [np.random.default_rng((recipe.seed, step, row)).random(len(tokens[row])) for row in rows]
    return [drop_tokens(tokens[row], keep >= recipe.token_dropout) for row, keep in zip(rows, drawn, strict=True)]


def drop_tokens(ids: Sequence[int], keep: NDArray[np.bool_]) -> list[int]:
    """The tokens to keep; the first and the last stay: they are the tokenizer's marks of start and end."""
    return [token for i, token in enumerate(ids) if keep[i] or i in {0, len(ids) - 1}]
