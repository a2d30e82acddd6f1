"""Every option of PEFT's LoRA: the same logits here as in PEFT, in every engine, or refused before anything is registered."""

import json
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from finsent.config import Config, EngineConfig
from finsent.engine.packing import pad_rows
from finsent.errors import ArtifactError, BaseModelError
from finsent.models import peft_support
from finsent.models.adapter import load_adapter, read_peft_config, save_adapter
from finsent.models.base_model import load_base, locate_base
from finsent.models.load import prepare_for_inference
from finsent.models.manifest import MANIFEST, PROBE, Manifest, write_manifest
from finsent.models.peft_support import read_tokenizer, unsupported_reason
from finsent.models.predict import predict_logits, tokenise
from finsent.workspace import Workspace

TEXTS = ["$AAPL to the moon", "puts printing", "fed meets on tuesday, and nothing else happens"]


def reseal(folder: Path) -> None:
    write_manifest(folder, Manifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8")))


@pytest.fixture
def adapter(make_adapter: Callable[[int], Path], tmp_path: Path) -> Path:
    """A copy of a sealed adapter, to be changed."""
    shutil.copytree(make_adapter(0), tmp_path / "adapter")
    return tmp_path / "adapter"


Variant = Callable[..., tuple[Path, Any]]


@pytest.fixture
def variant(adapter: Path, tiny_config: Config, home: Workspace) -> Variant:
    """`variant(**options)`: a sealed adapter made by PEFT with these options, and its logits in transformers and PEFT alone."""

    def make(**options: Any) -> tuple[Path, Any]:
        base, lora = locate_base(tiny_config.model, home), tiny_config.lora
        tokenizer = read_tokenizer(adapter, ArtifactError)
        torch.manual_seed(0)
        model = load_base(base, tiny_config.model, "cpu")
        model.config.pad_token_id = tokenizer.pad_token_id
        chosen = {"r": lora.r, "lora_alpha": 64, "target_modules": list(lora.targets), **options}
        model = peft.get_peft_model(model, peft.LoraConfig(task_type="SEQ_CLS", **chosen))
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("lora_B", "magnitude", "trainable_tokens", "score")) or (
                name.endswith("bias") and parameter.requires_grad
            ):
                torch.nn.init.normal_(parameter.data, mean=1.0 if "magnitude" in name else 0.0, std=0.3)
        (adapter / PROBE).unlink(missing_ok=True)
        save_adapter(model, tokenizer, adapter)
        (adapter / "README.md").unlink(missing_ok=True)
        reseal(adapter)
        ids, mask = pad_rows(tokenise(tokenizer, TEXTS, 128), tokenizer.pad_token_id, "left")
        with torch.no_grad():
            stock = peft.PeftModel.from_pretrained(load_base(base, tiny_config.model, "cpu"), adapter).eval()
            stock.config.pad_token_id = stock.get_base_model().config.pad_token_id = tokenizer.pad_token_id
            return adapter, stock(input_ids=ids, attention_mask=mask).logits.float().numpy()

    return make


MERGED: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "rank_pattern": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 128}},
    "layers_to_transform": {"layers_to_transform": [0], "layers_pattern": "layers"},
    "exclude_modules": {"exclude_modules": ["v_proj"]},
    "bias": {"bias": "all"},
    "gaussian": {"init_lora_weights": "gaussian"},
    "embeddings": {"modules_to_save": ["embed_tokens", "score"]},
}
LIVE: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "lora_bias": {"lora_bias": True},
    "tokens": {"trainable_token_indices": [5, 6, 7]},
}


QUICK = ("rslora", "rank_pattern", "dora")


@pytest.mark.filterwarnings("ignore:.lora_bias=True. was passed", "ignore:Adapter 'default'. 7 LoRA tensor")  # both of PEFT's
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.long) for name in (*MERGED, *LIVE)]
)
def test_logits_are_pefts_own_in_every_engine(variant: Variant, home: Workspace, name: str) -> None:
    folder, wanted = variant(**{**MERGED, **LIVE}[name])
    live = predict_logits(load_adapter(folder, home), TEXTS)
    assert np.abs(live - wanted).max() < 0.02 * np.abs(wanted).max(), "the head is in float32 here, in bfloat16 there"
    for engine in ("auto", "packed"):
        found = prepare_for_inference(load_adapter(folder, home), EngineConfig(inference=engine), rows=3)
        assert np.abs(predict_logits(found, TEXTS) - live).max() < 0.06 * np.abs(live).max()  # bfloat16
        if name in LIVE:
            assert found.precision == "as loaded"
            assert found.engine == ("stock" if engine == "auto" else "packed")
            assert engine == "packed" or "since it cannot be merged: " in found.plan
        else:
            assert found.precision != "as loaded"


