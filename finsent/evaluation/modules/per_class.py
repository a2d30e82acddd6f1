"""Precision, recall, F1 and number of rows of each class."""

from typing import Any

from sklearn.metrics import precision_recall_fscore_support

from finsent.evaluation.modules.base import LabelMetric
from finsent.labels import LABELS


class PerClass(LabelMetric):
    """`{"per_class": {label: {"precision", "recall", "f1", "support"}}}`; an undefined ratio is 0."""

    DESCRIPTION = "Precision, recall and F1 of each class."

    def _compute(self, predictions: Any, references: Any) -> dict[str, dict[str, dict[str, float]]]:
        ids = list(range(len(LABELS)))
        columns = precision_recall_fscore_support(references, predictions, labels=ids, zero_division=0)
        rows = zip(LABELS, *columns, strict=True)
        return {
            "per_class": {
                label: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
                for label, precision, recall, f1, support in rows
            }
        }
