"""Calibration of class probabilities: temperature scaling and expected calibration error (Guo et al. 2017, arXiv:1706.04599)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.errors import InputError

TEMPERATURES = (0.05, 20.0)
"""Range searched. Logits that separate the classes without an error have no best temperature: the search ends at 0.05."""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Temperature that minimises the negative log-likelihood of validation rows.

    The likelihood is concave in 1 / temperature, so the search over its logarithm finds the one optimum.
    Predicted classes do not change, only how sure the model says it is.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, truth = _checked(logits, labels, "logits")
    right = scores[np.arange(len(truth)), truth]

    def loss(log_temperature: float) -> float:
        inverse = np.exp(-log_temperature)
        return float(np.mean(logsumexp(scores * inverse, axis=1) - right * inverse))

    low, high = np.log(TEMPERATURES)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean distance of confidence and accuracy over `bins` equal-width bins of confidence, weighted by rows."""
    rows = reliability(probabilities, labels, bins)
    share = rows.count / rows.count.sum()
    return float(np.sum(share * np.abs(rows.confidence - rows.accuracy)))


@dataclass(frozen=True)
class Reliability:
    """Rows by bin of confidence; arrays of length `bins`, empty bins with count 0 and means 0."""

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def reliability(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> Reliability:
    """Rows, mean confidence and accuracy in bins (k/bins, (k+1)/bins] of the largest probability."""
    scores, truth = _checked(probabilities, labels, "probabilities")
    confidence = scores.max(axis=1)
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    count = np.bincount(index, minlength=bins)
    divisor = np.maximum(count, 1)
    return Reliability(
        count,
        np.bincount(index, weights=confidence, minlength=bins) / divisor,
        np.bincount(index, weights=right, minlength=bins) / divisor,
    )


def _checked(scores: ArrayLike, labels: ArrayLike, what: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    matrix, truth = np.asarray(scores, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    if matrix.ndim != 2 or truth.shape != matrix.shape[:1] or not len(truth):
        raise InputError(
            f"{what} of shape {matrix.shape} do not go with labels of shape {truth.shape}: give [N, classes] and [N], N > 0."
        )
    if truth.min() < 0 or truth.max() >= matrix.shape[1]:
        raise InputError(f"label ids run from {truth.min()} to {truth.max()}, and {what} have {matrix.shape[1]} classes.")
    if not np.isfinite(matrix).all():
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise InputError(
            f"{what} are not finite in {len(rows)} rows, first row {int(rows[0])}: the model that made them is broken."
        )
    return matrix, truth
