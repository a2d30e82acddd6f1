"""The script behind every registered version ("models from code"): MLflow runs it, then calls load_context and predict.

`finsent serve` serves the champion that the audit log knows, `mlflow models serve -m models:/finsent/3 --env-manager local` the
version of that number, as they would any of MLflow's models. POST /invocations takes MLflow's forms (`inputs`, `instances`,
`dataframe_split`, `dataframe_records`), `mlflow.pyfunc.load_model(...).predict` and `spark_udf` take frames, lists and arrays:
a list of texts, one text, or rows with a column `text`. Each text gets label, confidence, probabilities, whether the version
abstains, since it is less confident than its own threshold, and the version's number. A text that scoring would quarantine
(empty, too long, half an emoji, no text at all) gets no label and the reason; the others get their answers.
"""

import atexit
import logging
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel
from pydantic import BaseModel

_log = logging.getLogger(__name__)
_REGISTERED = "registered_model_meta"
"""File that MLflow puts beside a model that comes from a registry."""
_SCRIPT = "serving_model.py"
"""Name of this script in the folder of a version."""


class ServedPrediction(BaseModel):
    """The answer for one text; the version's signature (`finsent.registry.packaging`) has the same fields."""

    label: str | None = None
    """None where the text is no row that the batch would score: `reason` says why."""
    confidence: float | None = None
    abstained: bool
    probabilities: dict[str, float]
    version: str | None = None
    """Number of the registered version; None where the model was not loaded from a registry."""
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
        adapter = Path(context.artifacts["adapter"])
        self.version = _registered_version(adapter.parents[1])
        self.loaded = load_adapter(adapter, home)
        _answer_all_forms()

    def predict(
        self,
        context: Any,  # noqa: ARG002 - MLflow's signature
        model_input: pd.DataFrame,  # or what else `Args` says: MLflow knows a type from which it makes no signature
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[ServedPrediction]:
        """Label, calibrated confidence and probability of each class, one answer to each text, by the rules of the training.

        Args:
            context: Not used.
            model_input: A list of texts, one text, or rows with a column `text`: lists, dictionaries, arrays, series, frames.
            params: Not used.

        Raises:
            MlflowException: there are no texts in it, or the model failed. Others would be answered with their stack trace.
        """
        from finsent.errors import InputError
        from finsent.models.serving_request import request_texts

        try:
            return self._answer(request_texts(_plain(model_input)))
        except InputError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        except Exception as error:
            _log.exception("a request could not be answered")
            raise MlflowException(f"not answered: {error}", error_code=INTERNAL_ERROR) from error

    def _answer(self, values: list[object]) -> list[ServedPrediction]:
        from finsent.config import DataConfig
        from finsent.models.abstention import abstain_threshold
        from finsent.models.predict import predict_rows

        manifest = self.loaded.manifest
        data = {**DataConfig().model_dump(), **manifest.config.get("data", {})}
        rows = predict_rows(
            self.loaded,
            values,
            threshold=abstain_threshold(manifest),
            max_characters=data["max_characters"],
            repaired=data["repair_mojibake"],
            masked=data["mask_handles"],
        )
        return [ServedPrediction(**vars(row), version=self.version) for row in rows]


def _plain(given: Any) -> Any:
    """Lists, dictionaries and values in place of arrays, series and frames; None where a value is missing."""
    from finsent.errors import InputError
    from finsent.models.serving_request import TEXT

    if isinstance(given, pd.DataFrame):
        if not given.columns.is_unique:
            raise InputError("the frame names a column twice")
        return {name: _values(given[name]) for name in given.columns}
    if isinstance(given, pd.Series):
        return {TEXT: _values(given)}
    if isinstance(given, np.ndarray):
        return given.tolist()
    if isinstance(given, dict):
        return {name: _plain(values) for name, values in given.items()}
    return given


def _values(column: pd.Series) -> list[object]:
    values: list[object] = column.astype(object).where(column.notna(), None).tolist()
    return values


def _registered_version(folder: Path) -> str | None:
    try:
        return str(yaml.safe_load((folder / _REGISTERED).read_text(encoding="utf-8"))["model_version"])
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return None


def _answer_all_forms() -> None:
    """Have MLflow's server, where this is its process, hand each JSON request for a model of this kind to `read_request`.

    For models whose input is not converted it takes `inputs` alone; for others it makes arrays and frames of texts, which turn
    numbers into texts, refuse all rows for half an emoji in one, and need memory for the longest text in each row.
    """
    server = sys.modules.get("mlflow.pyfunc.scoring_server")
    original = getattr(server, "_parse_json_data", None)
    if server is None or hasattr(original, "for_texts"):
        return
    if original is None:
        _log.warning("this release of MLflow reads requests otherwise: it may take `inputs` with a list of texts alone")
        return

    def parse(data: Any, metadata: Any, input_schema: Any) -> Any:
        from finsent.errors import InputError
        from finsent.models.serving_request import TEXT, read_request

        if Path(metadata.flavors["python_function"].get("model_code_path") or "").name != _SCRIPT:  # another model
            return original(data, metadata, input_schema)
        try:
            return server.ParsedJsonInput({TEXT: read_request(data)}, None, is_unified_llm_input=False)
        except InputError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error

    parse.for_texts = True  # type: ignore[attr-defined]
    setattr(server, "_parse_json_data", parse)  # noqa: B010 - MLflow offers no other way


set_model(SentimentModel())
