"""Counts of true against predicted class."""

from typing import Any

from sklearn.metrics import confusion_matrix

from finsent.evaluation.modules.base import LabelMetric
from finsent.labels import LABELS


class Confusion(LabelMetric):
    """`{"confusion": [[int]]}`, rows the truth and columns the prediction, in label-id order."""

    DESCRIPTION = "Rows by true and predicted class."

    def _compute(self, predictions: Any, references: Any) -> dict[str, list[list[int]]]:
        counts = confusion_matrix(references, predictions, labels=list(range(len(LABELS))))
        return {"confusion": counts.tolist()}
