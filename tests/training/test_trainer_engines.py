"""Stock and packed passes compute the same training, in passes of any size; where memory runs out, in smaller ones."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from finsent.config import Config, Quantization
from finsent.engine.packing import pad_rows
from finsent.errors import FinsentError
from finsent.models.base_model import load_base, locate_base
from finsent.models.predict import tokenise
from finsent.training import setup
from finsent.training.setup import TrainingRun, set_up
from finsent.training.trainer import LabelledTexts
from finsent.workspace import Workspace

Start = Callable[..., Any]
EXACT = {
    "lora": {"dropout": 0.0},
    "model": {"quantization": Quantization(kind="none", compute_dtype="float32")},
    "optimizer": "adamw_torch",
    "learning_rate": 5e-4,
}
"""Nothing drawn, nothing rounded: float32 throughout, and no dropout."""


LOSS_TOLERANCE = 1e-4
"""Relative; 1.3e-5 was measured over 201 steps (two cores, torch 2.9, November 2026)."""
LOGIT_TOLERANCE = 1e-3


def losses(figures: Sequence[dict[str, float]]) -> list[float]:
    return [f["loss"] for f in figures]


def logits_by_stock(config: Config, home: Workspace, trained: Any, texts: Sequence[str]) -> Any:
    """Logits by transformers and PEFT alone, from what the training saved."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    model_config = config.model.model_copy(update=EXACT["model"])
    model = load_base(locate_base(model_config, home), model_config, "cpu")
    model.config.pad_token_id = trained.pad_token_id
    model = PeftModel.from_pretrained(model, trained.adapter).eval()
    ids, mask = pad_rows(tokenise(AutoTokenizer.from_pretrained(trained.adapter), texts, 128), trained.pad_token_id, "left")
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask).logits.float()


def test_two_hundred_steps_packed_and_stock_follow_one_curve(
    run: Start, rows: LabelledTexts, tiny_config: Config, home: Workspace
) -> None:
    packed, found = run("packed", epochs=67.0, engine={"training": "packed"}, **EXACT)
    stock, wanted = run("stock", epochs=67.0, engine={"training": "stock"}, **EXACT)
    assert (packed.engine, stock.engine) == ("packed", "stock")
    assert len(found) == len(wanted) == 201
    assert losses(wanted)[-1] < 0.1 * losses(wanted)[0]  # something was learnt on the way
    assert losses(found) == pytest.approx(losses(wanted), rel=LOSS_TOLERANCE)
    one, other = (logits_by_stock(tiny_config, home, trained, rows.texts) for trained in (packed, stock))
    assert torch.equal(one.argmax(-1), other.argmax(-1))
    assert (one - other).abs().max() <= LOGIT_TOLERANCE
    assert all(f["padding_share"] == 0 for f in found)
    assert max(f["padding_share"] for f in wanted) > 0


