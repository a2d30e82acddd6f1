import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BitsAndBytesConfig

from finsent.config import Config
from finsent.errors import ArtifactError, ConfigError
from finsent.models.adapter import add_lora, hash_weights, head_sha256, load_adapter
from finsent.models.base_model import load_base, locate_base
from finsent.models.manifest import MANIFEST, PROBE, Manifest, write_manifest
from finsent.models.predict import predict_logits
from finsent.workspace import Workspace


def test_a_fresh_load_gives_the_recorded_logits_bit_by_bit(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    folder = make_adapter(0)
    probe = json.loads((folder / PROBE).read_text())
    logits = predict_logits(load_adapter(folder, home), probe["texts"])
    assert np.array_equal(logits, np.array(probe["logits"], dtype=np.float32))


def test_the_published_loading_snippet_works_unchanged(
    make_adapter: Callable[[int], Path], tiny_config: Config, home: Workspace
) -> None:
    """What a model card tells users to do, on a folder of ours: stock transformers and PEFT, no finsent."""
    adapter_path = str(make_adapter(0))
    base_path = locate_base(tiny_config.model, home).folder

    bnb_config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16
    )
    base_model = AutoModelForSequenceClassification.from_pretrained(base_path, num_labels=3, quantization_config=bnb_config)
    model = PeftModel.from_pretrained(base_model, adapter_path)
    tokenizer = AutoTokenizer.from_pretrained(adapter_path)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.eval()
    texts = ["$AAPL to the moon", "puts printing", "fed meets on tuesday"]
    inputs = tokenizer(texts, return_tensors="pt", truncation=True, padding=True, max_length=128)
    with torch.no_grad():
        theirs = model(**inputs).logits.float().numpy()
    ours = predict_logits(load_adapter(make_adapter(0), home), texts)
    assert np.abs(theirs - ours).max() < 0.05  # bfloat16 noise of the stock path's CPU kernels
    assert (theirs.argmax(1) == ours.argmax(1)).all()


def test_nothing_in_the_folder_is_pickled_or_tells_of_this_machine(make_adapter: Callable[[int], Path]) -> None:
    folder = make_adapter(0)
    assert {path.suffix for path in folder.iterdir()} <= {".safetensors", ".json"}
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "embedded"
    for path in folder.glob("*.json"):
        assert str(folder.parent) not in path.read_text()


def test_the_head_is_in_the_file_in_full_precision(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    folder = make_adapter(0)
    saved = load_file(folder / "adapter_model.safetensors")["base_model.model.score.weight"]
    live = load_adapter(folder, home).model.base_model.model.score.modules_to_save["default"].weight
    assert saved.dtype == live.dtype == torch.float32
    assert torch.equal(saved, live)


def test_a_body_in_bfloat16_gets_on_with_a_head_in_float32(home: Workspace, tiny_config: Config) -> None:
    """As Llama-3.1-8B comes: its embeddings are bfloat16 and not trained, so nothing on the way is float32."""
    lora = tiny_config.lora.model_copy(update={"modules_to_save": ()})
    model = add_lora(load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu"), lora, "embedded").eval()
    ids = torch.randint(3, 500, (2, 9))
    assert model.base_model.model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert model(input_ids=ids[:1], attention_mask=torch.ones_like(ids[:1])).logits.dtype == torch.float32


def reseal(folder: Path) -> None:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_text())
    write_manifest(folder, manifest)


def test_an_adapter_without_its_head_is_refused_even_if_sealed(
    make_adapter: Callable[[int], Path], home: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(make_adapter(0), folder)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: t for name, t in tensors.items() if "score" not in name}, folder / "adapter_model.safetensors")
    reseal(folder)
    with pytest.raises(ArtifactError, match="score"):
        load_adapter(folder, home)


def test_another_base_is_refused(make_adapter: Callable[[int], Path], home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(make_adapter(0), folder)
    content = json.loads((folder / MANIFEST).read_text())
    content["embedded"]["seed"] = 7
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="not the one the adapter was trained on"):
        load_adapter(folder, home)


def test_a_truncated_weight_file_is_refused_even_if_sealed(
    make_adapter: Callable[[int], Path], home: Workspace, tmp_path: Path
) -> None:
    folder = tmp_path / "adapter"
    shutil.copytree(make_adapter(0), folder)
    weights = folder / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    reseal(folder)
    with pytest.raises(ArtifactError, match="does not load"):
        load_adapter(folder, home)


def test_an_unknown_target_is_named(home: Workspace, tiny_config: Config) -> None:
    model = load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu")
    with pytest.raises(ConfigError, match="'query'"):
        add_lora(model, tiny_config.lora.model_copy(update={"targets": ("query",)}), "embedded")


HEAD_WEIGHT = "base_model.model.score.weight"


def test_head_hash_depends_on_values_shapes_and_names() -> None:
    head = [(HEAD_WEIGHT, torch.ones(3, 4))]
    assert hash_weights(head) == hash_weights([(HEAD_WEIGHT, torch.ones(3, 4, dtype=torch.bfloat16))])
    assert hash_weights(head) != hash_weights([(HEAD_WEIGHT, torch.full((3, 4), 1.001))])
    assert hash_weights(head) != hash_weights([(HEAD_WEIGHT, torch.ones(4, 3))])
    assert hash_weights(head) != hash_weights([("other", head[0][1])])
    with pytest.raises(ArtifactError, match="no trained classification head"):
        hash_weights([])


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_hash_of_a_loaded_model_is_that_of_the_saved_head(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    weights = load_file(make_adapter(0) / "adapter_model.safetensors")
    loaded = load_adapter(make_adapter(0), home)
    assert head_sha256(loaded.model) == hash_weights((name, weights[name]) for name in weights if "score" in name)
    with torch.no_grad():
        next(p for n, p in loaded.model.named_parameters() if "score.modules_to_save" in n).add_(1e-3)
    assert head_sha256(loaded.model) != hash_weights((name, weights[name]) for name in weights if "score" in name)


def test_a_model_without_a_trained_head_is_refused() -> None:
    with pytest.raises(ArtifactError, match="cannot classify"):
        head_sha256(torch.nn.Linear(2, 2))
