"""Confidence: temperature scaling, calibration error, Brier score, and the abstain rule with its threshold.

Scaling and error are those of Guo et al. 2017 (arXiv:1706.04599).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.errors import InputError
from finsent.evaluation.evidence import AbstentionRecord, CalibrationRecord, CurvePointRecord, IntervalRecord

_DRAWN_AT_ONCE = 2**22  # numbers: 32 MB of them
_POINTS = 50
_FIRST_COVERAGE = 0.1  # a version that answers less than a tenth of the tweets is of no use
_STEP = 0.02
_TRUST = 0.95

TEMPERATURES = (0.05, 20.0)
"""Range searched. Logits that separate the classes without an error have no best temperature: the search ends at 0.05."""


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """Temperature that minimises the negative log-likelihood of validation rows.

    The likelihood is concave in 1 / temperature, so the search over its logarithm finds the one optimum.
    Predicted classes do not change, only how sure the model says it is.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import logsumexp

    scores, truth = _checked_logits(logits, labels, "logits")
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
    scores, truth = _checked_logits(probabilities, labels, "probabilities")
    confidence = scores.max(axis=1)
    right = (scores.argmax(axis=1) == truth).astype(np.float64)
    index = _bin(confidence, bins)
    count = np.bincount(index, minlength=bins)
    divisor = np.maximum(count, 1)
    return Reliability(
        count,
        np.bincount(index, weights=confidence, minlength=bins) / divisor,
        np.bincount(index, weights=right, minlength=bins) / divisor,
    )


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over rows of the squared distance to the one-hot truth, summed over classes (Brier 1950): 0 to 2, lower is better.

    The original form: in the two-class form that takes one class only it would be half of this.
    """
    scores, truth = _checked_logits(probabilities, labels, "probabilities")
    return float(_squared_distance(scores, truth).mean())


def calibration_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    resamples: int = 1000,
    seed: int = 0,
    *,
    level: float = 0.95,
    bins: int = 15,
) -> dict[str, IntervalRecord]:
    """Percentile intervals of `ece` and `brier`, drawn by near-duplicate group (cluster bootstrap, see `statistics`).

    Read the interval of the calibration error from above: with n rows even a perfectly calibrated model shows an error of about
    sqrt(bins / n), since distances do not cancel out (Kumar et al. 2019, arXiv:1909.10155), and each resample adds as much noise
    again. So the interval leans upwards: its upper end bounds the error safely, and a lower end above 0 proves no miscalibration;
    it may even lie above the error itself. The Brier score is a plain mean and has no such bias.

    Raises:
        InputError: shapes do not fit, or there is not one group to each row.
    """
    scores, truth = _checked_logits(probabilities, labels, "probabilities")
    if len(groups) != len(truth):
        raise InputError(f"{len(groups)} near-duplicate groups for {len(truth)} rows: give one group to each row.")
    ids = np.unique(np.asarray(groups), return_inverse=True)[1]
    count = int(ids.max()) + 1
    confidence = scores.max(axis=1)
    gap = confidence - (scores.argmax(axis=1) == truth)
    # all that a resample needs of a group: its rows, its squared distances, and its summed gap in each bin
    totals = np.zeros((count, bins + 2))
    np.add.at(totals, (ids, _bin(confidence, bins)), gap)
    totals[:, bins] = np.bincount(ids, weights=_squared_distance(scores, truth), minlength=count)
    totals[:, bins + 1] = np.bincount(ids, minlength=count)
    drawn = _draw(totals, resamples, np.random.default_rng(seed))
    rows = drawn[:, bins + 1]
    values = {"ece": np.abs(drawn[:, :bins]).sum(axis=1) / rows, "brier": drawn[:, bins] / rows}
    ends = [(1 - level) / 2, (1 + level) / 2]
    found = {}
    for name, drawn_values in values.items():
        low, high = np.quantile(drawn_values, ends)
        found[name] = IntervalRecord(low=float(low), high=float(high), level=level)
    return found


def _draw(totals: NDArray[np.float64], resamples: int, random: np.random.Generator) -> NDArray[np.float64]:
    """Sums [resamples, figures] of rows of `totals` [groups, figures] drawn with replacement."""
    count = len(totals)
    parts, step = [], max(1, _DRAWN_AT_ONCE // count)
    for start in range(0, resamples, step):
        number = min(step, resamples - start)
        chosen = random.integers(count, size=(number, count), dtype=np.int64)
        chosen += np.arange(number)[:, None] * count
        times = np.bincount(chosen.ravel(), minlength=number * count).reshape(number, count)
        parts.append(times @ totals)
    return np.concatenate(parts)


def abstention(
    confidence: NDArray[np.float64], right: NDArray[np.bool_], threshold: float, target_precision: float
) -> AbstentionRecord:
    """What a threshold does on rows of this confidence [N] that are right or wrong [N]."""
    answered = confidence >= threshold
    precision = float(right[answered].mean()) if answered.any() else None
    return AbstentionRecord(
        target_precision=target_precision, threshold=float(threshold), coverage=float(answered.mean()), precision=precision
    )


def abstention_curve(confidence: ArrayLike, right: ArrayLike, points: int = _POINTS) -> list[CurvePointRecord]:
    """Coverage and precision at no more than `points` thresholds, evenly spaced in coverage, from all rows answered to few."""
    sure, correct = _checked_confidence(confidence, right)
    order = np.argsort(-sure, kind="stable")
    sure, hits = sure[order], np.cumsum(correct[order])
    n = len(sure)
    wanted = np.unique(np.linspace(1, n, min(points, n)).round().astype(np.int64))[::-1]
    # equal confidences are answered or not together
    last = np.unique(np.searchsorted(-sure, -sure[wanted - 1], side="right"))[::-1]
    return [CurvePointRecord(threshold=float(sure[k - 1]), coverage=float(k / n), precision=float(hits[k - 1] / k)) for k in last]


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
    sure, right = _checked_confidence(table.max(axis=1), table.argmax(axis=1) == truth)
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


def _checked_confidence(confidence: ArrayLike, right: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    sure, correct = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=np.bool_)
    if sure.ndim != 1 or correct.shape != sure.shape or not len(sure) or not np.isfinite(sure).all():
        raise InputError(
            f"confidence of shape {sure.shape} and hits of shape {correct.shape}: give one finite value to each of N > 0 rows."
        )
    return sure, correct


def calibration(
    logits: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str],
    temperature: float,
    threshold: float | None,
    target_precision: float,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[CalibrationRecord, dict[str, IntervalRecord]]:
    """Calibration on test rows, and the intervals of `ece` and `brier`.

    Args:
        logits: [rows, classes], as the model gives them.
        labels: [rows].
        groups: Near-duplicate group of each row.
        temperature: Fitted on validation rows.
        threshold: Confidence below which the version abstains, fitted on validation rows too; None if it has none.
        target_precision: What the threshold was fitted to.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        InputError: shapes do not fit, or logits are not finite.
    """
    from scipy.special import softmax

    raw, truth = _checked_logits(logits, labels, "logits")
    scaled = softmax(raw / temperature, axis=1)
    confidence, right = scaled.max(axis=1), scaled.argmax(axis=1) == truth
    found = CalibrationRecord(
        brier=brier_score(scaled, truth),
        ece_before_scaling=expected_calibration_error(softmax(raw, axis=1), truth),
        abstention=None if threshold is None else abstention(confidence, right, threshold, target_precision),
        curve=abstention_curve(confidence, right),
    )
    return found, calibration_intervals(scaled, truth, groups, resamples, seed)


def _squared_distance(scores: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    distance: NDArray[np.float64] = ((scores - np.eye(scores.shape[1])[truth]) ** 2).sum(axis=1)
    return distance


def _bin(confidence: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)


def _checked_logits(scores: ArrayLike, labels: ArrayLike, what: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
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
