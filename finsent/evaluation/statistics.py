"""Intervals and paired tests on test rows that come in near-duplicate groups. NumPy and SciPy only.

Rows of one group are nearly the same tweet, so they are right or wrong together: resampling rows as if they were
independent gives intervals that are too narrow. Every bootstrap here draws whole groups (cluster bootstrap, Field and
Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). A statistic of the confusion matrix sees nothing of a group but its
own small matrix, and groups with equal matrices are interchangeable, so one multinomial draw over the few distinct
matrices replaces the draw over thousands of groups: the same distribution, in milliseconds.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.errors import InputError
from finsent.evaluation.evidence import DifferenceRecord, IntervalRecord, McnemarRecord, PairedBootstrapRecord
from finsent.labels import LABELS

CLASSES = len(LABELS)


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike) -> NDArray[np.int64]:
    """Counts [classes, classes], rows the truth and columns the prediction, in label-id order."""
    truth, guess = _same_rows(labels, predictions)
    return np.bincount(truth * CLASSES + guess, minlength=CLASSES**2).reshape(CLASSES, CLASSES)


def class_f1(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """F1 of each class [..., classes] of confusion matrices [..., classes, classes]: 2 TP / (truth + predicted), 0 if 0/0."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1)
    seen = confusion.sum(axis=-1) + confusion.sum(axis=-2)
    f1: NDArray[np.float64] = np.divide(2.0 * hits, seen, out=np.zeros(hits.shape), where=seen > 0)
    return f1