def test_an_adapter_trained_packed_is_an_ordinary_one(
    run: Start, rows: LabelledTexts, tiny_config: Config, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the packed engine says at the end, stock transformers and PEFT say of the saved files."""
    from finsent.training import trainer

    seen: list[Any] = []
    real = trainer.save_adapter

    def keep(model: Any, tokenizer: Any, folder: Path) -> None:
        from finsent.engine.packed_forward import batch_to_device, build_packed_model, packed_logits
        from finsent.engine.packing import pack_rows

        with torch.no_grad():
            model.eval()
            seen.append(
                packed_logits(build_packed_model(model), batch_to_device(pack_rows(tokenise(tokenizer, rows.texts, 128)), "cpu"))
            )
        real(model, tokenizer, folder)

    monkeypatch.setattr(trainer, "save_adapter", keep)
    trained, _ = run("a", epochs=10.0, engine={"training": "packed"}, **EXACT)
    assert (seen[0] - logits_by_stock(tiny_config, home, trained, rows.texts)).abs().max() <= 1e-5


@pytest.fixture
def prepared(tiny_config: Config, home: Workspace, rows: LabelledTexts) -> Callable[..., TrainingRun]:
    """`prepared(**engine)`: a training that is set up, in float32 and without dropout."""

    def make(**engine: object) -> TrainingRun:
        changes = {name: getattr(tiny_config, name).model_copy(update=EXACT[name]) for name in ("lora", "model")}
        changes["engine"] = tiny_config.engine.model_copy(update=engine)
        return set_up(tiny_config.model_copy(update=changes), home, rows.texts)

    return make


@pytest.mark.parametrize("budget", [1, 40, 150, 100_000])
def test_micro_batches_by_tokens_give_loss_and_gradient_of_one_big_batch(
    prepared: Callable[..., TrainingRun], rows: LabelledTexts, tiny_config: Config, budget: int
) -> None:
    from finsent.training.trainer import _accumulate_gradients

    step = [5, 0, 17, 40, 8, 9, 30, 31, 2]

    def share(tokens: int) -> tuple[float, Any]:
        run = prepared(training="packed", micro_batch_tokens=tokens)
        run.model.eval()
        recipe = tiny_config.recipe.model_copy(update={"token_dropout": 0.0})
        loss, real, padded = _accumulate_gradients(run, recipe, step, rows.labels, 0, len(step))
        assert real == padded == sum(run.lengths[row] for row in step)
        return float(loss), run.flat_params.gradient.clone()

    whole = share(100_000)
    run = prepared(training="packed")
    run.model.eval()
    wanted = run.backward([run.tokens[row] for row in step], [int(rows.labels[row]) for row in step], len(step))
    assert whole[0] == pytest.approx(float(wanted), rel=1e-6)
    loss, gradient = share(budget)
    assert loss == pytest.approx(whole[0], rel=1e-5)
    assert (gradient - whole[1]).norm() <= 1e-5 * whole[1].norm()


def with_memory_for(tokens: int, monkeypatch: pytest.MonkeyPatch, *, after: int = 0) -> list[int]:
    """Let passes of more than `tokens` tokens (padded ones count) run out of memory, from pass `after` on; the sizes tried."""
    tried: list[int] = []
    real = setup._build_step_functions

    def small(config: Config, plan: Any, *rest: Any) -> Any:
        logits, backward = real(config, plan, *rest)

        def limited(rows: Sequence[Sequence[int]], labels: Sequence[int], rows_of_step: int) -> Any:
            lengths = [len(row) for row in rows]
            tried.append(sum(lengths) if plan.engine == "packed" else len(rows) * max(lengths))
            if len(tried) > after and tried[-1] > tokens:
                backward(rows, labels, rows_of_step)  # what a pass leaves behind that failed near its end
                raise torch.OutOfMemoryError("CUDA out of memory")
            return backward(rows, labels, rows_of_step)

        return logits, limited

    monkeypatch.setattr(setup, "_build_step_functions", small)
    return tried


@pytest.mark.parametrize("engine", ["stock", "packed"])
def test_a_step_that_memory_does_not_hold_is_repeated_in_smaller_passes(
    run: Start, rows: LabelledTexts, engine: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, wanted = run("roomy", epochs=10.0, engine={"training": engine}, **EXACT)
    caplog.clear()
    tried = with_memory_for(90, monkeypatch)
    trained, found = run("tight", epochs=10.0, engine={"training": engine}, **EXACT)
    assert losses(found) == pytest.approx(losses(wanted), rel=1e-4)
    assert trained.steps == len(found) == 30
    assert max(tried) > 90
    assert sum(size > 90 for size in tried) <= 4  # learnt once, not at every step
    assert "GPU memory ran out: the same rows again, in passes of at most" in caplog.text


@pytest.mark.parametrize("engine", ["stock", "packed"])
def test_one_row_that_memory_does_not_hold_is_the_end(run: Start, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory_for(3, monkeypatch)
    with pytest.raises(FinsentError, match=r"a single row .*engine\.memory_gib"):
        run("a", engine={"training": engine}, **EXACT)


def test_backing_off_leaves_nothing_of_the_failed_pass_in_the_weights(run: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(tokens: int) -> dict[str, Any]:
        return {"epochs": 3.0, "engine": {"training": "packed", "micro_batch_tokens": tokens}, **EXACT}

    whole, _ = run("whole", **settings(40))
    tried = with_memory_for(40, monkeypatch, after=2)  # the pre-flight check's two passes go well
    again, _ = run("again", **settings(80))
    assert max(tried[:2]) > 40
    assert tried[2] > 40
    assert max(tried[3:]) <= 40
    one, other = (load_file(t.adapter / "adapter_model.safetensors") for t in (whole, again))
    assert all(torch.equal(one[name], other[name]) for name in one)
