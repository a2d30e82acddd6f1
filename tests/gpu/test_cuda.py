"""The same training on a GPU: run with `pytest -m gpu` where there is one."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finsent.config import Config
from finsent.labels import LABELS
from finsent.models.adapter import load_adapter
from finsent.models.load import load_for_inference
from finsent.models.manifest import Manifest, write_manifest
from finsent.models.predict import predict_logits
from finsent.training.trainer import LabelledTexts, train
from finsent.workspace import Workspace

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
    pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning"),  # torch 2.11's compiler
]

TEXTS = [f"${name} {words}" for name in ("A", "B", "C", "D") for words in ("calls printing", "puts printing", "meets today")]
ROWS = LabelledTexts(TEXTS, np.array([1, 2, 0] * 4, dtype=np.int64))


@pytest.fixture
def run(tiny_config: Config, home: Workspace, tmp_path: Path) -> Callable[..., Any]:
    def start(folder: str, stop_at: int | None = None, engine: Mapping[str, object] | None = None, **recipe: object) -> Any:
        settings = {"epochs": 20.0, "batch_size": 4, "accumulation": 3, "evaluate_every_epoch": False, **recipe}
        changed = {"recipe": settings, "engine": dict(engine or {})}
        config = tiny_config.model_copy(
            update={name: getattr(tiny_config, name).model_copy(update=values) for name, values in changed.items()}
        )
        losses: list[float] = []

        def collect(step: int, values: dict[str, float]) -> None:
            losses.append(values["loss"])
            if step == stop_at:
                raise KeyboardInterrupt

        return config, train(config, home, ROWS, ROWS, tmp_path / folder, collect), losses

    return start


@pytest.mark.parametrize("precision", ["none", "bf16", "fp16"])
def test_it_learns_in_every_precision(run: Callable[..., Any], precision: str) -> None:
    _, trained, losses = run("a", mixed_precision=precision)
    assert losses[-1] < 0.5 * losses[0]
    assert trained.quantized_modules == 7


@pytest.mark.parametrize("engine", ["stock", "packed"])
@pytest.mark.parametrize("optimizer", ["paged_adamw_8bit", "adamw_torch"])
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    run: Callable[..., Any], engine: str, optimizer: str
) -> None:
    """To the last bit, under one plan: what is compiled goes by the whole training, passes by the memory that is free."""
    settings = {"checkpoint_every": 5, "optimizer": optimizer, "engine": {"training": engine}}
    _, whole, losses = run("whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=8, **settings)
    _, resumed, rest = run("cut", **settings)
    assert resumed.plan == whole.plan
    assert resumed.resumed_from > 0
    assert rest == losses[resumed.resumed_from :]
    one, other = (load_file(t.adapter / "adapter_model.safetensors") for t in (whole, resumed))
    assert all(torch.equal(one[name], other[name]) for name in one)


def sealed(config: Config, trained: Any) -> Path:
    """The trained adapter with a manifest."""
    manifest = Manifest(
        base_name="embedded",
        base_revision=None,
        base_fingerprint=trained.base.fingerprint,
        embedded=config.model.embedded,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=128,
        padding_side="left",
        pad_token_id=trained.pad_token_id,
        data_version=None,
        data_fingerprint=None,
        split_rule="none",
        config={},
        git_sha=None,
        lock_hash="",
    )
    write_manifest(trained.adapter, manifest)
    return Path(trained.adapter)


def test_an_adapter_trained_on_a_gpu_serves_on_a_cpu(run: Callable[..., Any], home: Workspace) -> None:
    config, trained, _ = run("a")
    sealed(config, trained)
    there = predict_logits(load_adapter(trained.adapter, home, "cuda:0"), TEXTS)
    here = predict_logits(load_adapter(trained.adapter, home, "cpu"), TEXTS)
    assert np.abs(there - here).max() < 0.1 * np.abs(here).max()
    assert (there.argmax(1) == here.argmax(1)).all()


@pytest.mark.parametrize("compiled", ["never", "always"])
def test_the_rows_left_change_no_prediction_where_engine_compile_is_set(
    run: Callable[..., Any], home: Workspace, compiled: str
) -> None:
    config, trained, _ = run("a")
    folder, texts = sealed(config, trained), [f"{text} {number}" for number in range(40) for text in TEXTS]
    engine = config.engine.model_copy(update={"compile": compiled, "batch_tokens": 512})
    found = [predict_logits(load_for_inference(folder, home, engine, rows=rows), texts) for rows in (10, 10**9)]
    assert np.array_equal(*found)
