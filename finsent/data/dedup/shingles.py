"""Sets of character shingles, each a 64-bit hash, and their exact Jaccard similarity."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

UInt64 = npt.NDArray[np.uint64]
Int64 = npt.NDArray[np.int64]

_CHUNK: Final = 20_000  # texts shingled, or pairs compared, at once: bounds memory
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))  # splitmix64's finaliser
_BASE: Final = np.uint64(0x9E3779B97F4A7C15)
_ROW_BITS: Final = 24


@dataclass(frozen=True)
class Shingles:
    """Shingles of N texts; those of text i are `hashes[offsets[i]:offsets[i + 1]]`."""

    hashes: UInt64
    offsets: Int64

    def sizes(self) -> Int64:
        """Shingles of each text [N]."""
        return np.diff(self.offsets)


def mix(values: UInt64) -> UInt64:
    """Mix the bits of each value (splitmix64's finaliser)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX[0]
    values = (values ^ (values >> np.uint64(27))) * _MIX[1]
    mixed: UInt64 = values ^ (values >> np.uint64(31))
    return mixed


def fold(hashed: UInt64, values: npt.NDArray[np.uint32]) -> UInt64:
    """Combine each hash [N] with the next value [N]; start from zeros."""
    return mix(hashed * _BASE + values)


def windows(templates: Sequence[str], size: int) -> Shingles:
    """Every window of `size` characters, in order, repeated ones too; a shorter text is one window."""
    parts = [_windows(templates[start : start + _CHUNK], size) for start in range(0, len(templates), _CHUNK)]
    return _joined([hashes for hashes, _ in parts], [lengths - size + 1 for _, lengths in parts])


def shingle(templates: Sequence[str], size: int) -> Shingles:
    """Shingle sets: the windows of `size` characters, sorted, each once."""
    parts = [_distinct(*_windows(templates[start : start + _CHUNK], size), size) for start in range(0, len(templates), _CHUNK)]
    return _joined([hashes for hashes, _ in parts], [counts for _, counts in parts])


def _joined(hashes: Sequence[UInt64], counts: Sequence[Int64]) -> Shingles:
    offsets = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
    return Shingles(np.concatenate([np.zeros(0, np.uint64), *hashes]), offsets)


def _windows(templates: Sequence[str], size: int) -> tuple[UInt64, Int64]:
    """Hashes of all windows that lie inside one text, and the length of each text after padding."""
    padded = [text.ljust(size, "\0") for text in templates]
    codes = np.frombuffer("".join(padded).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    lengths = np.fromiter(map(len, padded), np.int64, len(padded))
    count = len(codes) - size + 1
    rolled = np.zeros(count, np.uint64)
    for place in range(size):
        rolled = rolled * _BASE + codes[place : place + count]
    inside = np.ones(len(codes), bool)
    ends = np.cumsum(lengths)
    for back in range(1, size):
        inside[ends - back] = False  # windows that would run into the next text
    return mix(rolled[inside[:count]]), lengths


def _distinct(hashes: UInt64, lengths: Int64, size: int) -> tuple[UInt64, Int64]:
    row = np.repeat(np.arange(len(lengths)), lengths - size + 1)
    order = np.lexsort((hashes, row))
    hashes, row = hashes[order], row[order]
    first = np.ones(len(hashes), bool)
    first[1:] = (hashes[1:] != hashes[:-1]) | (row[1:] != row[:-1])
    return hashes[first], np.bincount(row[first], minlength=len(lengths))


def jaccard(shingles: Shingles, pairs: Int64) -> npt.NDArray[np.float64]:
    """Jaccard similarity of the shingle sets of each pair [P] of rows."""
    sizes = shingles.sizes()
    parts = [np.zeros(0)]
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        left, right = _gather(shingles, some[:, 0]), _gather(shingles, some[:, 1])
        both = np.concatenate([left, right])
        both.sort()
        shared = np.bincount((both[1:][both[1:] == both[:-1]] >> np.uint64(64 - _ROW_BITS)).astype(np.int64), minlength=len(some))
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
