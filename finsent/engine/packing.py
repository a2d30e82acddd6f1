"""Batches of token rows: packed end to end for the fast engine, padded for the reference, and cut by token budget."""

# Tweets have 5 to 128 tokens, most about 28. A padded batch of random rows is as wide as its longest one: with 16 to 64
# rows, half to two thirds of all tokens are padding. A packed batch is one long sequence without any:
#
#     rows          [a b c]  [d e]  [f g h i]
#     input_ids     a b c d e f g h i          [T] tokens of all rows
#     position_ids  0 1 2 0 1 0 1 2 3          [T] position within the own row, for rotary embeddings
#     cu_seqlens    0 3 5 9                    [N + 1] where each row begins, and the end
#
# Linear layers and norms work token by token and never notice. Only attention must keep rows apart; it gets cu_seqlens.

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """N rows of T tokens, end to end."""

    input_ids: Ints
    """Token ids [T]."""
    position_ids: Ints
    """Position of each token within its row [T]."""
    cu_seqlens: NDArray[np.int32]
    """Cumulative lengths [N + 1]: row i is tokens cu_seqlens[i] to cu_seqlens[i + 1]."""
    max_seqlen: int
    """Tokens of the longest row."""


def pack_rows(
    rows: Sequence[Sequence[int]],
    *,
    tokens: int | None = None,
    slots: int | None = None,
    max_seqlen: int = 128,
    filler_id: int = 0,
) -> PackedRows:
    """Lay rows end to end; with `tokens` and `slots`, filled up to exactly that many tokens and rows.

    Raises:
        ValueError: a row without tokens, or rows that leave no room for the filler.
    """
    lengths = [len(row) for row in rows]
    if not lengths or not all(lengths):
        raise ValueError("a row without tokens cannot be packed")
    real = sum(lengths)
    input_ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    empty = 0
    if tokens is not None and slots is not None:
        # A CUDA graph replays fixed shapes: T and N must not vary. Missing tokens become dummy rows of filler_id, none longer
        # than max_seqlen (attention was told that bound), and missing rows become rows of zero tokens, which repeat the end
        # of cu_seqlens. Labels of -100 later keep the dummies out of the loss.
        left = tokens - real
        lengths = [*lengths, *(min(max_seqlen, left - start) for start in range(0, left, max_seqlen))]
        empty = slots - len(lengths)
        if left < 0 or empty < 0:
            raise ValueError(f"{len(rows)} rows of {real} tokens do not fit {slots} slots of {tokens} tokens, filling included")
        input_ids = np.concatenate([input_ids, np.full(left, filler_id)])
    sizes = np.array(lengths, dtype=np.int64)
    starts = np.concatenate([[0], sizes.cumsum()])
    position_ids = np.arange(len(input_ids)) - np.repeat(starts[:-1], sizes)
    cu_seqlens = np.concatenate([starts, np.full(empty, len(input_ids))])
    return PackedRows(input_ids, position_ids, cu_seqlens.astype(np.int32), int(sizes.max()))


def pad_rows(rows: Sequence[Sequence[int]], pad_id: int, side: str, extra: int = 0) -> tuple[Any, Any]:
    """Tensors input_ids and attention_mask [rows, longest + extra], padded on `side`."""
    import torch

    longest = max(len(row) for row in rows) + extra
    ids = torch.full((len(rows), longest), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        span = slice(longest - len(row), longest) if side == "left" else slice(0, len(row))
        ids[i, span] = torch.tensor(row, dtype=torch.long)
        mask[i, span] = 1
    return ids, mask


def strip_padding(rows: Sequence[Sequence[int]], pad_id: int) -> list[Sequence[int]]:
    """Rows without padding ids at their end; a row of nothing else keeps one."""
    # The stock head pools the last token that is not pad_id, wherever it stands. Where pad is eos and a text ends in eos,
    # that is the token before. Packed rows are pooled at their last token, so cutting those ids off gives the same token,
    # and causal attention makes it independent of what was cut.
    found: list[Sequence[int]] = []
    for row in rows:
        end = len(row)
        while end and row[end - 1] == pad_id:
            end -= 1
        found.append(row[:end] if end else [pad_id])
    return found


def pack_batches(lengths: Sequence[int] | Ints, token_budget: int) -> Iterator[list[int]]:
    """Row indices in batches of at most `token_budget` tokens (or one row), longest rows first."""
    # Longest first: memory runs out in the first batch or never. Sorting also puts rows of one length side by side, which
    # fills attention's blocks evenly. The sort is stable, so the batches are the same in every run.
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batch: list[int] = []
    total = 0
    for row in order.tolist():
        if batch and total + int(lengths[row]) > token_budget:
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += int(lengths[row])
    if batch:
        yield batch


def balance_micro_batches(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """The rows of one optimiser step in as few micro-batches as fit `token_budget`, of about equal tokens each."""
    # A step takes the sum of its micro-batches' times, and a pass of few tokens costs nearly as much as a full one: weights
    # are read either way. So: the fewest parts, evenly filled. Longest row first into the emptiest part (LPT, Graham 1969).
    # Should a part overflow, try again with one more; a single row may exceed the budget and then stands alone.
    total = sum(lengths[row] for row in rows)
    parts = max(1, -(-total // token_budget))
    while True:
        filled: list[list[int]] = [[] for _ in range(parts)]
        sums = [0] * parts
        for row in sorted(rows, key=lambda r: (-lengths[r], r)):
            emptiest = sums.index(min(sums))
            filled[emptiest].append(row)
            sums[emptiest] += lengths[row]
        if all(size <= token_budget or len(part) == 1 for part, size in zip(filled, sums, strict=True)):
            return [part for part in filled if part]
        parts += 1


def round_up(tokens: int, step: int) -> int:
    """The next multiple of `step` at or above `tokens`."""
    return -(-tokens // step) * step
