"""Opening an adapter for scoring: the fastest engine for this device, and fp8 only where it proves faithful."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.config import EngineConfig
from finsent.home import Home

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.model.adapter import Loaded

_log = logging.getLogger(__name__)

HELD_OUT = 2000
"""Validation rows that fp8 is measured on: an agreement of 99 % is then known to within 0.5 points."""


def open_folder(engine: EngineConfig, home: Home, folder: Path, *, rows: int, device: str | None = None) -> "Loaded":
    """An adapter's folder, loaded and opened for about `rows` texts, on `device` where one is named.

    Raises:
        ArtifactError: the folder or the base is not what the manifest says.
        BaseModelError: the base cannot be reached.
    """
    from finsent.model.opening import open_adapter

    loaded = open_adapter(folder, home, engine, rows=rows, device=device)
    if engine.precision != "fp8":
        return loaded
    reason = _why_not(loaded)
    held_out = _held_out(home) if reason is None else None
    if held_out is None:
        reason = reason or "this home has no labelled validation rows to measure it on"
        _log.warning("fp8 is not used: %s. Scoring as %s.", reason, loaded.precision)
        return replace(loaded, plan=f"{loaded.plan}; fp8 not used: {reason}")
    eight, reason = _try_fp8(engine, loaded, held_out)
    if reason is None:
        return eight
    _log.warning("fp8 is refused: %s. Scoring in bf16.", reason)
    del loaded, eight  # the bf16 weights went into the fp8 ones: load them again
    again = open_adapter(folder, home, engine, rows=rows, device=device)
    return replace(again, plan=f"{again.plan}; fp8 refused: {reason}")


def _why_not(loaded: "Loaded") -> str | None:
    from finsent.model.fp8 import why_not_fp8

    if reason := why_not_fp8(loaded.device):
        return reason
    if loaded.packed is None or loaded.packed.joined is None:
        return "the adapter is not merged into dense weights here"
    if not loaded.packed.compiled:
        return "it only pays when compiled, and engine.compile is never"
    return None


def _held_out(home: Home) -> "Split | None":
    from finsent.data.dataset import data_version, load_split
    from finsent.errors import InputError

    try:
        split = load_split(home, "validation", data_version(home).version)
    except InputError:
        return None  # nothing was ingested: the caller says that fp8 is not used, and why
    return split if split.texts else None


def _try_fp8(engine: EngineConfig, loaded: "Loaded", held_out: "Split") -> "tuple[Loaded, str | None]":
    """The model in fp8, and why it may not be used."""
    from finsent.evaluation.fidelity import compare, shortfalls
    from finsent.model.engine import predict_logits
    from finsent.model.fp8 import to_fp8

    texts, labels = held_out.texts[:HELD_OUT], held_out.labels[:HELD_OUT]
    reference = predict_logits(loaded, texts)
    assert loaded.packed is not None, "asked before"  # noqa: S101 - tells the type checker
    eight = replace(loaded, packed=to_fp8(loaded.packed), precision="fp8")
    found = compare(reference, predict_logits(eight, texts), labels)
    said = (
        f"agreement {found.agreement:.4f}, rms logit error {found.logit_error:.3f}, macro-F1 {found.f1:.4f} "
        f"(bf16 {found.f1_reference:.4f}) on {found.rows} held-out rows"
    )
    _log.info("fp8 against bf16: %s", said)
    short = shortfalls(found, engine)
    return replace(eight, plan=f"{eight.plan}; fp8: {said}"), "; ".join(short) or None
