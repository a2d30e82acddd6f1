from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from finsent.config import Config
from finsent.errors import FinsentError
from finsent.training import setup
from finsent.training.preflight import run_preflight
from finsent.training.setup import TrainingRun, set_up
from finsent.workspace import Workspace

TEXTS = ["$AAPL calls printing", "puts printing, all of it", "meets on tuesday"]
LABELS = [1, 2, 0]


@pytest.fixture(params=["stock", "packed"])
def check(request: pytest.FixtureRequest, tiny_config: Config, home: Workspace, tmp_path: Path) -> Callable[[], TrainingRun]:
    """`check()`: set a training up and verify it."""

    def start() -> TrainingRun:
        engine = tiny_config.engine.model_copy(update={"training": request.param})
        run = set_up(tiny_config.model_copy(update={"engine": engine}), home, TEXTS)
        run.flat_params.master[:5] += 0.125  # so that undone means these values, not what a fresh start has
        before = run.flat_params.master.clone(), torch.get_rng_state()
        try:
            run_preflight(run, run.tokens, LABELS, tiny_config.recipe.learning_rate, tmp_path / "check")
        finally:
            assert not (tmp_path / "check").exists()
            assert torch.equal(before[0], run.flat_params.master)
            assert torch.equal(before[1], torch.get_rng_state())
            assert not run.flat_params.gradient.any()
        return run

    return start


def test_it_undoes_all_it_did(check: Callable[[], TrainingRun]) -> None:
    run = check()
    assert all(parameter.grad is None for parameter in run.model.parameters())
    assert not run.optimizer.state_dict()["state"]


def test_a_head_that_is_not_saved_is_found(check: Callable[[], TrainingRun], monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors.torch

    real = safetensors.torch.load_file
    monkeypatch.setattr(
        safetensors.torch, "load_file", lambda *a, **k: {n: t for n, t in real(*a, **k).items() if "score" not in n}
    )
    with pytest.raises(FinsentError, match="not saved"):
        check()


def test_a_parameter_out_of_reach_is_named(check: Callable[[], TrainingRun], monkeypatch: pytest.MonkeyPatch) -> None:
    real = setup.add_lora

    def with_an_idle_one(*arguments: Any) -> Any:
        model = real(*arguments)
        model.base_model.model.idle = torch.nn.Linear(2, 2)
        return model

    monkeypatch.setattr(setup, "add_lora", with_an_idle_one)
    with pytest.raises(FinsentError, match="idle"):
        check()
