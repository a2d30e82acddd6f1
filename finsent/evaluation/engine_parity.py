"""Parity of a faster engine with the reference on held-out rows, and which configured limits it violates."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finsent.config import EngineConfig
from finsent.evaluation.metrics import compute_metrics

MIN_ROWS = 500
"""Fewer held-out rows cannot show an agreement of 99 %."""


@dataclass(frozen=True)
class EngineParity:
    """An engine against its reference on the same rows."""

    rows: int
    agreement: float
    """Share of rows with the same label."""
    logit_error: float
    """Root mean square of the logits' differences, in standard deviations of the reference's logits."""
    largest_change: float
    """Largest change of a probability."""
    f1_reference: float
    f1: float
    """Macro-F1 on the rows' labels."""


def compare_engines(reference: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> EngineParity:
    """Parity of `logits` [rows, classes] with `reference`; values that are not finite count as total disagreement."""
    before, after = reference.astype(np.float64), logits.astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = float(np.sqrt(np.mean((after - before) ** 2)) / before.std())
        change = float(np.abs(_softmax(after) - _softmax(before)).max())
    predicted = after.argmax(axis=1)
    same = predicted == before.argmax(axis=1)
    return EngineParity(
        rows=len(labels),
        agreement=float((same & np.isfinite(after).all(axis=1)).mean()),
        logit_error=error if np.isfinite(error) else float("inf"),
        largest_change=change if np.isfinite(change) else 1.0,
        f1_reference=compute_metrics(labels, before.argmax(axis=1))["macro_f1"],
        f1=compute_metrics(labels, predicted)["macro_f1"],
    )


def violations(found: EngineParity, limits: EngineConfig) -> list[str]:
    """The configured limits that are not kept, one sentence each; fewer than `MIN_ROWS` rows are a violation, too."""
    broken = []
    if found.rows < MIN_ROWS:
        broken.append(f"{found.rows} held-out rows, and at least {MIN_ROWS} are needed")
    if not found.agreement >= limits.min_agreement:
        broken.append(f"agreement {found.agreement:.4f} < engine.min_agreement {limits.min_agreement}")
    if not found.logit_error <= limits.max_logit_error:
        broken.append(f"rms logit error {found.logit_error:.3f} > engine.max_logit_error {limits.max_logit_error}")
    if not found.f1_reference - found.f1 <= limits.max_f1_drop:
        broken.append(f"macro-F1 {found.f1:.4f} against {found.f1_reference:.4f}, drop > engine.max_f1_drop {limits.max_f1_drop}")
    return broken


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))
