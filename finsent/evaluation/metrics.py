"""Scores of predictions against labels, computed by `evaluate` with metric modules of our own."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsent.evaluation.evidence import MetricsRecord
from finsent.evaluation.statistics import confusion_matrix


def compute_metrics(labels: NDArray[np.int64], predictions: NDArray[np.int64]) -> MetricsRecord:
    """Score label ids [N] against label ids [N].

    Raises:
        InputError: no rows, unequal lengths, or ids that are no label.
    """
    confusion_matrix(labels, predictions)  # its checks; `evaluate` would fail later and less clearly
    from finsent.evaluation.metric_modules import Accuracy, Confusion, MacroF1, Mcc, PerClass

    scores: Any = {}
    for module in (Accuracy, MacroF1, Mcc, PerClass, Confusion):
        scores.update(module().compute(predictions=predictions, references=labels))
    return MetricsRecord(
        n=len(labels),
        accuracy=scores["accuracy"],
        macro_f1=scores["macro_f1"],
        mcc=scores["mcc"],
        per_class=scores["per_class"],
        confusion=scores["confusion"],
    )
