"""Packing: token rows end to end in one sequence, with where each begins. Knows nothing of torch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class PackedRows:
    """Rows laid end to end: T tokens of N rows."""

    input_ids: Ints
    """Token ids [T]."""
    position_ids: Ints
    """Position of each token within its row [T]."""
    cu_seqlens: NDArray[np.int32]
    """Where each row begins, and at last T [N + 1]: the cumulative lengths that variable-length attention takes."""
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
    """Lay rows end to end; with `tokens` and `slots`, filled up to exactly so many tokens and rows.

    A shape that is always the same is what a CUDA graph replays. The filling is rows of at most `longest` tokens `filler`
    (a longer one would lie outside what attention was told to be the longest), then rows of no tokens.

    Raises:
        ValueError: a row without tokens, or rows that do not leave room for the filling.
    """
    lengths = [len(row) for row in rows]
    if not lengths or not all(lengths):
        raise ValueError("a row without tokens cannot be packed")
    real = sum(lengths)
    ids = np.concatenate([np.asarray(row, dtype=np.int64) for row in rows])
    empty = 0
    if tokens is not None and slots is not None:
        left = tokens - real
        lengths = [*lengths, *(min(max_seqlen, left - start) for start in range(0, left, max_seqlen))]
        empty = slots - len(lengths)
        if left < 0 or empty < 0:
            raise ValueError(f"{len(rows)} rows of {real} tokens do not fit {slots} slots of {tokens} tokens, filling included")
        ids = np.concatenate([ids, np.full(left, filler_id)])
    sizes = np.array(lengths, dtype=np.int64)
    starts = np.concatenate([[0], sizes.cumsum()])
    positions = np.arange(len(ids)) - np.repeat(starts[:-1], sizes)
    starts = np.concatenate([starts, np.full(empty, len(ids))])
    return PackedRows(ids, positions, starts.astype(np.int32), int(sizes.max()))


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
    """Rows without padding ids at their end: the head pools the last other token, and no earlier one sees later ones.

    A row of nothing else keeps one.
    """
    found: list[Sequence[int]] = []
    for row in rows:
        end = len(row)
        while end and row[end - 1] == pad_id:
            end -= 1
        found.append(row[:end] if end else [pad_id])
    return found


def pack_batches(lengths: Sequence[int] | Ints, token_budget: int) -> Iterator[list[int]]:
    """Row indices in packs of at most `token_budget` tokens (or one row), longest rows first.

    Longest first: memory runs out in the first pack or never. Rows of one length are neighbours, so that attention's
    blocks are filled evenly.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    pack_rows: list[int] = []
    total = 0
    for row in order.tolist():
        if pack_rows and total + int(lengths[row]) > token_budget:
            yield pack_rows
            pack_rows, total = [], 0
        pack_rows.append(row)
        total += int(lengths[row])
    if pack_rows:
        yield pack_rows


def balance_micro_batches(rows: Sequence[int], lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """The rows of one optimiser step in as few micro-batches as fit `token_budget`, of about equal tokens.

    Equal ones, since the time of a step is that of its parts, and a short remainder would cost as much as a full one.
    Longest row first into the emptiest part (Graham's LPT rule); one row may exceed the budget and then stands alone.
    """
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
