"""What a registered version answers through `mlflow.pyfunc.load_model` and, batch by batch, in a Spark UDF."""

from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from finsent.errors import FinsentError
from finsent.labels import LABELS

A, B = "$AAPL to the moon", "selling all my $TSLA, it will crash"


def in_spark(model: Any, *batch: pd.Series | pd.DataFrame) -> pd.DataFrame:
    """As `_predict_row_batch` of `mlflow.pyfunc.spark_udf` calls a model, with the result type `struct` (mlflow 3.17)."""
    if len(batch) == 1 and isinstance(batch[0], pd.DataFrame):
        frame = batch[0]
    else:
        names = model.metadata.get_input_schema().input_names()
        frame = pd.DataFrame(dict(zip(names, batch, strict=False)), columns=names)
    return pd.DataFrame([row.model_dump() for row in model.predict(frame)])


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_each_form_is_answered_row_for_row(mlflow_home: Any, new_version: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    version = new_version()
    monkeypatch.setenv("FINSENT_HOME", str(mlflow_home.root))
    mlflow.set_tracking_uri(mlflow_home.tracking_uri)
    model = mlflow.pyfunc.load_model(f"models:/finsent/{version}")
    first, second = (row.label for row in model.predict([A, B]))
    assert {first, second} <= set(LABELS)

    both: dict[str, Any] = {
        "a tuple": (A, B),
        "an array": np.array([A, B]),
        "a column of an array": np.array([[A], [B]]),
        "a series": pd.Series([A, B], name="tweet", index=[4, 4]),
        "a frame": pd.DataFrame({"text": [A, B]}, index=[7, 9]),
        "a column among others": pd.DataFrame({"id": ["1", "2"], "text": [A, B]}),
        "a lone column": pd.DataFrame({"tweet": pd.Categorical([A, B])}),
        "a dictionary": {"id": [1, 2], "text": np.array([A, B])},
        "rows": [{"text": A}, {"text": B, "id": 2}],
    }
    for name, given in both.items():
        answers = model.predict(given)
        assert [(row.label, row.version, row.reason) for row in answers] == [(first, "1", None), (second, "1", None)], name
    missing: dict[str, Any] = {
        "a list": [A, None],
        "an array": np.array([A, None], dtype=object),
        "a frame": pd.DataFrame({"text": pd.array([A, None], dtype="string")}),
        "a frame with not a number": pd.DataFrame({"text": [A, float("nan")]}),
    }
    for name, given in missing.items():
        assert [(row.label, row.reason) for row in model.predict(given)] == [(first, None), (None, "empty: no value")], name
    assert model.predict(A)[0].label == first
    assert model.predict([]) == model.predict(pd.DataFrame({"text": []})) == []
    for given, reason in (
        (None, "the input is null"),
        ({A}, "the input is of the type set"),
        (np.array([["1", A]]), "several without names"),
        (pd.DataFrame({"id": ["1"], "tweet": [A]}), "must be named 'text'"),
        (pd.DataFrame([["1", A]], columns=["text", "text"]), "names a column twice"),
    ):
        with pytest.raises(MlflowException, match=reason):
            model.predict(given)

    lone = in_spark(model, pd.Series([A, "", B], name="tweet"))
    assert lone["label"].astype(object).where(lone["label"].notna(), None).tolist() == [first, None, second]
    assert lone.columns.tolist() == ["label", "confidence", "abstained", "probabilities", "version", "reason"]
    declared = model.metadata.get_output_schema().inputs[0].type
    assert {field.name for field in declared.properties} == set(lone.columns)
    assert in_spark(model, pd.DataFrame({"id": ["1", "2"], "text": [A, B]}))["label"].tolist() == [first, second]

    def failing(*_: object, **__: object) -> None:
        raise FinsentError("no finite logits")

    monkeypatch.setattr("finsent.models.predict.predict_rows", failing)
    with pytest.raises(MlflowException, match="not answered: no finite logits") as failed:
        model.predict([A])
    assert failed.value.get_http_status_code() == 500
