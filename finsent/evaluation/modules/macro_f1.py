"""F1 averaged over the three classes, each counting the same."""

from typing import Any

from sklearn.metrics import f1_score

from finsent.evaluation.modules.base import LabelMetric
from finsent.labels import LABELS


class MacroF1(LabelMetric):
    """`{"macro_f1": float}`; a class without rows and predictions counts 0 and is not left out."""

    DESCRIPTION = "Unweighted mean of the F1 of all three classes."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        ids = list(range(len(LABELS)))
        return {"macro_f1": float(f1_score(references, predictions, labels=ids, average="macro", zero_division=0))}
