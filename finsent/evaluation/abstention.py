"""When to give no answer: what a threshold of confidence costs in coverage and buys in precision, and how to choose one.

Confidence is the largest probability. A row is answered if its confidence is at least the threshold, coverage is the share of
rows answered, precision the share of the answered ones that are right (selective classification, El-Yaniv and Wiener 2010).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.errors import InputError

_POINTS = 50
_FIRST_COVERAGE = 0.1  # a version that answers less than a tenth of the tweets is of no use
_STEP = 0.02
_TRUST = 0.95


@dataclass(frozen=True)
class CurvePoint:
    """What one threshold does."""

    threshold: float
    coverage: float
    precision: float


@dataclass(frozen=True)
class Abstention:
    """What the version's threshold does on some rows."""

    target_precision: float
    """Share of answers that are to be right."""
    threshold: float
    """Confidence below which no answer is given."""
    coverage: float
    """Share of rows answered."""
    precision: float | None
    """Share of those that are right; None where none is answered."""


def abstention(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], threshold: float, target_precision: float
) -> Abstention:
    """What a threshold does on rows of this confidence [N] that are right or wrong [N]."""
    answered = confidence >= threshold
    precision = float(right[answered].mean()) if answered.any() else None
    return Abstention(target_precision, float(threshold), float(answered.mean()), precision)


def abstention_curve(confidence: ArrayLike, right: ArrayLike, points: int = _POINTS) -> tuple[CurvePoint, ...]:
    """Coverage and precision at no more than `points` thresholds, evenly spaced in coverage, from all rows answered to few."""
    sure, correct = _checked(confidence, right)
    order = np.argsort(-sure, kind="stable")
    sure, hits = sure[order], np.cumsum(correct[order])
    n = len(sure)
    wanted = np.unique(np.linspace(1, n, min(points, n)).round().astype(np.int64))[::-1]
    # equal confidences are answered or not together
    last = np.unique(np.searchsorted(-sure, -sure[wanted - 1], side="right"))[::-1]
    return tuple(CurvePoint(float(sure[k - 1]), float(k / n), float(hits[k - 1] / k)) for k in last)


def fit_abstain_threshold(
    probabilities: ArrayLike, labels: ArrayLike, target_precision: float, groups: Sequence[str] | None = None
) -> float | None:
    """The lowest threshold that is shown to give the target precision, on validation rows; None if none is.

    Shown means: the lower 95 % bound of precision (Clopper and Pearson 1934, one-sided) reaches the target, and so it did at
    every higher threshold that was tried. Thresholds are tried from the surest tenth of the rows downwards in steps of 2 % of
    coverage, up to the first that fails: hypotheses tested in an order fixed beforehand need no correction for their number, so
    that with a chance of 95 % the precision on new rows of the same kind is the target or more (fixed sequence testing,
    Angelopoulos et al. 2021, arXiv:2110.01052). The plug-in value would miss the target about half of the time.

    Args:
        probabilities: [N, classes], after temperature scaling.
        labels: [N].
        target_precision: Share of answers that are to be right, between 0 and 1.
        groups: Near-duplicate groups of the rows: rows of one group then count as the fewer independent ones that give the same
            cluster-robust error. None: rows are independent.

    Returns:
        The threshold, 0 where answering everything is precise enough.

    Raises:
        InputError: shapes do not fit, or the target is not between 0 and 1.
    """
    table, truth = np.asarray(probabilities, dtype=np.float64), np.asarray(labels)
    if table.ndim != 2 or truth.shape != table.shape[:1] or (groups is not None and len(groups) != len(truth)):
        raise InputError(f"probabilities of shape {table.shape}, labels of shape {truth.shape} and groups do not go together.")
    if not 0 < target_precision < 1:
        raise InputError(f"a target precision of {target_precision!r} is not between 0 and 1: set evaluation.target_precision.")
    sure, right = _checked(table.max(axis=1), table.argmax(axis=1) == truth)
    order = np.argsort(-sure, kind="stable")
    sure, hits = sure[order], right[order].astype(np.float64)
    ids = np.arange(len(sure)) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1][order]
    found = None
    for k in _tried(sure, target_precision):
        if _lower_bound(hits[:k], ids[:k]) < target_precision:
            break
        found = 0.0 if k == len(sure) else float(sure[k - 1])
    return found


def _tried(sure: NDArray[np.float64], target: float) -> list[int]:
    """How many of the surest rows are answered at each threshold tried; equal confidences go together."""
    n = len(sure)
    # twice the rows that would show the target if all were right: one unlucky row shall not end the search
    least = 2 * int(np.ceil(np.log(1 - _TRUST) / np.log(target)))
    wanted = np.arange(max(least, int(_FIRST_COVERAGE * n)), n + 1, max(1, round(_STEP * n)))
    wanted = np.append(wanted, n) if n >= least else wanted
    return [int(k) for k in np.unique(np.searchsorted(-sure, -sure[wanted - 1], side="right"))]


def _lower_bound(right: NDArray[np.float64], ids: NDArray[np.int64]) -> float:
    """One-sided lower bound of the share of ones, rows of a group counting as fewer."""
    from scipy.stats import beta

    n, share = len(right), float(right.mean())
    if share in {0.0, 1.0}:
        independent = float(len(np.unique(ids)))
    else:
        residuals = np.bincount(ids, weights=right - share)
        independent = min(n, max(1.0, share * (1 - share) * n**2 / float((residuals**2).sum())))
    hits = share * independent
    return float(beta.ppf(1 - _TRUST, hits, independent - hits + 1)) if hits else 0.0


def _checked(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    if sure.ndim != 1 or correct.shape != sure.shape or not len(sure) or not np.isfinite(sure).all():
        raise InputError(
            f"confidence of shape {sure.shape} and hits of shape {correct.shape}: give one finite value to each of N > 0 rows."
        )
    return sure, correct
