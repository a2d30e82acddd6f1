"""Non-inferiority tests against the champion within a declared margin, class by class and slice by slice. Pure.

Absence of evidence for harm is not enough: the lower end of the difference's interval must lie above minus the margin. Each
of several differences is tested one-sided, and Holm's correction (1979) bounds by alpha the chance that any difference that is
truly below its margin is called non-inferior.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Estimate:
    """A difference between two models on the same rows."""

    difference: float
    standard_error: float
    """Rows of one near-duplicate group counting as one draw."""
    counts: tuple[int, int, int] | None = None
    """For an accuracy: rows, rows on which only this version is right, rows on which only the champion is."""


@dataclass(frozen=True)
class NonInferiority:
    """One difference against its margin."""

    difference: float
    lower: float
    """Lower end of the one-sided interval at the level that Holm's correction gives this difference."""
    level: float
    """1 minus that corrected significance level."""
    shown: bool
    """Whether it is shown to be no worse than the margin allows."""


def check_noninferiority(estimates: Mapping[str, Estimate], margin: float, alpha: float) -> dict[str, NonInferiority]:
    """Test each estimate against `-margin`; nothing that is no finite number is shown.

    Holm steps down from the clearest: the k-th of m is held to alpha / (m - k), and from the first that fails on, all fail.
    """
    distances = {name: _distance(estimate, -margin) for name, estimate in estimates.items()}
    ordered = sorted(estimates, key=lambda name: -distances[name])
    verdicts: dict[str, NonInferiority] = {}
    standing = True
    for rank, name in enumerate(ordered):
        corrected = alpha / (len(ordered) - rank)
        reach = _NORMAL.inv_cdf(1 - corrected)
        standing = standing and distances[name] > reach
        verdicts[name] = NonInferiority(estimates[name].difference, _lower(estimates[name], reach), 1 - corrected, standing)
    return {name: verdicts[name] for name in estimates}


def _distance(estimate: Estimate, from_difference: float) -> float:
    """Standard errors by which the difference lies above `from_difference`; minus infinity for what is no number."""
    difference, error = estimate.difference, estimate.standard_error
    if not (math.isfinite(difference) and math.isfinite(error)) or error < 0:
        return -math.inf
    room = difference - from_difference
    error = _error_if(estimate, from_difference)
    if error == 0:
        return math.copysign(math.inf, room) if room else -math.inf
    return room / error


def _lower(estimate: Estimate, reach: float) -> float:
    """The difference that lies `reach` standard errors below; NaN for what is no number."""
    if _distance(estimate, estimate.difference - 1.0) == -math.inf:
        return math.nan
    if estimate.counts is None:
        return estimate.difference - reach * estimate.standard_error
    low, high = -1.0, estimate.difference
    for _ in range(50):  # the distance falls as the difference that is asked about rises
        middle = (low + high) / 2
        low, high = (middle, high) if _distance(estimate, middle) > reach else (low, middle)
    return low


def _error_if(estimate: Estimate, true_difference: float) -> float:
    """Standard error of the difference if `true_difference` were the true one.

    For accuracies the score test of paired proportions (Tango 1998): with a handful of rows that tell two models apart, the
    error at the seen difference is too small where that is lucky, and the level is missed by half (0.075 for 0.05 with 300 rows
    of which 6 % differ; this one 0.043). It is widened by how much groups widen the error that was seen.
    """
    if estimate.counts is None:
        return estimate.standard_error
    rows, own, other = estimate.counts
    if own + other == 0 and true_difference == 0:
        return 0.0
    independent = ((own + other) / rows - (own - other) ** 2 / rows**2) / rows
    widened = max(1.0, estimate.standard_error**2 / independent) if independent > 0 else 1.0
    # likeliest share of rows on which only the champion is right, given the true difference: root of its score equation
    linear = (own + other) * (1 - true_difference) - 2 * other * true_difference - 2 * (rows - own - other) * true_difference
    constant = other * true_difference * (1 - true_difference)
    share = (linear + math.sqrt(max(linear**2 + 8 * rows * constant, 0.0))) / (4 * rows)
    share = max(share, -true_difference, 0.0)
    variance = max(2 * share + true_difference - true_difference**2, 0.0)
    return math.sqrt(variance * widened / rows)
