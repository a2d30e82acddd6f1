"""What a paired test can see: the power of the exact one-sided McNemar test, computed exactly. NumPy and SciPy only.

A refusal says little where the test set could not have told the two models apart, so each comparison states the smallest
difference that it would have found.
"""

import numpy as np

from finsent.evaluation.evidence import PowerRecord


def mcnemar_power(groups: int, discordant_share: float, difference: float, alpha: float) -> float:
    """Chance that the exact one-sided McNemar test at level `alpha` finds a true `difference` in accuracy.

    Each of `groups` is discordant with chance `discordant_share`, and a discordant one goes to the better model with chance
    (1 + difference / discordant_share) / 2. Summed over the binomial number of discordant groups (Connor 1987 approximates it).
    """
    from scipy.stats import binom

    if not 0 < discordant_share <= 1 or abs(difference) > discordant_share or groups < 1:
        return 0.0
    spread = 8 * np.sqrt(groups * discordant_share * (1 - discordant_share)) + 8
    centre = groups * discordant_share
    discordant = np.arange(max(1, int(centre - spread)), min(groups, int(centre + spread)) + 1)
    # the fewest wins among k that a fair coin reaches with a chance of at most alpha
    needed = binom.isf(alpha, discordant, 0.5) + 1
    needed = np.where(binom.sf(needed - 1, discordant, 0.5) < alpha, needed, needed + 1)
    found = binom.sf(needed - 1, discordant, (1 + difference / discordant_share) / 2)
    return float((binom.pmf(discordant, groups, discordant_share) * found).sum())


def detectable_difference(groups: int, discordant: int, alpha: float, power: float = 0.8) -> PowerRecord:
    """The smallest difference found with the chance `power`, at the share of discordant groups that was seen."""
    share = discordant / groups if groups else 0.0
    if mcnemar_power(groups, share, share, alpha) < power:
        return PowerRecord(groups=groups, discordant_share=share, detectable_difference=None, alpha=alpha, power=power)
    low, high = 0.0, share
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if mcnemar_power(groups, share, middle, alpha) >= power else (middle, high)
    return PowerRecord(groups=groups, discordant_share=share, detectable_difference=high, alpha=alpha, power=power)


def format_power(power: PowerRecord | None, *, short: bool = False) -> str:
    """The smallest difference in accuracy that the paired test detects on these rows; `short`: without what that rests on."""
    if not power:
        return "What difference this test set can detect is not stated."
    detectable = power["detectable_difference"]
    if short and detectable is not None:
        return (
            f"This test set can detect differences above {100 * detectable:.1f} points of accuracy ({power['power']:.0%} of the "
            "time)."
        )
    basis = f"{power['groups']:,} independent groups of tweets, of which the two models differ on {power['discordant_share']:.1%}"
    if detectable is None:
        return f"This test set ({basis}) is too small to detect any difference reliably between two models that differ so seldom."
    return (
        f"This test set can detect differences above {100 * detectable:.1f} points of accuracy ({power['power']:.0%} of the "
        f"time, at level {power['alpha']:g}): {basis}. A smaller gain may be real and still not be shown."
    )
