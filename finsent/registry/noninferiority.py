"""Whether a version is shown to be no worse than the champion, by more than a declared margin, class by class and slice by slice.

A difference is not shown to be harmless because no harm was found: the lower end of its interval must lie above the margin.
Each of several differences is tested one-sided against its margin, and Holm's correction (1979) bounds by alpha the chance
that any that is truly worse than its margin is called harmless. Pure.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()


@dataclass(frozen=True)
class NoWorse:
    """One difference against its margin."""

    difference: float
    lower: float
    """Lower end of the one-sided interval at the level that Holm's correction gives this difference."""
    level: float
    """1 minus that corrected significance level."""
    shown: bool
    """Whether it is shown to be no worse than the margin allows."""


def no_worse(differences: Mapping[str, tuple[float, float]], margin: float, alpha: float) -> dict[str, NoWorse]:
    """Test each of `differences` (value, standard error) against `-margin`; nothing that is no finite number is shown.

    Holm steps down from the clearest: the k-th of m is held to alpha / (m - k), and from the first that fails on, all fail.
    """
    ordered = sorted(differences, key=lambda name: -_distance(*differences[name], margin))
    verdicts: dict[str, NoWorse] = {}
    standing = True
    for rank, name in enumerate(ordered):
        difference, error = differences[name]
        corrected = alpha / (len(ordered) - rank)
        lower = difference - _NORMAL.inv_cdf(1 - corrected) * error
        standing = standing and math.isfinite(lower) and error >= 0 and lower > -margin
        verdicts[name] = NoWorse(difference, lower, 1 - corrected, standing)
    return {name: verdicts[name] for name in differences}


def _distance(difference: float, error: float, margin: float) -> float:
    """Standard errors from the margin, upwards; what is no number comes last."""
    if not (math.isfinite(difference) and math.isfinite(error)) or error < 0:
        return -math.inf
    room = difference + margin
    if error == 0:
        return math.copysign(math.inf, room) if room else -math.inf
    return room / error
