"""How many wrong labels to expect among doubtful ones, from out-of-fold probabilities.

A source is taken as a mixture: a share pi of its labels is wrong, drawn at random from the other classes, the rest are right.
The score of a label is the probability that the model gives it. What scores wrong labels get is known without one: those of the
labels that the rows do not have, since the model saw neither a row nor its near duplicates. With F the distribution of the scores
of labels as they are, and F1 that of the others, pi <= F(s) / F1(s) at every score s; the smallest ratio is the estimate
(Blanchard, Lee, Scott 2010, "Semi-supervised novelty detection", JMLR 11; Scott 2015, "A rate of convergence for mixture
proportion estimation", AISTATS). A label with score s is wrong with the probability pi f1(s) / f(s), where the ratio of the
densities falls with s and is found by isotonic regression.

That is an upper estimate: at the lowest scores every label counts as wrong, while some are right and only hard for the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

WORTH_READING: Final = 0.25
"""Least share of wrong labels among rows that are worth a reviewer's time: one in four."""
_RANKS: Final = (50, 100, 300)
_SOURCE_ROWS: Final = 2000
"""Sources with fewer rows are estimated together."""
_LEAST_ROWS: Final = 10  # lowest scores that F / F1 is taken over: the ratio of fewer is chance


@dataclass(frozen=True)
class ExpectedErrors:
    """Wrong labels expected among the first rows of a ranking."""

    first: int
    errors: float


def error_probabilities(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], sources: Sequence[str] | None = None
) -> NDArray[np.float64]:
    """Probability [N] that each label is wrong.

    Args:
        labels: Class numbers [N].
        probabilities: Out-of-fold probabilities [N, classes].
        sources: Source [N] of each row: sources differ in how many of their labels are wrong. Left out, they are one.
    """
    names, numbers, sizes = np.unique(sources or ["one"] * len(labels), return_inverse=True, return_counts=True)
    pools = np.where(sizes < _SOURCE_ROWS, len(names), np.arange(len(names)))[numbers]
    found = np.zeros(len(labels))
    for pool in np.unique(pools):
        rows = np.flatnonzero(pools == pool)
        found[rows] = _posterior(labels[rows], probabilities[rows])
    return found


def _posterior(labels: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.isotonic import IsotonicRegression

    n, classes = probabilities.shape
    is_given = np.zeros((n, classes), bool)
    is_given[np.arange(n), labels] = True
    given, others = probabilities[is_given], probabilities[~is_given]
    share = _share_of_errors(given, others)
    # of labels as they are and wrong ones in equal number: P(as they are | score) / P(wrong one | score) is f / f1
    kind = np.concatenate([np.ones(n), np.zeros(len(others))])
    weights = np.concatenate([np.ones(n), np.full(len(others), 1 / (classes - 1))])
    as_given = IsotonicRegression().fit(np.concatenate([given, others]), kind, sample_weight=weights).predict(given)
    ratio = (1 - as_given) / np.maximum(as_given, 1e-12)
    return np.asarray(np.minimum(share * ratio, 1.0), np.float64)


def _share_of_errors(given: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Estimated share of wrong labels, from the scores of the labels as they are and of those that rows do not have."""
    scores = np.sort(given)[min(_LEAST_ROWS, len(given)) - 1 :]
    lower = np.searchsorted(np.sort(given), scores, side="right") / len(given)
    lower_others = np.searchsorted(np.sort(others), scores, side="right") / len(others)
    there = lower_others > 0
    return float(min((lower[there] / lower_others[there]).min(initial=1.0), 1.0))


def expected_errors(error_probability: NDArray[np.float64]) -> tuple[ExpectedErrors, ...]:
    """Wrong labels expected among the first 50, 100, 300 and all rows of a ranking, given each one's probability to be wrong."""
    ranks = [
        *(rank for rank in _RANKS if rank < len(error_probability)),
        *([len(error_probability)] if len(error_probability) else []),
    ]
    return tuple(ExpectedErrors(rank, float(error_probability[:rank].sum())) for rank in ranks)


def worth_reading(error_probability: NDArray[np.float64], least_share: float = WORTH_READING) -> int:
    """How many of the first rows of a ranking, the likeliest errors first, have at least this probability to be wrong."""
    below = np.flatnonzero(error_probability < least_share)
    return int(below[0]) if len(below) else len(error_probability)