def matthews(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Matthews correlation [...] of confusion matrices [..., classes, classes] (Gorodkin 2004); 0 where it is undefined."""
    counts = confusion.astype(np.float64)
    total, hits = counts.sum(axis=(-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    truth, guess = counts.sum(axis=-1), counts.sum(axis=-2)
    covariance = hits * total - (truth * guess).sum(axis=-1)
    spread = np.sqrt((total**2 - (guess**2).sum(axis=-1)) * (total**2 - (truth**2).sum(axis=-1)))
    mcc: NDArray[np.float64] = np.divide(covariance, spread, out=np.zeros_like(spread), where=spread > 0)
    return mcc


def bootstrap(
    labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str], resamples: int = 1000, seed: int = 0, *, level: float = 0.95
) -> dict[str, IntervalRecord]:
    """Intervals of `accuracy`, `macro_f1` and `mcc`, drawn by near-duplicate group."""
    truth, guess = _same_rows(labels, predictions)
    drawn = _resample(truth * CLASSES + guess, CLASSES**2, groups, resamples, seed).reshape(-1, CLASSES, CLASSES)
    accuracy = np.trace(drawn, axis1=1, axis2=2) / drawn.sum(axis=(1, 2))
    values = {"accuracy": accuracy, "macro_f1": class_f1(drawn).mean(axis=1), "mcc": matthews(drawn)}
    return {name: _interval(drawn_values, level) for name, drawn_values in values.items()}


def paired_bootstrap(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
) -> PairedBootstrapRecord:
    """Intervals of F1 of a minus F1 of b: both models are scored on the same resampled groups."""
    truth, first, second = _same_rows(labels, a, b)
    cells = (truth * CLASSES + first) * CLASSES + second
    drawn = _resample(cells, CLASSES**3, groups, resamples, seed).reshape(-1, CLASSES, CLASSES, CLASSES)
    difference = class_f1(drawn.sum(axis=3)) - class_f1(drawn.sum(axis=2))
    seen = class_f1(confusion_matrix(truth, first)) - class_f1(confusion_matrix(truth, second))
    return PairedBootstrapRecord(
        macro_f1_difference=_difference(float(seen.mean()), difference.mean(axis=1), level),
        class_f1_difference={
            name: _difference(float(seen[index]), difference[:, index], level) for index, name in enumerate(LABELS)
        },
    )


def accuracy_difference(
    labels: ArrayLike, a: ArrayLike, b: ArrayLike, groups: Sequence[str], *, level: float = 0.95
) -> DifferenceRecord:
    """Accuracy of a minus accuracy of b, with the cluster-robust standard error of a ratio of group totals (Cochran 1977, 6.3).

    The interval is normal: slices are many, and a bootstrap of each would say the same more slowly.
    """
    truth, first, second = _same_rows(labels, a, b)
    gain = (first == truth).astype(np.float64) - (second == truth)
    difference, error = _clustered_mean(gain, groups)
    reach = NormalDist().inv_cdf((1 + level) / 2) * error
    only_a, only_b = int((gain > 0).sum()), int((gain < 0).sum())
    return DifferenceRecord(
        difference=difference,
        standard_error=error,
        low=difference - reach,
        high=difference + reach,
        level=level,
        rows=len(truth),
        only_a=only_a,
        only_b=only_b,
    )


def accuracy_interval(labels: ArrayLike, predictions: ArrayLike, groups: Sequence[str], *, level: float = 0.95) -> IntervalRecord:
    """Interval of the accuracy with its cluster-robust standard error, within 0 and 1.

    Wilson's score interval (1927) with as many independent rows as give that error, so that it is no point at 0 and 1.
    """
    truth, guess = _same_rows(labels, predictions)
    right = (guess == truth).astype(np.float64)
    accuracy, error = _clustered_mean(right, groups)
    variance = accuracy * (1 - accuracy)
    independent = float(len(set(groups)))
    # no fewer than one: a slice may be a single group, and no more than there are groups
    rows = min(max(variance / error**2, 1.0), independent) if error > 0 and variance > 0 else independent
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (accuracy + z**2 / (2 * rows)) / (1 + z**2 / rows)
    reach = z / (1 + z**2 / rows) * float(np.sqrt(variance / rows + z**2 / (4 * rows**2)))
    return IntervalRecord(low=max(centre - reach, 0.0), high=min(centre + reach, 1.0), level=level)


def mcnemar(labels: ArrayLike, a: ArrayLike, b: ArrayLike, groups: Sequence[str] | None = None) -> McnemarRecord:
    """Exact McNemar test (McNemar 1947): a fair coin decides each row on which exactly one of a and b is right.

    With `groups`, each near-duplicate group counts once, for the model that has more of its rows right (an exact sign
    test over groups): without them, twenty copies of one tweet would pass for twenty pieces of evidence.
    """
    from scipy.stats import binomtest

    truth, first, second = _same_rows(labels, a, b)
    wins = (first == truth).astype(np.int64) - (second == truth)
    if groups is not None:
        wins = np.bincount(_group_ids(groups, len(truth)), weights=wins)
    only_a, only_b = int((wins > 0).sum()), int((wins < 0).sum())
    if only_a + only_b == 0:  # no row tells the two apart
        return McnemarRecord(only_a=0, only_b=0, p_one_sided=1.0, p_two_sided=1.0)
    one_sided = binomtest(only_a, only_a + only_b, alternative="greater").pvalue
    two_sided = binomtest(only_a, only_a + only_b).pvalue
    return McnemarRecord(only_a=only_a, only_b=only_b, p_one_sided=float(one_sided), p_two_sided=float(two_sided))


def _resample(cells: NDArray[np.int64], n_cells: int, groups: Sequence[str], resamples: int, seed: int) -> NDArray[np.int64]:
    """Cell counts [resamples, n_cells] of `resamples` draws of groups with replacement."""
    ids = _group_ids(groups, len(cells))
    n_groups = int(ids.max()) + 1
    counts = np.bincount(ids * n_cells + cells, minlength=n_groups * n_cells).reshape(n_groups, n_cells)
    distinct, multiplicity = np.unique(counts, axis=0, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(n_groups, multiplicity / n_groups, size=resamples)
    drawn: NDArray[np.int64] = draws @ distinct
    return drawn


def _clustered_mean(values: NDArray[np.float64], groups: Sequence[str]) -> tuple[float, float]:
    """Mean of values [N] and its standard error, rows of a group counting as one draw; no error from a single group."""
    ids = _group_ids(groups, len(values))
    mean = float(values.mean())
    residuals = np.bincount(ids, weights=values - mean)
    count = len(residuals)
    if count < 2:
        return mean, math.inf
    return mean, float(np.sqrt((residuals**2).sum() * count / (count - 1)) / len(values))


def _group_ids(groups: Sequence[str], rows: int) -> NDArray[np.int64]:
    if len(groups) != rows:
        raise InputError(f"{len(groups)} near-duplicate groups for {rows} rows: give one group to each row.")
    return np.unique(np.asarray(groups), return_inverse=True)[1].astype(np.int64)


def _same_rows(*columns: ArrayLike) -> tuple[NDArray[np.int64], ...]:
    arrays = tuple(np.asarray(column) for column in columns)
    shapes = {array.shape for array in arrays}
    if len(shapes) != 1 or arrays[0].ndim != 1 or not arrays[0].size:
        raise InputError(
            f"labels and predictions of shapes {sorted(shapes)} cannot be compared: give one id per row, at least one row."
        )
    for array in arrays:
        if array.dtype.kind not in "iu" or array.min() < 0 or array.max() >= CLASSES:
            wrong = array.tolist()[:5]
            raise InputError(f"label ids {wrong!r}... are not all whole numbers from 0 to {CLASSES - 1} ({', '.join(LABELS)}).")
    return tuple(array.astype(np.int64) for array in arrays)


def _difference(seen: float, drawn: NDArray[np.float64], level: float) -> DifferenceRecord:
    interval = _interval(drawn, level)
    return DifferenceRecord(
        difference=seen,
        standard_error=float(drawn.std(ddof=1)),
        low=interval["low"],
        high=interval["high"],
        level=interval["level"],
    )


def _interval(values: NDArray[np.float64], level: float) -> IntervalRecord:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return IntervalRecord(low=float(low), high=float(high), level=level)
