"""Dense weights against the layers that they replace."""

import copy
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftLora
from peft import PeftModelForSequenceClassification, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
)

from finsent.config import Config, LoraConfig, ModelConfig, Quantization
from finsent.engine.merge import dequantize_base, merge_adapter, merged_weight, unnest_absmax
from finsent.errors import ArtifactError
from finsent.models.adapter import add_lora, load_adapter, save_adapter
from finsent.models.base_model import load_base, locate_base
from finsent.models.embedded_base import train_tokenizer
from finsent.models.quantization import disable_cpu_repacking
from finsent.workspace import Workspace

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
IDS = torch.randint(3, 500, (16, 12), generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Llama in the Hub's layout; biases on attention, so that they are seen to be kept."""
    config = LlamaConfig(
        hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, vocab_size=512,
        attention_bias=True, pad_token_id=0, num_labels=3, initializer_range=0.09,
    )  # fmt: skip
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(config)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter.data, std=0.1)
    folder = tmp_path_factory.mktemp("merging") / "llama"
    model.save_pretrained(folder)
    return folder


def base_of(llama: Path, home: Workspace, kind: str = "nf4", compute: str = "bfloat16") -> Any:
    config = ModelConfig(name=str(llama), quantization=Quantization(kind=kind, compute_dtype=compute))
    return load_base(locate_base(config, home), config, "cpu")


def with_adapter(base: Any, std: float = 0.02, **changes: Any) -> Any:
    torch.manual_seed(1)
    model = add_lora(base, LoraConfig(targets=ALL, **changes), "llama")
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=std)
    return model.eval()


def logits_of(model: Any) -> np.ndarray:
    with torch.inference_mode():
        return model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits.float().numpy()


def distance(found: np.ndarray, reference: np.ndarray) -> float:
    """Root mean square of the difference in standard deviations of the reference."""
    return float(np.sqrt(np.square(found - reference).mean()) / reference.std())


def linears(model: Any) -> dict[str, Any]:
    return {name: module for name, module in model.named_modules() if type(module).__name__ == "Linear4bit"}


@pytest.mark.parametrize("kind", ["nf4", "none"])
def test_merged_in_float32_gives_the_logits_of_the_live_adapter(llama: Path, home: Workspace, kind: str) -> None:
    model = with_adapter(base_of(llama, home, kind, "float32"), modules_to_save=("embed_tokens",))
    live = logits_of(model)
    with model.disable_adapter():
        assert distance(logits_of(model), live) > 0.05  # there is something to merge
    merged = merge_adapter(model, torch.float32)
    assert type(merged) is LlamaForSequenceClassification
    assert np.abs(logits_of(merged) - live).max() < 1e-5
    assert not any(parameter.requires_grad for parameter in merged.parameters())


def test_merged_in_bfloat16_keeps_the_adapter_that_pefts_own_merge_erases(llama: Path, home: Workspace) -> None:
    model = with_adapter(base_of(llama, home), std=0.004)  # updates of some percent of the weights, as trainings leave them
    # without rounding: that this is the live adapter's sum is the test above
    reference = logits_of(merge_adapter(copy.deepcopy(model), torch.float32))
    with model.disable_adapter():
        without = distance(logits_of(model), reference)
    live = distance(logits_of(model), reference)
    with pytest.warns(UserWarning, match="rounding errors"):
        theirs = distance(logits_of(copy.deepcopy(model).merge_and_unload()), reference)
    ours = distance(logits_of(merge_adapter(model, torch.bfloat16)), reference)
    assert theirs > 0.8 * without  # as good as no adapter
    assert ours < 2e-2
    assert ours < 0.3 * theirs
    assert ours < 1.5 * live


@pytest.mark.parametrize("kind", ["nf4", "none"])
def test_an_encoder_with_a_biased_head_is_merged_too(tmp_path: Path, home: Workspace, kind: str) -> None:
    config = BertConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=2, intermediate_size=128, vocab_size=500, num_labels=3,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    torch.manual_seed(1)
    model = add_lora(base_of(tmp_path, home, kind), LoraConfig(targets=("query", "value")), "bert").eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    live = logits_of(model)
    merged = merge_adapter(model, torch.bfloat16)
    assert distance(logits_of(merged), live) < 2e-2
    assert merged.classifier.bias.dtype == torch.float32


def test_dequantised_weights_are_what_the_quantised_layers_multiply_with(llama: Path, home: Workspace) -> None:
    quantised, dense = base_of(llama, home), dequantize_base(base_of(llama, home))
    assert not linears(dense)
    assert not hasattr(dense.config, "quantization_config")
    identity = torch.eye(256, dtype=torch.bfloat16)
    for name, layer in linears(quantised).items():
        plain = dense.get_submodule(name)
        through = torch.nn.functional.linear  # of the identity: exact products, sums of zeros
        with torch.no_grad():
            seen = layer(identity[: layer.in_features, : layer.in_features])
            mine = through(identity[: layer.in_features, : layer.in_features], plain.weight, plain.bias)
        assert torch.equal(seen, mine)
        assert torch.equal(merged_weight(layer, torch.bfloat16), plain.weight)
        assert not plain.weight.requires_grad


def test_an_adapter_trains_on_the_dequantised_base_as_on_the_quantised_one(llama: Path, home: Workspace) -> None:
    def gradients(model: Any) -> torch.Tensor:
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=IDS, attention_mask=torch.ones_like(IDS)).logits
        torch.nn.functional.cross_entropy(logits.float(), torch.arange(16) % 3).backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    quantised = with_adapter(base_of(llama, home))
    dense = with_adapter(dequantize_base(base_of(llama, home)))
    assert type(dense.get_base_model().model.layers[0].mlp.up_proj).__module__ == "peft.tuners.lora.layer"
    one, other = gradients(quantised), gradients(dense)
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9999


