"""Near-duplicate pairs and their connected components, at a cost that grows with the new rows and not quadratically.

Rows are distinct templates. Two rows are near duplicates when the Jaccard similarity of their shingle sets reaches the
threshold `data.near_duplicate_jaccard` (0.8 by default, declared in `finsent.config.schema`), or when one was cut short with
an ellipsis and the other continues where it ends. Candidates share a bucket: a band of their signatures, or the first
characters of a cut template. Every candidate is verified on its text.

Components need no list of all pairs, which is quadratic where one text occurs ten thousand times: buckets are first linked along
stars and chains, then only pairs in different components are examined. In the end every pair that shares a bucket was verified or
is in one component. Large buckets of similar texts that are not near duplicates: see `finsent.data.dedup.dense_buckets`.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from finsent.config import DataConfig
from finsent.data.dedup.dense_buckets import candidate_pairs
from finsent.data.dedup.shingles import Int64, jaccard, shingle
from finsent.data.dedup.signatures import Signatures, likely_pairs
from finsent.logging_setup import track

Active = npt.NDArray[np.bool_]
"""Rows to examine [N]: at least one row of a pair is active. Pairs of inactive rows were examined before."""
TemplateLookup = Callable[[Int64], list[str]]
"""Templates of the given rows."""

_SMALL: Final = 64  # buckets up to this size are enumerated all at once
_BLOCK: Final = 2_000_000  # pairs enumerated at once: bounds memory
_SLOTS: Final = 1 << 22


@dataclass(frozen=True)
class _Buckets:
    """Rows that share a key: `members[starts[i]:starts[i] + sizes[i]]`, in ascending order, at least two."""

    members: Int64
    starts: Int64
    sizes: Int64


@dataclass(frozen=True)
class _Search:
    signatures: Signatures
    texts_of: TemplateLookup
    config: DataConfig
    active: Active


def link_near_duplicates(
    signatures: Signatures,
    texts_of: TemplateLookup,
    config: DataConfig,
    *,
    active: Active | None = None,
    joined: Int64 | None = None,
) -> Int64:
    """Connected components [N] of the near-duplicate graph: each row's number is the lowest row of its component.

    Args:
        signatures: Of N distinct templates.
        texts_of: Gives the templates of rows, for verification.
        config: Threshold and shingle size.
        active: Rows to examine; all by default.
        joined: Known components [N], each numbered by its lowest row; by default each row is its own.
    """
    search = _search(signatures, texts_of, config, active)
    parent = np.arange(len(signatures)) if joined is None else joined.copy()
    rejected = _PairSet()
    for enumerate_pairs, what in ((_stars, "linking near duplicates"), (_all_pairs, "checking the remaining pairs")):
        for band, is_prefix in track(list(_keys(search)), description=what, unit="band"):
            for candidates in enumerate_pairs(search, _buckets(search, band, prefix=is_prefix), parent, prefix=is_prefix):
                pairs = candidates[parent[candidates[:, 0]] != parent[candidates[:, 1]]]
                near, failed = _verified(search, pairs, rejected, prefix=is_prefix)
                parent = merge_components(parent, near)
                rejected.add(failed)
    return parent


def rows_to_compare(signatures: Signatures, config: DataConfig, active: Active, joined: Int64) -> Int64:
    """Rows whose text `link_near_duplicates` may have to compare; see there for the arguments."""
    search = _search(signatures, lambda _: [], config, active)
    found = np.zeros(len(signatures), bool)
    for band, is_prefix in _keys(search):
        buckets = _buckets(search, band, prefix=is_prefix)
        mixed = _mixed(buckets, joined)
        for pairs in _small_bucket_pairs(search, buckets, mixed, joined):
            some = pairs if is_prefix else likely_pairs(signatures, pairs, config.near_duplicate_jaccard)
            found[some.ravel()] = True
        for members in _dense_buckets(buckets, mixed):
            found[members] = True
    return np.flatnonzero(found)


def _search(signatures: Signatures, texts_of: TemplateLookup, config: DataConfig, active: Active | None) -> _Search:
    return _Search(signatures, texts_of, config, np.ones(len(signatures), bool) if active is None else active)


def near_duplicate_pairs(
    signatures: Signatures, texts_of: TemplateLookup, config: DataConfig, apart: Int64, *, active: Active | None = None
) -> Int64:
    """Near-duplicate pairs [P, 2] of rows with different numbers in `apart` [N], lower row first, each once.

    Args:
        signatures: Of N distinct templates.
        texts_of: Gives the templates of rows, for verification.
        config: Threshold and shingle size.
        apart: Number of each row [N]; `np.arange(N)` for all pairs.
        active: Rows to examine; all by default.
    """
    search = _search(signatures, texts_of, config, active)
    found, seen = [np.zeros((0, 2), np.int64)], _PairSet()
    for band, is_prefix in track(list(_keys(search)), description="auditing", unit="band"):
        for candidates in _all_pairs(search, _buckets(search, band, prefix=is_prefix), apart, prefix=is_prefix):
            near, failed = _verified(search, candidates, seen, prefix=is_prefix)
            found.append(near)
            seen.add(failed)
            if not is_prefix:
                seen.add(np.sort(_encode_pairs(near, len(signatures))))
    return np.unique(np.concatenate(found), axis=0)


def merge_components(parent: Int64, pairs: Int64) -> Int64:
    """Components [N] after joining each pair [P, 2]; numbered by their lowest row, before and after."""
    while len(pairs):
        low, high = np.sort(parent[pairs], axis=1).T
        np.minimum.at(parent, high, low)
        while (parent != (shorter := parent[parent])).any():
            parent = shorter
        pairs = pairs[parent[pairs[:, 0]] != parent[pairs[:, 1]]]
    return parent


def _keys(search: _Search) -> Iterator[tuple[int, bool]]:
    """Bands by their number, then the prefixes."""
    yield from ((band, False) for band in range(search.signatures.bands.shape[1]))
    yield -1, True


def _buckets(search: _Search, band: int, *, prefix: bool) -> _Buckets:
    signatures, active = search.signatures, search.active
    keys = signatures.prefix.view(np.uint64) if prefix else signatures.bands[:, band]
    wanted = active.copy()
    if not active.all():
        # most inactive rows share no key with an active one: a table of hashed keys filters them out before sorting
        mask = keys.dtype.type(_SLOTS - 1)
        slots = np.zeros(_SLOTS, bool)
        slots[keys[active] & mask] = True
        wanted |= slots[keys & mask]
    rows = np.flatnonzero(wanted & (keys != 0) if prefix else wanted)
    some = keys[rows].astype(np.uint64)
    order = np.lexsort((rows, some)) if prefix else np.argsort((some << np.uint64(32)) | rows.astype(np.uint64))
    members, ordered = rows[order], some[order]
    if not len(members):
        return _Buckets(members, members, members)
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sizes = np.diff(np.append(starts, len(members)))
    kept = (sizes > 1) & np.logical_or.reduceat(active[members], starts)
    if prefix:
        kept &= np.logical_or.reduceat(signatures.truncated[members], starts)
    return _Buckets(members, starts[kept], sizes[kept])


def _stars(search: _Search, buckets: _Buckets, _: Int64, *, prefix: bool) -> Iterator[Int64]:  # noqa: ARG001
    """Each member with the first of its bucket, and with the one before it."""
    steps = np.arange(buckets.sizes.sum()) - np.repeat(np.cumsum(buckets.sizes) - buckets.sizes, buckets.sizes)
    places = np.repeat(buckets.starts, buckets.sizes) + steps
    places, steps = places[steps > 0], steps[steps > 0]
    member = buckets.members[places]
    for other in (buckets.members[places - steps], buckets.members[places - 1]):
        yield np.stack([other, member], axis=1)[search.active[other] | search.active[member]]


def _all_pairs(search: _Search, buckets: _Buckets, apart: Int64, *, prefix: bool) -> Iterator[Int64]:
    """Candidate pairs of all buckets, of rows that are apart, lower row first."""
    mixed = _mixed(buckets, apart)
    yield from _small_bucket_pairs(search, buckets, mixed, apart)
    for members in _dense_buckets(buckets, mixed):
        if prefix:
            yield from _truncated_pairs(search, members, apart)
        else:
            yield from candidate_pairs(
                members,
                apart[members],
                search.texts_of(members),
                search.active[members],
                threshold=search.config.near_duplicate_jaccard,
                size=search.config.shingle_size,
            )


def _mixed(buckets: _Buckets, apart: Int64) -> npt.NDArray[np.bool_]:
    """Which buckets have members that are apart."""
    if not len(buckets.starts):
        return np.zeros(0, bool)
    ends = np.stack([buckets.starts, buckets.starts + buckets.sizes], axis=1).ravel()
    bounded = np.append(apart[buckets.members], 0)  # reduceat takes no end beyond the last
    mixed: npt.NDArray[np.bool_] = np.minimum.reduceat(bounded, ends)[::2] != np.maximum.reduceat(bounded, ends)[::2]
    return mixed


def _small_bucket_pairs(search: _Search, buckets: _Buckets, mixed: npt.NDArray[np.bool_], apart: Int64) -> Iterator[Int64]:
    """All pairs of small buckets."""
    for size in np.unique(buckets.sizes[mixed & (buckets.sizes <= _SMALL)]):
        lower, higher = np.triu_indices(size, 1)
        starts = buckets.starts[mixed & (buckets.sizes == size)]
        step = max(_BLOCK // len(lower), 1)
        for first in range(0, len(starts), step):
            members = buckets.members[starts[first : first + step, None] + np.arange(size)]
            yield _active_pairs(search, members[:, lower].ravel(), members[:, higher].ravel(), apart)


def _dense_buckets(buckets: _Buckets, mixed: npt.NDArray[np.bool_]) -> Iterator[Int64]:
    """Members of each large bucket."""
    large = mixed & (buckets.sizes > _SMALL)
    for start, size in zip(buckets.starts[large].tolist(), buckets.sizes[large].tolist(), strict=True):
        yield buckets.members[start : start + size]


def _truncated_pairs(search: _Search, members: Int64, apart: Int64) -> Iterator[Int64]:
    """All pairs of a large bucket with a cut text."""
    cut = members[search.signatures.truncated[members]]
    step = max(_BLOCK // len(members), 1)
    for first in range(0, len(cut), step):
        block = np.repeat(cut[first : first + step], len(members))
        other = np.tile(members, len(cut[first : first + step]))
        yield _active_pairs(search, np.minimum(block, other), np.maximum(block, other), apart)


def _active_pairs(search: _Search, low: Int64, high: Int64, apart: Int64) -> Int64:
    kept = (search.active[low] | search.active[high]) & (apart[low] != apart[high])
    wanted: Int64 = np.stack([low, high], axis=1)[kept]
    return wanted


@dataclass
class _PairSet:
    """Examined pairs, as sorted codes in runs of doubling length, so that adding to them does not copy all."""

    runs: list[Int64] = field(default_factory=list)

    def add(self, codes: Int64) -> None:
        """Add sorted codes."""
        if len(codes):
            self.runs.append(codes)
        while len(self.runs) > 1 and len(self.runs[-2]) < 2 * len(self.runs[-1]):
            self.runs[-2:] = [np.union1d(self.runs[-2], self.runs[-1])]

    def without(self, codes: Int64) -> Int64:
        """The codes that are not in the set."""
        for run in self.runs:
            place = np.searchsorted(run, codes)
            codes = codes[run[np.minimum(place, len(run) - 1)] != codes]
        return codes


def _verified(search: _Search, pairs: Int64, known: _PairSet, *, prefix: bool) -> tuple[Int64, Int64]:
    """The pairs that are near duplicates, and codes of those that are not; pairs in `known` are skipped."""
    count = len(search.signatures)
    if prefix:
        return _continuation_pairs(search, pairs), np.zeros(0, np.int64)
    some = likely_pairs(search.signatures, pairs, search.config.near_duplicate_jaccard)
    codes = known.without(np.unique(_encode_pairs(some, count)))
    some = np.stack([codes // max(count, 1), codes % max(count, 1)], axis=1)
    rows, place = np.unique(some, return_inverse=True)
    shingles = shingle(search.texts_of(rows), search.config.shingle_size)
    near = jaccard(shingles, place.reshape(-1, 2)) >= search.config.near_duplicate_jaccard - 1e-12
    return some[near], codes[~near]


def _encode_pairs(pairs: Int64, count: int) -> Int64:
    codes: Int64 = pairs[:, 0] * count + pairs[:, 1]
    return codes


def _continuation_pairs(search: _Search, pairs: Int64) -> Int64:
    """Pairs of which one text was cut short and the other continues it."""
    cut = search.signatures.truncated
    pairs = pairs[cut[pairs].any(axis=1)]
    rows, place = np.unique(pairs, return_inverse=True)
    texts = search.texts_of(rows)
    shortest = search.config.truncation_min_characters
    near = [
        (cut[low] and continues(texts[a], texts[b], shortest)) or (cut[high] and continues(texts[b], texts[a], shortest))
        for (low, high), (a, b) in zip(pairs, place.reshape(-1, 2), strict=True)
    ]
    continued: Int64 = pairs[np.array(near, bool)]
    return continued


def continues(cut: str, other: str, shortest: int) -> bool:
    """Whether `other` begins with the template of a cut text."""
    return len(cut) >= shortest and other.startswith(cut)
