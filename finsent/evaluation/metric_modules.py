"""Metrics of our own for Hugging Face `evaluate`: classes, no download, no cache. A file of its own: the import takes seconds.

Each takes label ids (0 Neutral, 1 Bullish, 2 Bearish) and computes with scikit-learn.
"""

import tempfile
from pathlib import Path
from typing import Any

# one import a line: `evaluate` parses the imports of modules and knows no other form
import datasets
import evaluate
from sklearn import metrics

from finsent.labels import LABELS

_IDS = list(range(len(LABELS)))


class LabelMetric(evaluate.Metric):
    """A metric of label ids. Subclasses give `DESCRIPTION` and `_compute`."""

    DESCRIPTION = ""

    def __init__(self) -> None:
        """Keep rows in memory. `evaluate` makes a cache folder all the same, so give it a temporary one."""
        with tempfile.TemporaryDirectory(prefix="finsent-metric-") as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder, seed=0)
        self.data_dir = str(Path(folder))

    def _info(self) -> Any:
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(
            description=self.DESCRIPTION,
            citation="",
            inputs_description="predictions and references: label ids, 0 Neutral, 1 Bullish, 2 Bearish.",
            features=features,
            format="numpy",
        )


class Accuracy(LabelMetric):
    """`{"accuracy": float}`."""

    DESCRIPTION = "Share of rows predicted correctly."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": float(metrics.accuracy_score(references, predictions))}


class MacroF1(LabelMetric):
    """`{"macro_f1": float}`; a class without rows and predictions counts 0 and is not left out."""

    DESCRIPTION = "Unweighted mean of the F1 of all three classes."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"macro_f1": float(metrics.f1_score(references, predictions, labels=_IDS, average="macro", zero_division=0))}


class Mcc(LabelMetric):
    """`{"mcc": float}`: Matthews correlation, many-class form (Gorodkin 2004); 1 perfect, 0 guessing by class frequency."""

    DESCRIPTION = "Correlation of predicted and true classes."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if len({*predictions.tolist(), *references.tolist()}) < 2:  # 0/0; scikit-learn gives 0 too, with a warning
            return {"mcc": 0.0}
        return {"mcc": float(metrics.matthews_corrcoef(references, predictions))}


class PerClass(LabelMetric):
    """`{"per_class": {label: {"precision", "recall", "f1", "support"}}}`; an undefined ratio is 0."""

    DESCRIPTION = "Precision, recall and F1 of each class."

    def _compute(self, predictions: Any, references: Any) -> dict[str, dict[str, dict[str, float]]]:
        columns = metrics.precision_recall_fscore_support(references, predictions, labels=_IDS, zero_division=0)
        return {
            "per_class": {
                label: {"precision": float(precision), "recall": float(recall), "f1": float(f1), "support": int(support)}
                for label, precision, recall, f1, support in zip(LABELS, *columns, strict=True)
            }
        }


class Confusion(LabelMetric):
    """`{"confusion": [[int]]}`, rows the truth and columns the prediction, in label-id order."""

    DESCRIPTION = "Rows by true and predicted class."

    def _compute(self, predictions: Any, references: Any) -> dict[str, list[list[int]]]:
        return {"confusion": metrics.confusion_matrix(references, predictions, labels=_IDS).tolist()}