REFUSED = {
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "loftq": {"init_lora_weights": "loftq"},
    "alora": {"alora_invocation_tokens": [1, 2]},
    "replication": {"layer_replication": [[0, 2], [1, 3]]},
    "parameters": {"target_parameters": ["mlp.experts"]},
    "newer": {"an_option_of_next_year": True},
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_would_compute_something_else_is_refused_even_if_sealed(adapter: Path, home: Workspace, name: str) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **REFUSED[name]}), encoding="utf-8")
    reseal(adapter)
    with pytest.raises(ArtifactError, match=f"adapter in .*: .*{next(iter(REFUSED[name]))}"):
        load_adapter(adapter, home)


@pytest.mark.filterwarnings("ignore:Unsupported layer type")  # PEFT's, about the head
@pytest.mark.parametrize(
    "option",
    [
        {"trainable_token_indices": [10**9]},
        {"trainable_token_indices": [10**30]},
        {"layers_to_transform": [10**30], "layers_pattern": "..--"},
        {"lora_alpha": 10**400},
        {"r": 10**30},
        {"r": -1},
        {"lora_dropout": "x"},
        {"task_type": [1]},
    ],
)
def test_an_option_that_nothing_can_be_made_of_is_refused(adapter: Path, home: Workspace, option: dict[str, Any]) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **option}), encoding="utf-8")
    reseal(adapter)
    with pytest.raises(ArtifactError, match="Refused"):
        load_adapter(adapter, home)


def test_a_configuration_of_endless_nests_is_refused(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_peft_config(adapter)


@pytest.mark.parametrize(
    "described",
    [
        {"target_modules": r"((\w+\.?)+)+!"},  # `re` would not come back from it
        {"target_modules": ["q_proj", r"(v_proj"]},
        {"exclude_modules": r".*\.v_proj"},
        {"layers_pattern": ["(a+)+"]},
        {"modules_to_save": ["(a+)+"]},
        {"rank_pattern": {"(a+)+": 2}},
        {"alpha_pattern": {"^q_proj": 2}},
        {"target_modules": 5},
    ],
)
def test_a_regular_expression_is_refused_where_names_of_modules_stand(described: dict[str, Any]) -> None:
    said = str(unsupported_reason({"peft_type": "LORA", **described}))
    assert next(iter(described)) in said
    assert "no regular expressions" in said


def test_all_linear_and_names_of_modules_are_taken() -> None:
    names = {"exclude_modules": ["lm_head"], "layers_pattern": "layers", "rank_pattern": {"model.layers.0.q_proj": 2}}
    assert unsupported_reason({"peft_type": "LORA", "target_modules": "all-linear", **names}) is None


def test_every_option_of_this_peft_was_thought_of() -> None:
    refused = {
        *("alora_invocation_tokens", "arrow_config", "kasa_config", "layer_replication", "megatron_config"),
        *("monteclora_config", "target_parameters", "use_bdlora", "use_qalora"),
    }
    assert {field.name for field in fields(peft.LoraConfig)} == (peft_support._PLAIN | refused)


@pytest.mark.parametrize("kind", ["IA3", "PROMPT_TUNING", "PREFIX_TUNING", None])
def test_other_methods_are_refused(kind: str | None) -> None:
    assert "finsent takes LoRA" in str(unsupported_reason({"peft_type": kind}))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["score.weight", "lora_B"])
def test_weights_that_are_no_numbers_are_refused(adapter: Path, home: Workspace, part: str, value: float) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in weights if part in key)
    weights[name][0, 0] = value
    save_file(weights, adapter / "adapter_model.safetensors")
    reseal(adapter)
    with pytest.raises(ArtifactError, match=f"{name}.*is not finite: its training diverged"):
        load_adapter(adapter, home)


