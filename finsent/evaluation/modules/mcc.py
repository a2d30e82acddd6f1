"""Matthews correlation coefficient in its many-class form (Gorodkin 2004)."""

from typing import Any

from sklearn.metrics import matthews_corrcoef

from finsent.evaluation.modules.base import LabelMetric


class Mcc(LabelMetric):
    """`{"mcc": float}`: 1 perfect, 0 no better than guessing by class frequency."""

    DESCRIPTION = "Correlation of predicted and true classes."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if len({*predictions.tolist(), *references.tolist()}) < 2:  # 0/0; scikit-learn gives 0 too, with a warning
            return {"mcc": 0.0}
        return {"mcc": float(matthews_corrcoef(references, predictions))}
