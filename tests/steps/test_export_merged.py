"""A merged checkpoint: an ordinary model for whoever loads it, near to the adapter, sealed, silent about this machine."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from finsent.errors import ArtifactError, InputError
from finsent.labels import ID2LABEL
from finsent.models.adapter import load_adapter
from finsent.models.import_export import PROBE_TEXTS
from finsent.models.manifest import MANIFEST, file_sha256
from finsent.models.merged import verify_merged
from finsent.models.predict import predict_logits
from finsent.steps.context import make_context
from finsent.steps.import_export import export_merged, import_adapter
from finsent.steps.predict import predict

pytestmark = pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading


def logits_of(folder: Path, **how: Any) -> np.ndarray:
    model = AutoModelForSequenceClassification.from_pretrained(folder, **how).eval()
    inputs = AutoTokenizer.from_pretrained(folder)(list(PROBE_TEXTS), return_tensors="pt", padding=True, truncation=True)
    with torch.inference_mode():
        return model(**inputs).logits.float().numpy()


def test_it_loads_by_itself_with_the_labels_and_logits_of_the_version(
    on_llama: Callable[..., Any], llama_base: Path, tmp_path: Path
) -> None:
    at, folder = on_llama(), tmp_path / "merged"
    result = export_merged(make_context(at.config, at.home), folder, version=at.version)
    live = predict_logits(load_adapter(at.adapter, at.home), PROBE_TEXTS)
    for how in ({}, {"dtype": torch.float32}):  # as its config says, and with the head as it was trained
        found = logits_of(folder, **how)
        assert np.sqrt(np.square(found - live).mean()) < 3e-2 * live.std()
        assert (found.argmax(axis=1) == live.argmax(axis=1)).all()
    assert result.logit_error < 3e-2
    assert result.label_agreement == 1.0
    classify = pipeline("text-classification", str(folder), device="cpu")
    said = [row["label"] for row in classify(list(PROBE_TEXTS), truncation=True)]
    assert said == [row.label for row in predict(make_context(at.config, at.home), PROBE_TEXTS, version=at.version).predictions]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["id2label"] == {str(index): label for index, label in ID2LABEL.items()}
    assert config["label2id"] == {label: index for index, label in ID2LABEL.items()}
    assert (config["pad_token_id"], config["dtype"]) == (1, "bfloat16")
    assert "quantization_config" not in config
    with safe_open(folder / "model.safetensors", "pt") as saved:
        types = {name: saved.get_tensor(name).dtype for name in saved.keys()}  # noqa: SIM118 - no mapping
    assert types.pop("score.weight") == torch.float32
    assert set(types.values()) == {torch.bfloat16}


def test_it_is_sealed_says_how_it_came_to_be_and_tells_of_no_folder(
    on_llama: Callable[..., Any], llama_base: Path, tmp_path: Path
) -> None:
    at, folder = on_llama(), tmp_path / "merged"
    export_merged(make_context(at.config, at.home), folder, version=at.version)
    manifest = verify_merged(folder)
    assert manifest.base_name == "llama"
    assert manifest.adapter_manifest_sha256 == file_sha256(at.adapter / MANIFEST)
    assert set(manifest.files) == {path.name for path in folder.iterdir()} - {MANIFEST}
    card = (folder / "README.md").read_text(encoding="utf-8")
    for line in ("library_name: transformers", "rounded once to bfloat16", "stored in float32", "100% of the labels are equal"):
        assert line in card
    for path in folder.iterdir():
        content = path.read_bytes()
        for told in (llama_base.parent, at.home.root, tmp_path):
            assert str(told).encode() not in content, path.name
    with pytest.raises(InputError, match="is a whole model"):
        import_adapter(make_context(at.config, at.home), folder)
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"'config\.json'.*is not as its manifest lists it"):
        verify_merged(folder)


def test_precision_is_chosen_and_what_strays_too_far_is_refused(on_llama: Callable[..., Any], tmp_path: Path) -> None:
    at = on_llama()
    exact = export_merged(make_context(at.config, at.home), tmp_path / "exact", version=at.version, precision="float32")
    assert AutoModelForSequenceClassification.from_pretrained(tmp_path / "exact").dtype == torch.float32
    assert exact.logit_error < 3e-2
    strict = at.config.model_copy(update={"engine": at.config.engine.model_copy(update={"max_logit_error": 1e-6})})
    with pytest.raises(ArtifactError, match=r"engine\.max_logit_error is 1e-06.*Refused"):
        export_merged(make_context(strict, at.home), tmp_path / "strict", version=at.version)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("home")) == ["exact"]
    with pytest.raises(InputError, match="not an empty folder"):
        export_merged(make_context(at.config, at.home), tmp_path / "exact", version=at.version)


def test_the_embedded_base_is_merged_too(
    mlflow_home: Any, tiny_config: Any, make_adapter: Callable[[int], Path], tmp_path: Path
) -> None:
    version = import_adapter(make_context(tiny_config, mlflow_home), make_adapter(0)).model_version
    result = export_merged(make_context(tiny_config, mlflow_home), tmp_path / "merged", version=version)
    assert result.logit_error < 3e-2
    assert verify_merged(tmp_path / "merged").base_name == "embedded"
    assert "finsent's embedded base" in (tmp_path / "merged" / "README.md").read_text(encoding="utf-8")
