from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from finsent.config import Config
from finsent.errors import FinsentError
from finsent.home import Home
from finsent.model.adapter import attach
from finsent.model.base import load_base, locate_base
from finsent.training.preflight import verify_settings


@pytest.fixture
def model(tiny_config: Config, home: Home) -> Any:
    base = load_base(locate_base(tiny_config.model, home), tiny_config.model, "cpu")
    base.config.pad_token_id = 0
    return attach(base, tiny_config.lora, "embedded")


def batch_of(rows: list[int]) -> tuple[Any, Any, Any]:
    ids = torch.from_numpy(np.random.default_rng(0).integers(3, 500, (len(rows), 9)))
    return ids, torch.ones_like(ids), torch.tensor([i % 3 for i in rows])


def weights(model: Any) -> dict[str, Any]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def test_it_undoes_all_it_did(model: Any, tiny_config: Config, tmp_path: Path) -> None:
    before = weights(model)
    verify_settings(model, batch_of([0, 1, 2]), tiny_config.recipe.learning_rate, "none", tmp_path / "check", "cpu")
    after = weights(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not (tmp_path / "check").exists()


def test_a_head_that_is_not_saved_is_found(
    model: Any, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import safetensors.torch

    real = safetensors.torch.load_file
    monkeypatch.setattr(
        safetensors.torch, "load_file", lambda *a, **k: {n: t for n, t in real(*a, **k).items() if "score" not in n}
    )
    with pytest.raises(FinsentError, match="not saved"):
        verify_settings(model, batch_of([0, 1, 2]), tiny_config.recipe.learning_rate, "none", tmp_path / "check", "cpu")


def test_a_parameter_out_of_reach_is_named(model: Any, tiny_config: Config, tmp_path: Path) -> None:
    model.base_model.model.idle = torch.nn.Linear(2, 2)
    with pytest.raises(FinsentError, match="idle"):
        verify_settings(model, batch_of([0, 1, 2]), tiny_config.recipe.learning_rate, "none", tmp_path / "check", "cpu")
