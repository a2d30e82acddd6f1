"""Dense buckets: many texts that are similar without being near duplicates, such as a bot's price alerts.

Their signatures share buckets, and comparing all pairs is quadratic and costly. Such texts share common shingles and differ in
those that are rare in the bucket. So shingles are counted within the bucket: the rare ones are joined by a sparse matrix product,
which gives the exact overlap of every pair that shares one, and the number of common ones bounds the rest. Two sets of sizes n
and m have Jaccard similarity t or more only if they share t / (1 + t) (n + m) elements (the overlap constraint of prefix filters,
Chaudhuri, Ganti, Kaushik, ICDE 2006); pairs whose bound is below that are skipped. No near duplicate is missed.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from finsent.data.dedup.shingles import Int64, shingle

_PRODUCT: Final = 1.5e-8  # seconds for a product, and for comparing a pair: only the ratio matters
_PAIR: Final = 5e-6
_BLOCK: Final = 4_000_000  # products, or pairs, at once: bounds memory


def candidate_pairs(
    members: Int64, numbers: Int64, texts: Sequence[str], active: npt.NDArray[np.bool_], *, threshold: float, size: int
) -> Iterator[Int64]:
    """Candidate pairs [P, 2] of members, lower row first; a pair may occur twice.

    Args:
        members: Rows [M], ascending.
        numbers: Number of each member [M]; only pairs whose numbers differ are wanted.
        texts: Templates of the members.
        active: One member of a pair at least is active [M].
        threshold: Least Jaccard similarity of near duplicates.
        size: Characters to a shingle.
    """
    from scipy.sparse import csr_matrix

    shingles = shingle(texts, size)
    sizes = shingles.sizes()
    row = np.repeat(np.arange(len(members)), sizes)
    _, column, counts = np.unique(shingles.hashes, return_inverse=True, return_counts=True)
    single: npt.NDArray[np.bool_] = counts == 1
    alone = np.bincount(row[single[column]], minlength=len(members))  # shared by none
    share = threshold / (1 + threshold)
    rare = _rare(row, column, counts, sizes, alone, share)
    kept = rare[column]
    matrix = csr_matrix((np.ones(int(kept.sum()), np.int32), (row[kept], column[kept])), shape=(len(members), len(counts)))
    common = sizes - alone - np.diff(matrix.indptr)

    def near_enough(left: Int64, right: Int64, overlap: Int64 | int) -> Int64:
        low, high = np.minimum(left, right), np.maximum(left, right)
        found = np.minimum(common[left], common[right]) + overlap >= share * (sizes[left] + sizes[right]) - 1e-9
        found &= (numbers[left] != numbers[right]) & (active[left] | active[right])
        pairs: Int64 = np.stack([members[low[found]], members[high[found]]], axis=1)
        return pairs

    ours = _one_side(numbers, active)
    joined = matrix[ours]
    cost = np.cumsum(np.asarray(joined @ counts.astype(np.float64)))
    start = 0
    while start < len(ours):
        stop = max(int(np.searchsorted(cost, (cost[start - 1] if start else 0.0) + _BLOCK, side="right")), start + 1)
        shared = (joined[start:stop] @ matrix.T).tocoo()
        yield near_enough(ours[shared.row + start], shared.col.astype(np.int64), shared.data.astype(np.int64))
        start = stop
    yield from _by_what_is_common(ours, sizes, common, share, near_enough)


def _one_side(numbers: Int64, active: npt.NDArray[np.bool_]) -> Int64:
    """Positions of members that cover every wanted pair: all but those of the most frequent number, or the active ones."""
    found, counts = np.unique(numbers, return_counts=True)
    others = np.flatnonzero(numbers != found[counts.argmax()])
    ours = np.flatnonzero(active)
    return others if len(others) <= len(ours) else ours


def _rare(row: Int64, column: Int64, counts: Int64, sizes: Int64, alone: Int64, share: float) -> npt.NDArray[np.bool_]:
    """Which shingles to join: up to the count at which joining more costs more than comparing the remaining pairs."""
    best, cheapest = np.zeros(len(counts), bool), np.inf
    most = 1
    while most < 2 * len(sizes):
        rare: npt.NDArray[np.bool_] = (counts > 1) & (counts <= most)
        common = sizes - alone - np.bincount(row[rare[column]], minlength=len(sizes))
        kinds, rows = np.unique(np.stack([sizes, common], axis=1), axis=0, return_counts=True)
        pairs = (_possible(kinds, share) * rows[:, None] * rows).sum() / 2
        cost = (counts[rare].astype(float) ** 2).sum() * _PRODUCT + pairs * _PAIR
        if cost < cheapest:
            best, cheapest = rare, cost
        most *= 2
    return best


def _possible(kinds: Int64, share: float) -> npt.NDArray[np.bool_]:
    """Which kinds of texts, (size, common shingles) [K, 2], can be near by their common shingles alone [K, K]."""
    least = share * (kinds[:, None, 0] + kinds[None, :, 0]) - 1e-9
    possible: npt.NDArray[np.bool_] = np.minimum(kinds[:, None, 1], kinds[None, :, 1]) >= least
    return possible


def _by_what_is_common(
    ours: Int64, sizes: Int64, common: Int64, share: float, near_enough: Callable[[Int64, Int64, int], Int64]
) -> Iterator[Int64]:
    """Pairs that may be near by their common shingles alone."""
    kinds, kind_of = np.unique(np.stack([sizes, common], axis=1), axis=0, return_inverse=True)
    possible = _possible(kinds, share)
    any_kind = np.flatnonzero(possible.sum(axis=1))
    left, right = ours[np.isin(kind_of[ours], any_kind)], np.flatnonzero(np.isin(kind_of, any_kind))
    step = max(_BLOCK // max(len(right), 1), 1)
    for start in range(0, len(left), step):
        block = left[start : start + step]
        row, column = np.nonzero(possible[kind_of[block]][:, kind_of[right]])
        yield near_enough(block[row], right[column], 0)
