"""Has a scored batch drifted from its reference? Population stability index and a proper test, side by side.

The index says how large a shift is and the test whether it can be chance: the index of a small batch is large by
chance alone (its expectation without any drift is about (bins - 1) / rows), and the test of a huge batch finds
shifts that nobody needs to care about. A batch has drifted where both say so.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.errors import InputError

SIGNIFICANCE = 0.01
"""p below which a shift is not put down to chance. Strict, because several features of several batches are looked at."""
BINS = 10
_SMOOTHING = 0.5
"""Added to each bin's count, so that an empty bin does not make the index infinite."""


@dataclass(frozen=True)
class Drift:
    """One feature of one batch against its reference."""

    psi: float
    """Population stability index; below 0.1 small, above 0.25 large is the common reading."""
    p_value: float
    """Chance of such a shift between two samples of the same population."""

    def exceeds(self, threshold: float) -> bool:
        """Whether the shift is larger than `threshold` and not chance."""
        return not (self.psi <= threshold or self.p_value >= SIGNIFICANCE)  # what is no number does


def population_stability_index(reference: ArrayLike, window: ArrayLike) -> float:
    """Sum over bins of (w - r) ln(w / r) with r and w the bins' shares; both arguments are counts by bin [bins]."""
    expected, actual = _shares(reference), _shares(window)
    if expected.shape != actual.shape:
        raise InputError(f"{len(expected)} bins of reference against {len(actual)} of the window: count both by the same bins.")
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def categorical_drift(reference: Sequence[int], window: Sequence[int]) -> Drift:
    """Shift of counts by class [classes]; p of the chi-square test that both come from one population."""
    from scipy.stats import chi2_contingency

    table = np.array([reference, window])
    index = population_stability_index(*table)
    seen = table[:, table.sum(axis=0) > 0]
    if seen.shape[1] < 2:  # one class on both sides
        return Drift(index, 1.0)
    return Drift(index, float(chi2_contingency(seen, correction=False).pvalue))


def numeric_drift(reference: ArrayLike, window: ArrayLike, bins: int = BINS) -> Drift:
    """Shift of values over bins that hold equal shares of the reference; p of the two-sample Kolmogorov-Smirnov test."""
    from scipy.stats import ks_2samp

    before, now = np.asarray(reference, dtype=np.float64), np.asarray(window, dtype=np.float64)
    if not before.size or not now.size:
        raise InputError(f"{before.size} values of reference against {now.size} of the window: both must have some.")
    if not (np.isfinite(before).all() and np.isfinite(now).all()):
        return Drift(math.inf, 0.0)  # values that are no numbers follow no distribution: never taken for unchanged
    edges = np.unique(np.quantile(before, np.arange(1, bins) / bins))
    counts = [np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1) for values in (before, now)]
    return Drift(population_stability_index(*counts), float(ks_2samp(before, now, method="asymp").pvalue))


def _shares(counts: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(counts, dtype=np.float64)
    if values.ndim != 1 or not values.size or (values < 0).any() or not values.sum() > 0:
        raise InputError(f"{values.tolist()!r} are no counts by bin: give whole numbers, not all 0.")
    smoothed = values + _SMOOTHING
    return np.asarray(smoothed / smoothed.sum())
