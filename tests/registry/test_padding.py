"""The proof pads otherwise in the way that the model's positions allow, and still finds a model that minds padding."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.predict import predict_logits
from finsent.registry.verification import _other_padding
from finsent.workspace import Workspace

TEXTS = ["a b c d", "e", "f g h"]


def bert(*, minds_padding: bool) -> LoadedAdapter:
    torch.manual_seed(0)
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "vocab_size": 60,
        "initializer_range": 0.5,
    }
    model = BertForSequenceClassification(BertConfig(**shape, num_labels=3)).eval()
    if minds_padding:
        forward = model.forward
        model.forward = lambda input_ids, attention_mask: forward(input_ids, torch.ones_like(attention_mask))

    def tokenizer(texts: list[str], **_: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[1, *(ord(word) % 50 + 3 for word in text.split()), 2] for text in texts]}

    manifest = SimpleNamespace(max_length=32, pad_token_id=0, padding_side="right", labels=("a", "b", "c"))
    return LoadedAdapter(model, tokenizer, manifest, "cpu")


def difference(loaded: LoadedAdapter) -> float:
    return float(np.abs(predict_logits(loaded, TEXTS) - predict_logits(loaded, TEXTS, **_other_padding(loaded))).max())


def test_an_encoder_with_absolute_positions_gets_more_padding_not_the_other_side() -> None:
    loaded = bert(minds_padding=False)
    assert _other_padding(loaded) == {"extra_padding": 16}
    assert difference(loaded) < 1e-5
    assert difference(bert(minds_padding=True)) > 1e-2


def test_a_decoder_gets_the_other_side(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    assert _other_padding(load_adapter(make_adapter(0), home)) == {"padding_side": "right"}
