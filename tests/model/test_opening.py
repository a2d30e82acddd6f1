from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from finsent.config import EngineConfig
from finsent.errors import ConfigError
from finsent.home import Home
from finsent.model.adapter import Loaded, load_adapter
from finsent.model.engine import predict_logits, tokenise
from finsent.model.opening import open_adapter, open_engine

TEXTS = ["$AAPL to the moon", "puts", "fed meets on tuesday, and that is all", "beat on earnings " * 30, "selling", "buy"] * 5


@pytest.fixture
def loaded(make_adapter: Callable[[int], Path], home: Home) -> Loaded:
    """An adapter on a small Llama whose 4-bit layers were turned into float32 ones."""
    from finsent.model.merging import dequantise

    found = load_adapter(make_adapter(0), home, "cpu")
    base = found.model.get_base_model()
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Linear4bit" and type(child).__module__.startswith("bitsandbytes"):
                setattr(module, name, dequantise(torch.nn.Sequential(child))[0])
    return replace(found, model=found.model.float())


def test_packed_logits_are_those_of_the_reference(loaded: Loaded) -> None:
    opened = open_engine(loaded, EngineConfig(), rows=len(TEXTS))
    assert (loaded.engine, opened.engine, opened.precision) == ("stock", "packed", "as loaded")
    wanted = predict_logits(loaded, TEXTS)
    assert wanted.std() > 0.01
    for budget in (16, 300, 4096):
        assert np.abs(predict_logits(opened, TEXTS, token_budget=budget) - wanted).max() <= 1e-5


def test_texts_keep_their_order(loaded: Loaded) -> None:
    opened = open_engine(loaded, EngineConfig(batch_tokens=64), rows=len(TEXTS))
    assert opened.batch_tokens == 64
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = predict_logits(opened, [TEXTS[i] for i in order])
    assert np.abs(shuffled - predict_logits(opened, TEXTS)[order]).max() <= 1e-5


def test_one_text_and_none(loaded: Loaded) -> None:
    opened = open_engine(loaded, EngineConfig(), rows=1)
    assert predict_logits(opened, []).shape == (0, 3)
    one = predict_logits(opened, TEXTS[:1])
    assert np.abs(one - predict_logits(loaded, TEXTS[:1])).max() <= 1e-5


def test_padding_that_is_asked_for_takes_the_reference(loaded: Loaded) -> None:
    opened = open_engine(loaded, EngineConfig(), rows=1)
    assert np.array_equal(
        predict_logits(opened, TEXTS, padding_side="right"), predict_logits(loaded, TEXTS, padding_side="right")
    )


def test_the_engine_can_be_chosen(make_adapter: Callable[[int], Path], home: Home) -> None:
    stock = open_adapter(make_adapter(0), home, EngineConfig(inference="stock"), rows=5, device="cpu")
    assert (stock.engine, stock.plan) == ("stock", "engine.inference is stock")
    assert open_adapter(make_adapter(0), home, EngineConfig(inference="packed"), rows=5, device="cpu").engine == "packed"
    assert len(tokenise(stock.tokenizer, TEXTS[:1], 128)[0]) > 2


def test_an_engine_that_the_base_cannot_run_is_refused(loaded: Loaded) -> None:
    loaded.model.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"engine\.inference=packed: it has dropout on attention weights"):
        open_engine(loaded, EngineConfig(inference="packed"), rows=1)
    assert open_engine(loaded, EngineConfig(), rows=1).engine == "stock"
