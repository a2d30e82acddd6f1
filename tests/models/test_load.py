from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from finsent.config import EngineConfig
from finsent.errors import ConfigError, DeviceError
from finsent.models import load
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.load import load_for_inference, prepare_for_inference
from finsent.models.predict import predict_logits
from finsent.workspace import Workspace

TEXTS = ["$AAPL to the moon", "puts", "fed meets on tuesday, and that is all", "beat on earnings " * 30, "selling", "buy"] * 5


@pytest.fixture
def loaded(make_adapter: Callable[[int], Path], home: Workspace) -> LoadedAdapter:
    """An adapter on a small Llama whose 4-bit layers were turned into float32 ones."""
    from finsent.engine.merge import dequantize_base

    found = load_adapter(make_adapter(0), home, "cpu")
    base = found.model.get_base_model()
    for module in list(base.modules()):
        for name, child in list(module.named_children()):
            if type(child).__name__ == "Linear4bit" and type(child).__module__.startswith("bitsandbytes"):
                setattr(module, name, dequantize_base(torch.nn.Sequential(child))[0])
    return replace(found, model=found.model.float())


@pytest.fixture(params=["merged", "live"])
def opened(loaded: LoadedAdapter, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[LoadedAdapter, Any]:
    """The engine over it in float32, with the adapter merged or, for want of memory, live; and the reference's logits."""
    wanted = predict_logits(loaded, TEXTS)
    assert wanted.std() > 0.01
    monkeypatch.setattr(load, "merged_dtype", lambda _: "float32")
    if request.param == "live":
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=1 << 40, available=1))
    found = prepare_for_inference(loaded, EngineConfig(), rows=len(TEXTS))
    assert (loaded.engine, found.engine) == ("stock", "packed")
    assert found.precision == ("fp32" if request.param == "merged" else "as loaded")
    return found, wanted


def test_packed_logits_are_those_of_the_reference(opened: tuple[LoadedAdapter, Any]) -> None:
    for budget in (16, 300, 4096):
        assert np.abs(predict_logits(opened[0], TEXTS, token_budget=budget) - opened[1]).max() <= 1e-5


def test_texts_keep_their_order(opened: tuple[LoadedAdapter, Any]) -> None:
    order = np.random.default_rng(0).permutation(len(TEXTS))
    shuffled = predict_logits(replace(opened[0], batch_tokens=64), [TEXTS[i] for i in order])
    assert np.abs(shuffled - opened[1][order]).max() <= 1e-5


def test_one_text_and_none(opened: tuple[LoadedAdapter, Any]) -> None:
    assert predict_logits(opened[0], []).shape == (0, 3)
    assert np.abs(predict_logits(opened[0], TEXTS[:1]) - opened[1][:1]).max() <= 1e-5


def test_padding_that_is_asked_for_takes_the_padded_way(opened: tuple[LoadedAdapter, Any]) -> None:
    assert np.abs(predict_logits(opened[0], TEXTS, padding_side="right", extra_padding=3) - opened[1]).max() <= 1e-5


def test_merged_in_the_machines_own_type_logits_agree_up_to_rounding(loaded: LoadedAdapter) -> None:
    wanted = predict_logits(loaded, TEXTS)
    found = prepare_for_inference(loaded, EngineConfig(batch_tokens=99), rows=len(TEXTS))
    assert found.batch_tokens == 99
    assert found.precision in {"bf16", "fp32"}
    error = predict_logits(found, TEXTS) - wanted
    assert np.sqrt(np.square(error).mean()) / wanted.std() <= 2e-2


def test_the_engine_can_be_chosen(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    stock = load_for_inference(make_adapter(0), home, EngineConfig(inference="stock"), rows=5, device="cpu")
    assert (stock.engine, stock.precision, stock.plan) == ("stock", "as loaded", "engine.inference is stock")
    assert load_for_inference(make_adapter(0), home, EngineConfig(inference="packed"), rows=5, device="cpu").engine == "packed"


def test_an_engine_that_the_base_cannot_run_is_refused(loaded: LoadedAdapter) -> None:
    loaded.model.config.attention_dropout = 0.1
    with pytest.raises(ConfigError, match=r"engine\.inference=packed: it has dropout on attention weights"):
        prepare_for_inference(loaded, EngineConfig(inference="packed"), rows=1)
    assert prepare_for_inference(loaded, EngineConfig(), rows=1).engine == "stock"


def test_memory_that_runs_out_makes_passes_smaller(opened: tuple[LoadedAdapter, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.models import predict

    whole, seen = predict.packed_logits, []

    def tight(model: Any, batch: Any) -> Any:
        seen.append(batch.input_ids.shape[1])
        if seen[-1] > 150:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, batch)

    monkeypatch.setattr(predict, "packed_logits", tight)
    found = predict_logits(opened[0], TEXTS, token_budget=600)
    assert np.abs(found - opened[1]).max() <= 1e-5
    assert max(seen) > 150 >= seen[-1]


def test_a_text_that_memory_never_holds_is_a_clear_error(
    opened: tuple[LoadedAdapter, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from finsent.errors import FinsentError
    from finsent.models import predict

    def full(*_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predict, "packed_logits", full)
    with pytest.raises(FinsentError, match=r"does not hold one text of \d+ tokens"):
        predict_logits(opened[0], TEXTS)


def test_a_device_without_memory_for_the_model_is_said(
    make_adapter: Callable[[int], Path], home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(load, "merge_adapter", full)
    with pytest.raises(DeviceError, match=r"cpu has no memory for the base with its adapter\. .*engine\.inference=stock"):
        load.load_for_inference(make_adapter(0), home, EngineConfig(), rows=3)
