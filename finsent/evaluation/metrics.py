"""Scores of predictions against labels, computed by `evaluate` with metric modules of our own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsent.evaluation.statistics import confusion_matrix


@dataclass(frozen=True)
class Metrics:
    """Scores on one set of rows."""

    n: int
    """Rows scored."""
    accuracy: float
    macro_f1: float
    """Unweighted mean of the three classes' F1."""
    mcc: float
    """Matthews correlation coefficient."""
    per_class: dict[str, dict[str, float]]
    """By class name: precision, recall, f1, support."""
    confusion: list[list[int]]
    """Rows the truth, columns the prediction, in label-id order."""


def compute_metrics(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> Metrics:
    """Score label ids [N] against label ids [N].

    Raises:
        InputError: no rows, unequal lengths, or ids that are no label.
    """
    confusion_matrix(labels, predictions)  # its checks; `evaluate` would fail later and less clearly
    from finsent.evaluation.metric_modules import Accuracy, Confusion, MacroF1, Mcc, PerClass

    scores = {}
    for module in (Accuracy, MacroF1, Mcc, PerClass, Confusion):
        scores.update(module().compute(predictions=predictions, references=labels))
    return Metrics(n=len(labels), **scores)
