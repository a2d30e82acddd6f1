"""MinHash signatures of texts, by which near-duplicate candidates are found, in the compact form that is stored.

A signature is `data.permutations` MinHash values (rensa's R-MinHash) over the character shingles of a text's template. Stored are
the band keys of locality-sensitive hashing (a hash of a few values each) and a sketch (the low byte of `SKETCH_BYTES` values,
b-bit MinHash of Li and König, arXiv:0910.3349), 192 bytes a text with the defaults. Two texts of Jaccard similarity J share one
of b bands of r values with probability 1 - (1 - J^r)^b (Leskovec, Rajaraman, Ullman: Mining of Massive Datasets, 3.4): with the
defaults, 32 bands of 5, a pair at the threshold of 0.8 is missed with probability 3e-6, and pairs are mostly well above it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from finsent.config import DataConfig
from finsent.data.dedup.shingles import Int64, Shingles, fold, windows
from finsent.errors import ConfigError
from finsent.text import NORMALISATION, TEMPLATE, Forms

MAX_MISS_PROBABILITY: Final = 1e-5
"""Largest probability that a pair just at the threshold shares no band. Bands are as long as that allows: longer bands have fewer
false candidates."""
SKETCH_BYTES: Final = 64
"""Size of the sketch."""
SEED: Final = 1
"""Seed of the permutations of stored signatures."""
_CHUNK: Final = 20_000
_SLACK: Final = 4.75  # standard deviations below the expected agreement: misses one pair in a million


@dataclass(frozen=True)
class Signatures:
    """Signatures of N texts, as parallel arrays."""

    template: Int64
    """Hash of the template [N]: equal templates are near duplicates."""
    prefix: Int64
    """Hash of the template's first `data.truncation_min_characters` [N], 0 where it is shorter."""
    truncated: npt.NDArray[np.bool_]
    """Whether the text ends in an ellipsis [N]."""
    bands: npt.NDArray[np.uint32]
    """Band keys [N, B]."""
    sketch: npt.NDArray[np.uint8]
    """Low bytes of the first MinHash values [N, SKETCH]."""

    def __len__(self) -> int:
        return len(self.template)

    def take(self, rows: Int64) -> Self:
        """Signatures of the given rows; without a copy where those are all rows in order."""
        if len(rows) == len(self) and (rows == np.arange(len(rows))).all():
            return self
        return type(self)(self.template[rows], self.prefix[rows], self.truncated[rows], self.bands[rows], self.sketch[rows])

    def with_truncated(self, texts: Int64, cut: npt.NDArray[np.bool_]) -> Self:
        """A copy in which row `texts[i]` is truncated where any `cut[i]` is true, `texts` and `cut` [M]."""
        flags = np.zeros(len(self), bool)
        np.logical_or.at(flags, texts, cut)
        return replace(self, truncated=flags)


def signature_rule(config: DataConfig) -> str:
    """All parameters of a signature; signatures of different rules cannot be compared."""
    return (
        f"normalisation {NORMALISATION}, template {TEMPLATE}, shingles of {config.shingle_size}, {config.permutations} "
        f"permutations in bands of {band_rows(config)}, sketch of {SKETCH_BYTES}, "
        f"truncated from {config.truncation_min_characters}, seed {SEED}"
    )


def band_rows(config: DataConfig) -> int:
    """Signature values to a band, by threshold and permutations.

    Raises:
        ConfigError: so low a threshold needs more permutations.
    """
    threshold, permutations = config.near_duplicate_jaccard, config.permutations
    good = [
        rows for rows in range(1, permutations + 1) if (1 - threshold**rows) ** (permutations // rows) <= MAX_MISS_PROBABILITY
    ]
    if not good:
        raise ConfigError(
            f"data.permutations = {permutations} cannot find near duplicates at data.near_duplicate_jaccard = {threshold}: "
            f"more than {MAX_MISS_PROBABILITY:g} of the pairs there would be missed. Raise one of the two."
        )
    return max(good)


def make_signatures(forms: Sequence[Forms], config: DataConfig, seed: int = SEED) -> Signatures:
    """Signatures of texts by their forms."""
    templates = [text.template for text in forms]
    values = minhash(windows(templates, config.shingle_size), config.permutations, seed)
    shortest = config.truncation_min_characters
    return Signatures(
        template=_hashes(templates),
        prefix=_hashes([text[:shortest] if len(text) >= shortest else "" for text in templates]),
        truncated=np.fromiter((text.truncated for text in forms), bool, len(forms)),
        bands=_bands(values, band_rows(config)),
        sketch=values[:, :SKETCH_BYTES].astype(np.uint8),
    )


def empty_signatures(config: DataConfig) -> Signatures:
    """Signatures of no text."""
    return make_signatures([], config)


def concat_signatures(parts: Sequence[Signatures]) -> Signatures:
    """Signatures of several batches, in order; at least one is needed."""
    columns = ([getattr(part, name) for part in parts] for name in ("template", "prefix", "truncated", "bands", "sketch"))
    return Signatures(*(np.concatenate(column) for column in columns))


def minhash(shingles: Shingles, permutations: int, seed: int) -> npt.NDArray[np.uint32]:
    """MinHash values [N, permutations]."""
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


def sketch_agreement(signatures: Signatures, pairs: Int64) -> npt.NDArray[np.int64]:
    """Equal bytes of the two sketches of each pair [P], of `SKETCH`."""
    parts = [np.zeros(0, np.int64)]
    for start in range(0, len(pairs), _CHUNK):
        some = pairs[start : start + _CHUNK]
        parts.append((signatures.sketch[some[:, 0]] == signatures.sketch[some[:, 1]]).sum(axis=1))
    return np.concatenate(parts)


def likely_pairs(signatures: Signatures, pairs: Int64, threshold: float) -> Int64:
    """Pairs whose sketches agree enough for near duplicates; one near pair in a million is missed."""
    expected = threshold + (1 - threshold) / 256  # unlike values share their low byte once in 256
    least = SKETCH_BYTES * expected - _SLACK * np.sqrt(SKETCH_BYTES * expected * (1 - expected))
    kept: Int64 = pairs[sketch_agreement(signatures, pairs) >= least]
    return kept


def _bands(values: npt.NDArray[np.uint32], rows: int) -> npt.NDArray[np.uint32]:
    count, permutations = values.shape
    keys = np.empty((count, permutations // rows), np.uint32)
    for band in range(keys.shape[1]):
        key = np.zeros(count, np.uint64)
        for column in range(band * rows, (band + 1) * rows):
            key = fold(key, values[:, column])
        keys[:, band] = key >> np.uint64(32)
    return keys


def _hashes(texts: Sequence[str]) -> Int64:
    """64-bit hashes, never 0; 0 for the empty text."""
    from hashlib import blake2b

    def digest(text: str) -> int:
        return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True) or 1

    return np.fromiter((digest(text) if text else 0 for text in texts), np.int64, len(texts))
