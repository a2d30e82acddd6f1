"""What the metric modules share: label ids in, plain numbers out, kept in memory."""

import tempfile
from pathlib import Path
from typing import Any

# one import a line: `evaluate` parses the imports of modules and knows no other form
import datasets
import evaluate


class LabelMetric(evaluate.Metric):
    """A metric of label ids. Subclasses give `DESCRIPTION` and `_compute`."""

    DESCRIPTION = ""

    def __init__(self) -> None:
        """Keep rows in memory; `evaluate` makes a folder for them all the same, so give it one and take it away."""
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
