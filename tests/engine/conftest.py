"""Decoders of the packed engine's families, small and random."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest


@pytest.fixture
def decoder() -> Callable[..., Any]:
    """`decoder(family, lora=False, **settings)`: a random classifier with grouped queries, adapters that do something."""
    import torch
    import transformers

    def make(family: str, *, lora: bool = False, seed: int = 0, dtype: Any = torch.float32, **settings: object) -> Any:
        from peft import LoraConfig, get_peft_model

        names = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}
        torch.manual_seed(seed)
        shape = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "head_dim": 16}
        rest = {"num_key_value_heads": 2, "vocab_size": 101, "pad_token_id": 0, "num_labels": 3, "initializer_range": 0.1}
        config = getattr(transformers, f"{names[family]}Config")(**{**shape, **rest, **settings})
        model = getattr(transformers, f"{names[family]}ForSequenceClassification")(config)
        if lora:
            targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="SEQ_CLS"))
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter.data, std=0.1)
        return model.to(dtype).eval()

    return make


@pytest.fixture
def stock() -> Callable[..., Any]:
    """`stock(model, rows, side)`: logits as transformers computes them on padded rows."""
    from finsent.engine.packing import pad_rows

    def logits(model: Any, rows: Sequence[Sequence[int]], side: str = "left") -> Any:
        ids, mask = pad_rows(rows, 0, side)
        return model(input_ids=ids, attention_mask=mask).logits.float()

    return logits
