"""The script behind every registered version ("models from code"): MLflow runs it, then calls load_context and predict.

`finsent serve` serves the champion that the audit log knows, `mlflow models serve -m models:/finsent/3 --env-manager local` the
version of that number, as they would any of MLflow's models. It answers
POST /invocations {"inputs": ["$AAPL to the moon", ...]} with label, confidence and probabilities of each text, and whether the
version abstains, since it is less confident than its own threshold. A text that scoring would quarantine (empty, too long, half
an emoji, no text at all) gets no label and the reason; the others get their answers.
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

    label: str | None = None
    """None where the text is no row that the batch would score: `reason` says why."""
    confidence: float | None = None
    abstained: bool
    probabilities: dict[str, float]
    reason: str | None = None


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

    # a union, since MLflow checks nothing against one: whatever comes in a request is answered row by row
    def predict(
        self,
        context: Any,  # noqa: ARG002 - MLflow's signature
        model_input: list[str | float],
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[ServedPrediction]:
        """Label, calibrated confidence and probability of each class, one answer to each text, by the rules of the training."""
        from finsent.config import DataConfig
        from finsent.models.abstention import abstain_threshold
        from finsent.models.predict import predict_rows

        manifest = self.loaded.manifest
        data = {**DataConfig().model_dump(), **manifest.config.get("data", {})}
        rows = predict_rows(
            self.loaded,
            model_input,
            threshold=abstain_threshold(manifest),
            max_characters=data["max_characters"],
            repaired=data["repair_mojibake"],
            masked=data["mask_handles"],
        )
        return [ServedPrediction(**vars(row)) for row in rows]


set_model(SentimentModel())
