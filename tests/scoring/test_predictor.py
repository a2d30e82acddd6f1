"""The gate before fp8. No processor multiplies it, so what rounds to it is put in for these tests; all else is real."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import EngineConfig
from finsent.engine import fp8
from finsent.models.predict import predict_logits
from finsent.scoring import predictor
from finsent.scoring.predictor import load_with_fp8_check, recompute_apart
from finsent.workspace import Workspace

TEXTS = [f"${name} {words}" for name in "ABCDEFGHIJ" for words in ("calls printing", "puts printing", "meets on friday")] * 20
FP8 = EngineConfig(precision="fp8")


@pytest.fixture
def held_out(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def give(rows: int) -> None:
        labels = np.arange(rows) % 3
        monkeypatch.setattr(predictor, "_validation_rows", lambda _: SimpleNamespace(texts=TEXTS[:rows], labels=labels))

    return give


@pytest.fixture
def rounding(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`rounding(error)`: this machine has fp8, and it moves every weight of the head by a random share."""

    def give(error: float) -> None:
        def rough(packed: Any) -> Any:
            import torch

            weight = packed.classifier.score.weight.data
            noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
            weight.add_(error * weight.std() * noise)
            return packed

        monkeypatch.setattr(fp8, "convert_to_fp8", rough)
        monkeypatch.setattr(predictor, "_fp8_unsupported_reason", lambda _: None)

    return give


def test_a_machine_without_fp8_says_so_and_scores_on(make_adapter: Callable[[int], Path], home: Workspace) -> None:
    loaded = load_with_fp8_check(FP8, home, make_adapter(0), rows=10, device="cpu")
    assert "fp8 not used: fp8 needs a GPU" in loaded.plan
    assert loaded.precision != "fp8"
    assert predict_logits(loaded, TEXTS[:3]).shape == (3, 3)


def test_without_held_out_rows_fp8_is_not_used(
    make_adapter: Callable[[int], Path], home: Workspace, rounding: Callable[[float], None]
) -> None:
    rounding(0.0)
    loaded = load_with_fp8_check(FP8, home, make_adapter(0), rows=10, device="cpu")
    assert "no labelled validation rows" in loaded.plan
    assert loaded.precision != "fp8"


def test_faithful_fp8_is_used_and_its_figures_are_kept(
    make_adapter: Callable[[int], Path], home: Workspace, held_out: Callable[[int], None], rounding: Callable[[float], None]
) -> None:
    held_out(600)
    rounding(0.0)
    loaded = load_with_fp8_check(FP8, home, make_adapter(0), rows=10, device="cpu")
    assert loaded.precision == "fp8"
    assert "fp8: agreement 1.0000, rms logit error 0.000" in loaded.plan


@pytest.mark.parametrize(("rows", "error", "reason"), [(600, 3.0, "engine.max_logit_error"), (499, 0.0, "499 held-out rows")])
def test_refused_fp8_gives_the_very_weights_back(
    make_adapter: Callable[[int], Path],
    home: Workspace,
    held_out: Callable[[int], None],
    rounding: Callable[[float], None],
    caplog: pytest.LogCaptureFixture,
    rows: int,
    error: float,
    reason: str,
) -> None:
    held_out(rows)
    rounding(error)
    loaded = load_with_fp8_check(FP8, home, make_adapter(0), rows=10, device="cpu")
    plain = load_with_fp8_check(replace_precision(FP8), home, make_adapter(0), rows=10, device="cpu")
    assert loaded.precision == plain.precision
    assert "fp8 refused" in loaded.plan
    assert reason in loaded.plan
    assert "fp8 is refused" in caplog.text
    assert np.array_equal(predict_logits(loaded, TEXTS[:30]), predict_logits(plain, TEXTS[:30]))


def replace_precision(engine: EngineConfig) -> EngineConfig:
    return engine.model_copy(update={"precision": "bf16"})


def test_held_out_rows_are_a_homes_validation_split(home: Workspace) -> None:
    assert predictor._validation_rows(home) is None


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_a_text_that_spoils_its_whole_pass_costs_the_others_nothing(sick: list[bool]) -> None:
    def compute(rows: list[list[int]]) -> np.ndarray:
        spoilt = any(sick[row[0]] for row in rows)
        return np.array([[np.nan] * 3 if spoilt else [row[0], 0, 0] for row in rows], np.float32)

    rows = [[number] for number in range(len(sick))]
    logits = compute(rows)
    recompute_apart(compute, rows, logits)
    assert np.isnan(logits).all(axis=1).tolist() == sick
    assert logits[~np.array(sick), 0].tolist() == [number for number, is_sick in enumerate(sick) if not is_sick]
