import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from finsent.config import Config
from finsent.errors import FinsentError, InputError
from finsent.training.setup import resolve_precision
from finsent.training.trainer import LabelledTexts, train
from finsent.workspace import Workspace

Run = Callable[..., Any]


def test_it_learns_and_leaves_safetensors_and_json(run: Run, tmp_path: Path) -> None:
    trained, figures = run("a", epochs=20.0)
    assert figures[-1]["loss"] < 0.3 * figures[0]["loss"]
    assert trained.steps == len(figures) == 60
    assert trained.quantized_modules == 7
    assert {path.suffix for path in trained.adapter.iterdir()} <= {".safetensors", ".json", ".md"}
    assert not (tmp_path / "a" / "preflight").exists()
    assert set(figures[0]) == {"loss", "learning_rate", "grad_norm", "rows_per_second", "tokens_per_second", "padding_share"}


def test_accumulation_changes_neither_loss_nor_gradient(run: Run) -> None:
    """transformers' Trainer gets this wrong for this head: four micro-batches gave four times the loss."""
    _, whole = run("whole", batch_size=16, accumulation=1, epochs=1.0)
    _, parts = run("parts", batch_size=4, accumulation=4, epochs=1.0)
    for name in ("loss", "grad_norm"):
        assert [f[name] for f in parts] == pytest.approx([f[name] for f in whole], rel=0.03)


@pytest.mark.parametrize("engine", ["stock", "packed"])
def test_equal_seeds_give_equal_adapters(run: Run, engine: str) -> None:
    run = functools.partial(run, engine={"training": engine})
    first, second = run("one", epochs=1.0)[0], run("two", epochs=1.0)[0]
    assert first.engine == engine
    for name in ("adapter_model.safetensors", "adapter_config.json", "tokenizer.json"):
        assert (first.adapter / name).read_bytes() == (second.adapter / name).read_bytes()
    other, _ = run("three", epochs=1.0, seed=7)
    assert (other.adapter / "adapter_model.safetensors").read_bytes() != (
        first.adapter / "adapter_model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    ("optimizer", "engine"), [("paged_adamw_8bit", "stock"), ("adamw_torch", "packed"), ("adamw_8bit", "packed")]
)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(run: Run, optimizer: str, engine: str) -> None:
    settings = {
        "epochs": 4.0,
        "optimizer": optimizer,
        "checkpoint_every": 5,
        "token_dropout": 0.2,
        "engine": {"training": engine},
    }
    whole, figures = run("whole", **settings)
    with pytest.raises(KeyboardInterrupt):
        run("cut", stop_at=8, **settings)
    resumed, rest = run("cut", **settings)
    assert resumed.resumed_from == 5
    assert [f["loss"] for f in rest] == [f["loss"] for f in figures[5:]]
    one, other = (load_file(t.adapter / "adapter_model.safetensors") for t in (whole, resumed))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_learning_rate_that_blows_up_is_named_before_hours_are_spent(run: Run) -> None:
    with pytest.raises(FinsentError, match="learning_rate"):
        run("a", learning_rate=1e30, epochs=5.0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_no_number_stops_even_the_last_step(run: Run, tmp_path: Path, value: float) -> None:
    """The loss of that step is finite still; its weights would be saved."""
    from finsent.training import trainer

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(trainer, "_preflight", lambda *_: None)
        real = trainer._accumulate_gradients

        def poisoned(training: Any, recipe: Any, rows: Any, labels: Any, step: int, of: int) -> Any:
            found = real(training, recipe, rows, labels, step, of)
            if step == 5:
                training.flat_params.gradient[0] = value
            return found

        patched.setattr(trainer, "_accumulate_gradients", poisoned)
        with pytest.raises(FinsentError, match=r"gradient norm is (nan|inf) at step 6\. Lower recipe\.learning_rate"):
            run("a", epochs=2.0)
    assert not (tmp_path / "a" / "adapter").exists()


def test_a_validation_loss_that_is_no_number_stops_the_training(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finsent.training import trainer

    monkeypatch.setattr(trainer, "_preflight", lambda *_: None)
    real = trainer.validate

    def diverged(training: Any, rows: Any, config: Any) -> Any:
        with torch.no_grad():
            training.flat_params.master.fill_(float("nan"))
        return real(training, rows, config)

    monkeypatch.setattr(trainer, "validate", diverged)
    with pytest.raises(FinsentError, match=r"validation loss is nan: the training diverged"):
        run("a", epochs=2.0, evaluate_every_epoch=True)
    assert not (tmp_path / "a" / "adapter").exists()


def test_one_process_can_train_in_two_precisions(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("finsent.training.setup.cpu_supports_bf16", lambda: True)  # emulated, where it does not
    assert [run(p, mixed_precision=p, epochs=1.0)[0].mixed_precision for p in ("bf16", "none")] == ["bf16", "none"]


def test_validation_is_looked_at_after_each_epoch(run: Run) -> None:
    _, figures = run("a", epochs=2.0, evaluate_every_epoch=True)
    looks = [f for f in figures if "validation_loss" in f]
    assert len(looks) == 2
    assert 0 <= looks[0]["validation_accuracy"] <= 1


def test_rows_of_one_class_or_none_are_refused(tiny_config: Config, home: Workspace, tmp_path: Path) -> None:
    nothing = LabelledTexts([], np.array([], dtype=np.int64))
    with pytest.raises(InputError, match="no rows"):
        train(tiny_config, home, nothing, nothing, tmp_path, lambda *_: None)
    one = LabelledTexts(["a", "b"], np.array([1, 1]))
    with pytest.raises(InputError, match="'Bullish'"):
        train(tiny_config, home, one, one, tmp_path, lambda *_: None)


def test_two_rows_are_enough_to_start(tiny_config: Config, home: Workspace, tmp_path: Path) -> None:
    two = LabelledTexts(["calls printing", "puts printing"], np.array([1, 2], dtype=np.int64))
    assert train(tiny_config, home, two, two, tmp_path, lambda *_: None).steps == 8


def test_half_precision_becomes_what_the_processor_computes_in(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("finsent.training.setup.cpu_supports_bf16", lambda: True)
    assert [resolve_precision(wanted, "cpu") for wanted in ("fp16", "bf16", "none")] == ["bf16", "bf16", "none"]
    monkeypatch.setattr("finsent.training.setup.cpu_supports_bf16", lambda: False)
    with caplog.at_level("INFO"):
        assert [resolve_precision(wanted, "cpu") for wanted in ("fp16", "bf16", "none")] == ["none"] * 3
    assert "only emulates bfloat16" in caplog.text


def test_an_engine_that_the_base_cannot_run_is_refused_and_auto_takes_the_other(
    tiny_config: Config, home: Workspace, rows: LabelledTexts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from finsent.errors import ConfigError
    from finsent.training import setup

    monkeypatch.setattr(setup, "packing_unsupported_reason", lambda *_: "it has dropout on attention weights")
    recipe = tiny_config.recipe.model_copy(update={"epochs": 1.0, "evaluate_every_epoch": False})
    config = tiny_config.model_copy(update={"recipe": recipe})
    trained = train(config, home, rows, rows, tmp_path / "auto", lambda *_: None)
    assert (trained.engine, trained.plan) == ("stock", "it has dropout on attention weights")
    demanded = config.model_copy(update={"engine": config.engine.model_copy(update={"training": "packed"})})
    with pytest.raises(ConfigError, match=r"engine\.training=packed: it has dropout"):
        train(demanded, home, rows, rows, tmp_path / "demanded", lambda *_: None)
