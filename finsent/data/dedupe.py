"""Near duplicates: MinHash signatures find candidates, the true Jaccard of the shingle sets decides.

Texts are compared by their template (`finsent.text.Forms.template`) as sets of character shingles, each shingle a 64-bit hash.
Signatures come from rensa; the bands of the LSH are laid over them here, in numpy, because a matrix of candidates can then be
joined with rows from before and verified at once. With 4 values to a band and 128 permutations a pair at Jaccard 0.8 is missed
with probability (1 - 0.8^4)^32 = 4e-13 (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from finsent.config import DataConfig

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

BAND_ROWS: Final = 4
"""Signature values to a band: few, so that hardly a pair at the threshold is missed; verification sorts out the rest."""
CUT_MIN_CHARACTERS: Final = 40
"""A text that was cut short with an ellipsis is a twin of whatever goes on after it, if at least this much is left."""
_ESTIMATE_SLACK: Final = 0.25  # more than six standard deviations of the estimate from 128 permutations
_CHUNK: Final = 20_000  # texts shingled, or pairs verified, at once: bounds memory
_SEED: Final = 1
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's finaliser
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_ROW_BITS: Final = 24


@dataclass(frozen=True)
class Shingles:
    """Shingle sets of N texts: `hashes[offsets[i]:offsets[i + 1]]` are text i's, sorted, each once."""

    hashes: UInt64
    offsets: Int64

    def sizes(self) -> Int64:
        """Shingles in each text [N]."""
        return np.diff(self.offsets)


def shingle(templates: Sequence[str], size: int) -> Shingles:
    """Character shingles of `size`; a shorter text is one shingle."""
    parts = [_shingle_chunk(templates[start : start + _CHUNK], size) for start in range(0, len(templates), _CHUNK)]
    counts = np.concatenate([np.zeros(1, np.int64), *(counts for _, counts in parts)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for hashes, _ in parts)])
    return Shingles(hashes, np.cumsum(counts))


def _shingle_chunk(templates: Sequence[str], size: int) -> tuple[UInt64, Int64]:
    padded = [text.ljust(size, "\0") for text in templates]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    windows = len(codes) - size + 1
    rolled = np.zeros(windows, np.uint64)
    for place in range(size):
        rolled = rolled * _BASE + codes[place : place + windows]
    hashes = _mix(rolled)
    row = np.repeat(np.arange(len(padded)), lengths)[:windows]
    inside = np.repeat(np.cumsum(lengths), lengths)[:windows] - np.arange(windows) >= size  # windows that end in their own text
    hashes, row = hashes[inside], row[inside]
    order = np.lexsort((hashes, row))
    hashes, row = hashes[order], row[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (row[1:] != row[:-1])
    return hashes[first], np.bincount(row[first], minlength=len(padded))


def _mix(values: UInt64) -> UInt64:
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    mixed: UInt64 = values ^ (values >> np.uint64(31))
    return mixed


def signatures(shingles: Shingles, permutations: int, seed: int = _SEED) -> npt.NDArray[np.uint32]:
    """MinHash signatures [N, permutations] by rensa's R-MinHash."""
    from rensa import RMinHash

    count = len(shingles.offsets) - 1
    matrix = np.empty((count, permutations), np.uint32)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        low, high = shingles.offsets[start], shingles.offsets[stop]
        offsets = (shingles.offsets[start : stop + 1] - low).astype(np.uint64)
        digests = RMinHash.digest_matrix_from_flat_token_hashes(shingles.hashes[low:high], offsets, permutations, seed)
        matrix[start:stop] = digests.to_rows()
    return matrix


def candidate_pairs(matrix: npt.NDArray[np.uint32], new_from: int = 0) -> Int64:
    """Pairs [P, 2] of rows that agree in a whole band, lower row first, each once; the higher row is at least `new_from`."""
    count, permutations = matrix.shape
    found: list[Int64] = []
    for start in range(0, permutations - BAND_ROWS + 1, BAND_ROWS):
        key = np.zeros(count, np.uint64)
        for column in range(start, start + BAND_ROWS):
            key = _mix(key * _BASE + matrix[:, column])
        found.append(_pairs_of_equals(key, new_from))
    codes = np.unique(np.concatenate(found)) if found else np.zeros(0, np.int64)
    return np.stack([codes // count, codes % count], axis=1) if count else np.zeros((0, 2), np.int64)


def _pairs_of_equals(key: UInt64, new_from: int) -> Int64:
    """Pairs of equal keys as lower * count + higher."""
    count = len(key)
    order = np.argsort(key, kind="stable")
    ordered = key[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]])) if count else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, count))
    found = [np.zeros(0, np.int64)]
    for size in np.unique(sizes[sizes > 1]):
        # all buckets of one size at once; a stable sort keeps rows in order inside a bucket
        members = order[starts[sizes == size][:, None] + np.arange(size)]
        lower, higher = np.triu_indices(size, 1)
        low, high = members[:, lower].ravel(), members[:, higher].ravel()
        wanted = high >= new_from
        found.append(low[wanted] * count + high[wanted])
    return np.unique(np.concatenate(found))


