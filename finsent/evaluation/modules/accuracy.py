"""Share of rows predicted right."""

from typing import Any

from sklearn.metrics import accuracy_score

from finsent.evaluation.modules.base import LabelMetric


class Accuracy(LabelMetric):
    """`{"accuracy": float}`."""

    DESCRIPTION = "Share of rows predicted right."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(accuracy_score(references, predictions))}