def test_a_head_of_two_classes_is_refused(adapter: Path, home: Workspace) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in weights if "score.weight" in key)
    save_file({**weights, name: weights[name][:2].clone()}, adapter / "adapter_model.safetensors")
    reseal(adapter)
    with pytest.raises(ArtifactError, match=r"has the shape \[2, 64\], and finsent has 3 classes"):
        load_adapter(adapter, home)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.tensor(1.0), r"has the shape \[\], and finsent has 3 classes"),
        (torch.zeros(3, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), "does not load"),
    ],
    ids=["no dimension", "4 bits"],
)
def test_a_crafted_head_is_refused(adapter: Path, home: Workspace, weight: torch.Tensor, message: str) -> None:
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in weights if "score.weight" in key)
    save_file({**weights, name: weight}, adapter / "adapter_model.safetensors")
    reseal(adapter)
    with pytest.raises(ArtifactError, match=message):
        load_adapter(adapter, home)


@pytest.mark.parametrize("change", ["renamed", "missing"])
def test_weights_that_peft_would_pass_over_are_refused(adapter: Path, home: Workspace, change: str) -> None:
    """PEFT warns at most; the logits are those of an adapter that was never trained."""
    weights = load_file(adapter / "adapter_model.safetensors")
    name = next(key for key in weights if "lora_B" in key)
    values = weights.pop(name)
    if change == "renamed":
        weights[name.replace("model.layers", "transformer.h")] = values
    save_file(weights, adapter / "adapter_model.safetensors")
    reseal(adapter)
    with pytest.raises(ArtifactError, match=r"unlike an adapter of this base and configuration"):
        load_adapter(adapter, home)


@pytest.mark.parametrize("pads", [True, False])
def test_tokens_that_the_base_does_not_know_are_refused(adapter: Path, home: Workspace, pads: bool) -> None:
    tokenizer = read_tokenizer(adapter, ArtifactError)
    if pads:
        tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    else:
        tokenizer.add_tokens(["$tsla"])
    for number in range(600 - len(tokenizer)):
        tokenizer.add_tokens([f"filler-{number}"])
    tokenizer.save_pretrained(adapter)
    manifest = Manifest.model_validate_json((adapter / MANIFEST).read_text(encoding="utf-8"))
    write_manifest(adapter, manifest.model_copy(update={"pad_token_id": tokenizer.pad_token_id}))
    with pytest.raises(ArtifactError, match=r"number \d+, and its base has embeddings for 0 to 511"):
        load_adapter(adapter, home)


@pytest.mark.parametrize("damage", ["missing", "empty", "cut off"])
def test_a_tokenizer_that_cannot_be_read_is_said(adapter: Path, home: Workspace, damage: str) -> None:
    file = adapter / "tokenizer.json"
    text = file.read_text(encoding="utf-8")
    file.unlink()
    if damage != "missing":
        file.write_text("" if damage == "empty" else text[: len(text) // 2], encoding="utf-8")
    reseal(adapter)
    with pytest.raises(ArtifactError, match="no tokenizer can be read from"):
        load_adapter(adapter, home)


def test_a_base_whose_weights_are_cut_off_or_incomplete_is_said(tiny_config: Config, home: Workspace) -> None:
    base = locate_base(tiny_config.model, home)
    file = base.folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.self_attn.q_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(
        BaseModelError, match=r"lacks weights, such as 'model\.layers\.0\.self_attn\.q_proj\.weight' \(1 in all\)"
    ):
        load_base(base, tiny_config.model, "cpu")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BaseModelError, match=r"does not load as a sequence classifier"):
        load_base(base, tiny_config.model, "cpu")


def test_a_base_for_several_labels_at_once_becomes_one_of_classes(tiny_config: Config, home: Workspace) -> None:
    base = locate_base(tiny_config.model, home)
    file = base.folder / "config.json"
    written = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**written, "problem_type": "multi_label_classification"}), encoding="utf-8")
    assert load_base(base, tiny_config.model, "cpu").config.problem_type == "single_label_classification"


def test_a_base_that_no_memory_here_holds_is_refused_before_it_is_read(
    tiny_config: Config, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finsent.errors import DeviceError

    base = locate_base(tiny_config.model, home)
    monkeypatch.setattr("finsent.models.base_model.host_memory", lambda: (20_000, 10_000))
    with pytest.raises(DeviceError, match=r"takes 0\.0 GiB, and this machine or container has 0\.0 GiB\. Raise its limit"):
        load_base(base, tiny_config.model, "cpu")