def verified_pairs(shingles: Shingles, pairs: Int64, threshold: float) -> Int64:
    """Those of `pairs` whose true Jaccard is at least `threshold`."""
    similarity = jaccard(shingles, pairs)
    return pairs[similarity >= threshold - 1e-12]


def jaccard(shingles: Shingles, pairs: Int64) -> npt.NDArray[np.float64]:
    """Jaccard of the shingle sets of each pair [P]."""
    sizes = shingles.sizes()
    parts = [np.zeros(0)]
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        left, right = _gather(shingles, some[:, 0]), _gather(shingles, some[:, 1])
        shared = np.bincount(left[np.isin(left, right)] >> np.uint64(64 - _ROW_BITS), minlength=len(some))
        parts.append(shared / (sizes[some[:, 0]] + sizes[some[:, 1]] - shared))
    return np.concatenate(parts)


def _gather(shingles: Shingles, rows: Int64) -> UInt64:
    """Hashes of the given rows, their position among `rows` in the upper bits: pairs are compared all at once."""
    sizes = shingles.sizes()[rows]
    position = np.repeat(np.arange(len(rows), dtype=np.uint64), sizes)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    hashes = shingles.hashes[np.repeat(shingles.offsets[rows], sizes) + within]
    gathered: UInt64 = (position << np.uint64(64 - _ROW_BITS)) | (hashes >> np.uint64(_ROW_BITS))
    return gathered


def cut_pairs(templates: Sequence[str], is_cut: Sequence[bool], new_from: int = 0) -> Int64:
    """Pairs [P, 2] of a text that was cut short and one that begins with it: their Jaccard alone would hide the longer one."""
    order = sorted(range(len(templates)), key=templates.__getitem__)
    found = []
    for place, row in enumerate(order):
        start = templates[row].rpartition(" ")[0]  # the last word may be half a word
        if not is_cut[row] or len(start) < CUT_MIN_CHARACTERS:
            continue
        for step in (1, -1):
            other = place + step
            while 0 <= other < len(order) and templates[order[other]].startswith(start):
                found.append((min(row, order[other]), max(row, order[other])))
                other += step
    pairs = np.unique(np.array(found, np.int64).reshape(-1, 2), axis=0)
    return pairs[pairs[:, 1] >= new_from]


def near_pairs(
    templates: Sequence[str],
    is_cut: Sequence[bool],
    config: DataConfig,
    *,
    new_from: int = 0,
    together: Int64 | None = None,
    seed: int = _SEED,
) -> Int64:
    """Near-duplicate pairs [P, 2] among distinct templates, lower row first.

    Args:
        templates: Near-duplicate forms of N texts.
        is_cut: Which of them were cut short.
        config: Shingle size, permutations, threshold.
        new_from: The higher row of a pair is at least this; rows below were compared before.
        together: Number of each row [N]; pairs of equal numbers are left out, before the work of verifying them.
        seed: Seed of the permutations.
    """
    if len(templates) < 2:
        return np.zeros((0, 2), np.int64)
    shingles = shingle(templates, config.shingle_size)
    matrix = signatures(shingles, config.permutations, seed)
    pairs = _apart(candidate_pairs(matrix, new_from), together)
    estimate = np.concatenate(
        [np.zeros(0), *(_estimates(matrix, pairs[start : start + _CHUNK]) for start in range(0, len(pairs), _CHUNK))]
    )
    likely = pairs[estimate >= config.near_duplicate_jaccard - _ESTIMATE_SLACK]
    near = verified_pairs(shingles, likely, config.near_duplicate_jaccard)
    return np.unique(np.concatenate([near, _apart(cut_pairs(templates, is_cut, new_from), together)]), axis=0)


def _apart(pairs: Int64, together: Int64 | None) -> Int64:
    return pairs if together is None else pairs[together[pairs[:, 0]] != together[pairs[:, 1]]]


def _estimates(matrix: npt.NDArray[np.uint32], pairs: Int64) -> npt.NDArray[np.float64]:
    return np.asarray((matrix[pairs[:, 0]] == matrix[pairs[:, 1]]).mean(axis=1), np.float64)


def components(count: int, pairs: Int64) -> Int64:
    """Connected components [count]: each row's number is the lowest row of its component (union-find)."""
    parent = list(range(count))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = parent[parent[row]]
            row = parent[row]
        return row

    for left, right in pairs.tolist():
        low, high = sorted((root(left), root(right)))
        parent[high] = low
    return np.array([root(row) for row in range(count)], np.int64)
