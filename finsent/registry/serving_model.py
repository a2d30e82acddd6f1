"""The script behind every registered version ("models from code"): MLflow runs it, then calls load_context and predict.

It serves with `mlflow models serve -m models:/finsent@champion --env-manager local` and answers
POST /invocations {"inputs": ["$AAPL to the moon", ...]} with label, confidence and probabilities of each text, and whether the
version abstains, since it is less confident than its own threshold.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel


class ServedPrediction(BaseModel):
    """The answer for one text. A typed one, since MLflow makes the version's signature of it."""

    label: str
    confidence: float
    abstained: bool
    probabilities: dict[str, float]


class SentimentModel(PythonModel):  # type: ignore[misc, unused-ignore]
    """An adapter on its base, calibrated."""

    def load_context(self, context: Any) -> None:
        """Load the adapter that this version holds; the base comes from the Hub's cache, or is built where finsent's home is."""
        from finsent.models.adapter import load_adapter
        from finsent.workspace import Workspace, resolve_workspace

        if os.environ.get("FINSENT_HOME"):
            home = resolve_workspace()
        else:
            root = Path(tempfile.mkdtemp(prefix="finsent-serving-"))
            atexit.register(shutil.rmtree, root, ignore_errors=True)
            home = Workspace(root=root, tables_url=str(root / "tables"), tracking_uri="")
        self.loaded = load_adapter(Path(context.artifacts["adapter"]), home)

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[ServedPrediction]:  # noqa: ARG002
        """Label, calibrated confidence and probability of each class, one answer to each text."""
        from finsent.models.manifest import abstain_threshold
        from finsent.models.predict import predict_logits, probabilities

        labels, threshold = self.loaded.manifest.labels, abstain_threshold(self.loaded.manifest)
        table = probabilities(predict_logits(self.loaded, model_input), self.loaded.manifest.temperature)
        return [
            ServedPrediction(
                label=labels[int(row.argmax())],
                confidence=float(row.max()),
                abstained=bool(row.max() < threshold),
                probabilities=dict(zip(labels, row.tolist(), strict=True)),
            )
            for row in table
        ]


set_model(SentimentModel())
