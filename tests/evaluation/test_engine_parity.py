import numpy as np
import pytest

from finsent.config import EngineConfig
from finsent.evaluation.engine_parity import MIN_ROWS, compare_engines, violations

LABELS = np.arange(600) % 3
RIGHT = (np.eye(3)[LABELS] * 4 + np.random.default_rng(0).normal(size=(600, 3))).astype(np.float32)


def test_the_same_logits_are_faithful() -> None:
    found = compare_engines(RIGHT, RIGHT, LABELS)
    assert (found.rows, found.agreement, found.logit_error, found.largest_change) == (600, 1.0, 0.0, 0.0)
    assert found.f1 == found.f1_reference > 0.9
    assert violations(found, EngineConfig()) == []


def test_noise_below_the_limits_passes_and_above_them_does_not() -> None:
    noise = np.random.default_rng(1).normal(size=RIGHT.shape).astype(np.float32)
    assert violations(compare_engines(RIGHT, RIGHT + 0.02 * noise, LABELS), EngineConfig()) == []
    said = " ".join(violations(compare_engines(RIGHT, RIGHT + 2 * noise, LABELS), EngineConfig()))
    assert "engine.min_agreement" in said
    assert "engine.max_logit_error" in said
    assert "engine.max_f1_drop" in said


def test_a_better_f1_is_no_shortfall() -> None:
    worse = RIGHT.copy()
    worse[:60] = -worse[:60]
    limits = EngineConfig(min_agreement=0.0, max_logit_error=100.0)
    assert violations(compare_engines(worse, RIGHT, LABELS), limits) == []
    assert "max_f1_drop" in violations(compare_engines(RIGHT, worse, LABELS), limits)[0]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_not_finite_never_passes(broken: float) -> None:
    logits = RIGHT.copy()
    logits[:, 0] = broken
    found = compare_engines(RIGHT, logits, LABELS)
    assert (found.agreement, found.logit_error) == (0.0, float("inf"))
    assert len(violations(found, EngineConfig())) >= 2


def test_too_few_rows_never_pass() -> None:
    few = MIN_ROWS - 1
    found = compare_engines(RIGHT[:few], RIGHT[:few], LABELS[:few])
    assert violations(found, EngineConfig()) == [f"{few} held-out rows, and at least {MIN_ROWS} are needed"]
