from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from finsent.engine.packed_forward import (
    batch_to_device,
    build_packed_model,
    packed_logits,
    packing_unsupported_reason,
    unwrap_peft,
)
from finsent.engine.packing import pack_rows, strip_padding

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
ROWS = [[5, 9, 3], [7], list(range(10, 47)), [4, 4], [50, 60, 70, 80, 90, 11, 12], list(range(20, 40))]
Decoder = Callable[..., Any]
Stock = Callable[..., Any]


def packed(model: Any, rows: Sequence[Sequence[int]] = ROWS, **filling: Any) -> Any:
    return packed_logits(build_packed_model(model), batch_to_device(pack_rows(rows, **filling), "cpu"))


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_padded_rows(decoder: Decoder, stock: Stock, family: str, lora: bool) -> None:
    model = decoder(family, lora=lora)
    assert packing_unsupported_reason(unwrap_peft(model).config, 128) is None
    with torch.no_grad():
        found = packed(model)
        for side in ("left", "right"):
            wanted = stock(model, ROWS, side)
            assert wanted.std() > 0.1  # zeros would agree, too
            assert (found - wanted).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_of_all_adapters_are_those_of_padded_rows(decoder: Decoder, stock: Stock, family: str) -> None:
    model = decoder(family, lora=True).train()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def gradients(logits: Any) -> dict[str, Any]:
        model.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()
        return {name: p.grad.clone().flatten() for name, p in model.named_parameters() if p.requires_grad}

    wanted, found = gradients(stock(model, ROWS)), gradients(packed(model))
    assert wanted.keys() == found.keys()
    assert len(wanted) == 3 * 7 * 2 + 1  # adapters on three layers, and the head
    assert all(gradient.any() for gradient in wanted.values())
    assert min(float(torch.cosine_similarity(wanted[name], found[name], dim=0)) for name in wanted) >= 1 - 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_in_bfloat16_logits_agree_up_to_rounding(decoder: Decoder, stock: Stock, family: str) -> None:
    model = decoder(family, lora=True, dtype=torch.bfloat16)
    rows = [torch.randint(1, 101, (n,)).tolist() for n in range(2, 40)]
    with torch.no_grad():
        wanted = stock(model, rows)
        assert (packed(model, rows) - wanted).square().mean().sqrt() / wanted.std() <= 2e-2


def test_order_and_company_do_not_matter(decoder: Decoder) -> None:
    model = decoder("llama", lora=True)
    order = [4, 2, 0, 5, 1, 3]
    with torch.no_grad():
        together = packed(model)
        assert (packed(model, [ROWS[i] for i in order]) - together[order]).abs().max() <= 1e-5
        alone = torch.cat([packed(model, [row]) for row in ROWS])
        assert (alone - together).abs().max() <= 1e-5


def test_filling_changes_nothing(decoder: Decoder) -> None:
    model = decoder("qwen3", lora=True)
    with torch.no_grad():
        filled = packed(model, tokens=256, slots=12, max_seqlen=128, filler_id=2)
        assert filled.shape == (12, 3)
        assert (filled[: len(ROWS)] - packed(model)).abs().max() <= 1e-5


def test_filling_leaves_gradients_alone(decoder: Decoder) -> None:
    model = decoder("llama", lora=True).train()
    labels = torch.tensor([0, 1, 2, 0, 1, 2])

    def gradients(logits: Any) -> Any:
        model.zero_grad()
        wanted = torch.full((len(logits),), -100)
        wanted[:6] = labels
        torch.nn.functional.cross_entropy(logits, wanted, ignore_index=-100, reduction="sum").backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])

    assert torch.allclose(gradients(packed(model, tokens=128, slots=9, max_seqlen=30)), gradients(packed(model)), atol=1e-5)


def test_stock_calls_are_what_they_were(decoder: Decoder, stock: Stock) -> None:
    model = decoder("llama", lora=True)
    with torch.no_grad():
        before = stock(model, ROWS)
        packed(model)
        assert torch.equal(stock(model, ROWS), before)
        with pytest.raises(IndexError):
            packed(model, [[1_000_000]])
        assert torch.equal(stock(model, ROWS), before)


def test_what_cannot_be_packed_says_why(decoder: Decoder) -> None:
    import transformers

    bert = transformers.BertForSequenceClassification(
        transformers.BertConfig(
            hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=99, num_labels=3
        )
    )
    assert "'bert'" in str(packing_unsupported_reason(unwrap_peft(bert).config, 128))
    assert "attention weights" in str(packing_unsupported_reason(decoder("llama", attention_dropout=0.1).config, 128))


def test_a_window_shorter_than_texts_is_refused(decoder: Decoder) -> None:
    assert "64 tokens is shorter than texts of 128" in str(
        packing_unsupported_reason(decoder("mistral", sliding_window=64).config, 128)
    )
    assert packing_unsupported_reason(decoder("mistral", sliding_window=128).config, 128) is None
    # Qwen2 writes a window down that it does not use
    assert packing_unsupported_reason(decoder("qwen2", sliding_window=64, use_sliding_window=False).config, 128) is None
    assert (
        packing_unsupported_reason(decoder("qwen2", sliding_window=64, use_sliding_window=True, max_window_layers=0).config, 128)
        is not None
    )


def test_rows_that_end_in_the_padding_id_pool_the_token_before(decoder: Decoder, stock: Stock) -> None:
    """Where the padding token is the end of text, tokenizers put it there."""
    model = decoder("llama", lora=True)
    pad_id = model.config.pad_token_id
    rows = [[*row, *[pad_id] * (1 + index % 2)] for index, row in enumerate(ROWS)]
    with torch.no_grad():
        wanted = stock(model, rows)
        assert (packed(model, strip_padding(rows, pad_id)) - wanted).abs().max() <= 1e-5
        assert (packed(model, rows) - wanted).abs().max() > 1e-3