def test_constants_without_double_quantisation_give_equal_bits(llama: Path, home: Workspace) -> None:
    model = with_adapter(base_of(llama, home))
    before = logits_of(model)
    assert unnest_absmax(model) is model
    for layer in linears(model.get_base_model()).values():
        assert not layer.weight.quant_state.nested
    assert np.array_equal(logits_of(model), before)
    unnest_absmax(model)  # nothing left to do
    assert np.array_equal(logits_of(model), before)


def test_a_loaded_adapter_keeps_its_head_and_its_files(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    folder = make_adapter(0)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    loaded = load_adapter(folder, home)
    head = loaded.model.get_base_model().score.modules_to_save.default.weight.clone()
    live = logits_of(loaded.model)
    merged = merge_adapter(loaded.model, torch.bfloat16)
    assert merged.score.weight.dtype == torch.float32
    assert torch.equal(merged.score.weight, head)
    assert {p.dtype for name, p in merged.named_parameters() if "score" not in name} == {torch.bfloat16}
    assert merged.model.rotary_emb.inv_freq.dtype == torch.float32  # in bfloat16 positions would be off
    assert distance(logits_of(merged), live) < 2e-2
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_what_was_merged_saves_and_loads_as_an_ordinary_model(llama: Path, home: Workspace, tmp_path: Path) -> None:
    merged = merge_adapter(with_adapter(base_of(llama, home)), torch.bfloat16)
    merged.save_pretrained(tmp_path / "merged")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert not hasattr(again.config, "quantization_config")
    assert torch.equal(again.score.weight, merged.score.weight)
    assert distance(logits_of(again), logits_of(merged)) < 2e-2
    merged.to(torch.float32)  # transformers refuses that for what it takes for quantised
    assert np.abs(logits_of(again) - logits_of(merged)).max() < 1e-6


def test_an_adapter_trained_on_the_dequantised_base_is_saved_the_same(llama: Path, home: Workspace, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["up and down"] * 20, 300, 128)
    for name, base in (("four", base_of(llama, home)), ("dense", dequantize_base(base_of(llama, home)))):
        save_adapter(with_adapter(base), tokenizer, tmp_path / name)
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "four" / file).read_bytes() == (tmp_path / "dense" / file).read_bytes()


def test_replaced_layers_are_freed_at_once(llama: Path, home: Workspace) -> None:
    import gc

    model = with_adapter(base_of(llama, home))
    weights = [
        weakref.ref(layer.base_layer.weight) for layer in linears(model.get_base_model()).values() if hasattr(layer, "base_layer")
    ]
    assert len(weights) == 28
    gc.disable()
    try:
        merge_adapter(model, torch.bfloat16)
        assert [weight() for weight in weights] == [None] * 28
    finally:
        gc.enable()


def lora_on(base: Any, **changes: Any) -> Any:
    return get_peft_model(base, PeftLora(target_modules=["q_proj"], task_type="SEQ_CLS", **changes)).eval()


def test_rank_stabilised_scaling_is_followed(llama: Path, home: Workspace) -> None:
    model = lora_on(base_of(llama, home, "none", "float32"), r=16, lora_alpha=16, use_rslora=True, init_lora_weights=False)
    live = logits_of(model)
    assert np.abs(logits_of(merge_adapter(model, torch.float32)) - live).max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"use_dora": True}, "no plain LoRA but a 'DoraLinearVariant'"), ({"lora_bias": True}, "bias of its own")],
)
def test_what_is_no_plain_lora_is_refused_and_left_as_it_was(
    llama: Path, home: Workspace, changes: dict[str, Any], reason: str
) -> None:
    model = lora_on(base_of(llama, home, "none", "float32"), init_lora_weights=False, **changes)
    before = logits_of(model)
    with pytest.raises(ArtifactError, match=reason):
        merge_adapter(model, torch.bfloat16)
    assert isinstance(model, PeftModelForSequenceClassification)
    assert np.array_equal(logits_of(model), before)


def test_several_or_merged_adapters_are_refused(llama: Path, home: Workspace) -> None:
    model = lora_on(base_of(llama, home, "none", "float32"), init_lora_weights=False)
    model.add_adapter("second", PeftLora(target_modules=["q_proj"], init_lora_weights=False))
    layer = model.get_base_model().model.layers[0].self_attn.q_proj
    layer.set_adapter(["default", "second"])  # of the whole model PEFT allows one, where a head is trained
    with pytest.raises(ArtifactError, match="several adapters act on it: 'default', 'second'"):
        merged_weight(layer, torch.bfloat16)
    layer.set_adapter("default")
    layer.merge()
    with pytest.raises(ArtifactError, match="'default' is merged into it already"):
        merged_weight(layer, torch.bfloat16)


def test_a_weight_that_was_repacked_for_the_cpu_is_refused(llama: Path, home: Workspace) -> None:
    layer = next(iter(linears(base_of(llama, home)).values()))
    layer.weight.quant_state.packing_format_for_cpu = True  # what an eval forward does where the trap is not switched off
    with pytest.raises(ArtifactError, match="repacked its weight"):
        merged_weight(layer, torch.bfloat16)


def test_a_model_with_adapters_is_not_dequantised(tiny_config: Config, home: Workspace) -> None:
    model = add_lora(load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu"), tiny_config.lora, "embedded")
    disable_cpu_repacking(model)
    with pytest.raises(ArtifactError, match="carries adapters already"):
        dequantize_base(model.get_base_model())


def test_a_layer_of_another_kind_is_refused() -> None:
    with pytest.raises(ArtifactError, match="'Embedding'"):
        merged_weight(torch.nn.Embedding(4, 4), torch.bfloat16)
