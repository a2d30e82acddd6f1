from collections.abc import Callable
from typing import Any

import pytest
import torch

from finsent.engine.fused_linear import draw_dropout_bits, fusion_unsupported_reason
from finsent.engine.packed_forward import PackedModel, batch_to_device, build_packed_model, packed_logits, unwrap_peft
from finsent.engine.packing import pack_rows

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROWS = [[5, 9, 3], [7], list(range(10, 47)), [4, 4], [50, 60, 70, 80, 90, 11, 12], list(range(20, 40))]
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])
Decoder = Callable[..., Any]
Stock = Callable[..., Any]


def logits(model: PackedModel) -> Any:
    return packed_logits(model, batch_to_device(pack_rows(ROWS), "cpu"))


def trainable(model: Any) -> dict[str, Any]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_fused_projections_give_the_logits_of_separate_ones(decoder: Decoder, stock: Stock, family: str, lora: bool) -> None:
    model = decoder(family, lora=lora)
    assert fusion_unsupported_reason(unwrap_peft(model)) is None
    with torch.no_grad():
        wanted = stock(model, ROWS)
        fused = build_packed_model(model, fused=True)
        assert fused.fused is not None
        assert (logits(fused) - wanted).abs().max() <= 1e-5
        assert torch.equal(stock(model, ROWS), wanted)  # the modules kept their weights, as views


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_separate_projections(decoder: Decoder, stock: Stock, family: str) -> None:
    model = decoder(family, lora=True).train()
    torch.nn.functional.cross_entropy(stock(model, ROWS), LABELS).backward()
    wanted = {name: parameter.grad.clone() for name, parameter in trainable(model).items()}
    model.zero_grad()
    torch.nn.functional.cross_entropy(logits(build_packed_model(model, fused=True)), LABELS).backward()
    for name, parameter in trainable(model).items():
        assert wanted[name].any()
        assert (parameter.grad - wanted[name]).norm() <= 1e-5 * wanted[name].norm(), name


def test_an_updated_adapter_counts_once_it_is_brought_up_to_date(decoder: Decoder, stock: Stock) -> None:
    model = decoder("llama", lora=True)
    fused = build_packed_model(model, fused=True)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05)
        wanted = stock(model, ROWS)
        assert (logits(fused) - wanted).abs().max() > 1e-3
        fused.fused.refresh()
        assert (logits(fused) - wanted).abs().max() <= 1e-5


def test_flat_params_are_copied_as_one_and_train_as_separate_projections_do(decoder: Decoder) -> None:
    """Twenty steps; the copies of all layers' B lie at equal distances in the flat_params, so there is one copy a projection."""
    from finsent.engine.flat_params import collect_gradients, flatten_params, refresh_copies

    def train(fused: bool) -> list[float]:
        model = decoder("qwen2", lora=True).train()
        flat_params = flatten_params(model)
        packed = build_packed_model(model, fused=fused)
        if fused:
            flat_params.refresh_hooks.append(packed.fused.refresh)
            assert len(packed.fused.copies) in {7, 14}  # for each projection, or for each in two layers
        optimizer = torch.optim.SGD(flat_params.optimizer_params, lr=0.05)
        losses = []
        for _ in range(20):
            loss = torch.nn.functional.cross_entropy(logits(packed), LABELS)
            loss.backward()
            collect_gradients(flat_params)
            optimizer.step()
            flat_params.gradient.zero_()
            refresh_copies(flat_params)
            losses.append(float(loss.detach()))
        return losses

    separate = train(False)
    assert separate[-1] < 0.8 * separate[0]
    assert train(True) == pytest.approx(separate, rel=1e-4)


def test_dropout_leaves_out_its_share_and_keeps_the_mean(decoder: Decoder) -> None:
    model = decoder("llama", lora=True)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = torch.nn.Dropout(0.25)
    model.train()
    layer = build_packed_model(model, fused=True).fused.layers[0]
    qkv = layer[0]
    assert qkv.random_width == 3 * 64
    torch.manual_seed(0)
    x = torch.ones(1, 2000, 64)
    bits = draw_dropout_bits(layer, x)
    assert bits.shape[1] >= sum(linear.random_width for linear in layer)
    kept = bits[:, : qkv.random_width] >= round(0.25 * 65536) - 32768
    assert kept.float().mean() == pytest.approx(0.75, abs=0.005)
    with torch.no_grad():
        dropped = qkv(x, bits[:, : qkv.random_width])
        model.eval()
        assert qkv.random_width == 0
        assert draw_dropout_bits(layer, x) is None
        for one, whole in zip(dropped, qkv(x), strict=True):
            assert not torch.equal(one, whole)
            assert (one.mean((0, 1)) - whole[0, 0]).abs().max() < 0.05


def test_what_cannot_be_fused_says_why(decoder: Decoder) -> None:
    from peft import LoraConfig, get_peft_model

    assert "only one" in str(fusion_unsupported_reason(decoder("llama", num_hidden_layers=1)))
    some = get_peft_model(decoder("llama"), LoraConfig(r=2, target_modules=["q_proj"], task_type="SEQ_CLS"))
    assert "only some of qkv" in str(fusion_unsupported_reason(unwrap_peft(some)))
    dora = get_peft_model(
        decoder("llama"),
        LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], task_type="SEQ_CLS", use_dora=True),
    )
    assert "not plain LoRA" in str(fusion_unsupported_reason(unwrap_peft(dora)))
    with pytest.raises(ValueError, match="only some of qkv"):
        build_packed_model(some, fused=True)


def test_layers_that_differ_are_not_fused() -> None:
    """An adapter on some layers only would be dropped in silence, or get no gradient."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForSequenceClassification

    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 50}
    targets = ["q_proj", "k_proj", "v_proj"]

    def adapted(**more: object) -> torch.nn.Module:
        base = LlamaForSequenceClassification(LlamaConfig(**shape, num_hidden_layers=4, pad_token_id=0))
        return get_peft_model(base, LoraConfig(r=4, target_modules=targets, task_type="SEQ_CLS", **more)).get_base_model()

    assert fusion_unsupported_reason(adapted()) is None
    assert fusion_unsupported_reason(adapted(layers_to_transform=[1])) == "qkv is not alike in all layers"
    assert fusion_unsupported_reason(adapted(rank_pattern={"layers.2.self_attn.q_proj": 2})) == "qkv is not alike in all layers"
    model = adapted()
    projection = model.model.layers[0].self_attn.q_proj.base_layer
    for layer in model.model.layers:
        layer.self_attn.q_proj.base_layer.bias = torch.nn.Parameter(torch.zeros(projection.out_features))
    assert fusion_unsupported_reason(model) == "qkv: its bias is trained"
