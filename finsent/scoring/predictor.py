"""The model's part of scoring, in this process: texts of chunk after chunk in, their logits out.

While the device computes one chunk, a thread tokenises the next: the tokenizer works outside Python's lock.
"""

import logging
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.config import EngineConfig
from finsent.home import Home
from finsent.models.manifest import Manifest

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.models.adapter import LoadedAdapter


@dataclass(frozen=True)
class ModelSpec:
    """What opens the model: plain values, so that they can go to a process of their own."""

    folder: Path
    """Adapter."""
    home: Home
    engine: EngineConfig
    rows: int
    """About how many texts it will see."""
    token_budget: int
    """See `scoring.token_budget`."""


@dataclass(frozen=True)
class EngineInfo:
    """What computes the predictions, as the run records it."""

    name: str
    """stock or packed."""
    precision: str
    """Type of the weights."""
    devices: tuple[str, ...]
    plan: str = ""
    """Why it computes so; what fp8 was found to change, or why it is not used."""


@dataclass(frozen=True)
class ChunkLogits:
    """What the model says of a chunk's texts."""

    logits: NDArray[np.float32]
    """[texts, 3], in the order of the texts."""
    tokens: int
    """Tokens of the texts, padding not counted."""


PredictFn = Callable[[Iterator[list[str]]], Generator[ChunkLogits, None, None]]
"""Predictions of the texts of one chunk after the other, in the order of the chunks."""


@dataclass(frozen=True)
class Predictor:
    """A model that is ready, here or in processes of its own."""

    predict: PredictFn
    manifest: Manifest
    engine: EngineInfo


def load_model(opening: ModelSpec, device: str | None = None) -> "LoadedAdapter":
    """The model, on `device` or where it is fastest."""
    return load_with_fp8_check(opening.engine, opening.home, opening.folder, rows=opening.rows, device=device)


def describe_engine(loaded: "LoadedAdapter") -> EngineInfo:
    """What an opened model computes with."""
    quantization = loaded.manifest.quantization
    stored = quantization.compute_dtype if quantization.kind == "none" else quantization.kind
    return EngineInfo(
        loaded.engine, stored if loaded.precision == "as loaded" else loaded.precision, (loaded.device,), loaded.plan
    )


def load_local(opening: ModelSpec, device: str | None = None) -> Predictor:
    """The model in this process."""
    loaded = load_model(opening, device)
    return Predictor(lambda parts: predict_chunks(loaded, parts, opening.token_budget), loaded.manifest, describe_engine(loaded))


def predict_chunks(loaded: "LoadedAdapter", parts: Iterator[list[str]], token_budget: int) -> Generator[ChunkLogits, None, None]:
    """Logits of each part's texts, see `overlap`."""
    from finsent.models.predict import predict_tokens, tokenise

    def prepare(texts: list[str]) -> list[list[int]]:
        return tokenise(loaded.tokenizer, texts, loaded.manifest.max_length)

    def compute(rows: list[list[int]]) -> NDArray[np.float32]:
        return predict_tokens(loaded, rows, token_budget=token_budget)

    return prefetch(parts, prepare, compute)


def prefetch(
    parts: Iterator[list[str]],
    prepare: Callable[[list[str]], list[list[int]]],
    compute: Callable[[list[list[int]]], NDArray[np.float32]],
) -> Generator[ChunkLogits, None, None]:
    """Logits that `compute` makes of each part; a thread fetches and tokenises (`prepare`) the part after it meanwhile.

    An exception in either is raised here, after the parts before it.
    """

    def ready() -> list[list[int]] | None:
        texts = next(parts, None)
        return None if texts is None else prepare(texts)

    ahead = ThreadPoolExecutor(1, thread_name_prefix="finsent-tokenise")
    try:
        pending = ahead.submit(ready)
        while (rows := pending.result()) is not None:
            pending = ahead.submit(ready)
            yield ChunkLogits(compute(rows), sum(map(len, rows)))
    finally:
        # not waited for: a part that is being fetched may be one that never comes
        ahead.shutdown(wait=False, cancel_futures=True)


_log = logging.getLogger(__name__)

PARITY_ROWS = 2000
"""Validation rows that fp8 is measured on: an agreement of 99 % is then known to within 0.5 points."""


def load_with_fp8_check(
    engine: EngineConfig, home: Home, folder: Path, *, rows: int, device: str | None = None
) -> "LoadedAdapter":
    """An adapter's folder, loaded and opened for about `rows` texts, on `device` where one is named.

    Raises:
        ArtifactError: the folder or the base is not what the manifest says.
        BaseModelError: the base cannot be reached.
    """
    from finsent.models.load import load_for_inference

    loaded = load_for_inference(folder, home, engine, rows=rows, device=device)
    if engine.precision != "fp8":
        return loaded
    reason = _fp8_unsupported_reason(loaded)
    held_out = _validation_rows(home) if reason is None else None
    if held_out is None:
        reason = reason or "this home has no labelled validation rows to measure it on"
        _log.warning("fp8 is not used: %s. Scoring as %s.", reason, loaded.precision)
        return replace(loaded, plan=f"{loaded.plan}; fp8 not used: {reason}")
    eight, reason = _try_fp8(engine, loaded, held_out)
    if reason is None:
        return eight
    _log.warning("fp8 is refused: %s. Scoring in bf16.", reason)
    del loaded, eight  # the bf16 weights went into the fp8 ones: load them again
    again = load_for_inference(folder, home, engine, rows=rows, device=device)
    return replace(again, plan=f"{again.plan}; fp8 refused: {reason}")


def _fp8_unsupported_reason(loaded: "LoadedAdapter") -> str | None:
    from finsent.engine.fp8 import fp8_unsupported_reason

    if reason := fp8_unsupported_reason(loaded.device):
        return reason
    if loaded.packed is None or loaded.packed.fused is None:
        return "the adapter is not merged into dense weights here"
    if not loaded.packed.compiled:
        return "it only pays when compiled, and engine.compile is never"
    return None


def _validation_rows(home: Home) -> "Split | None":
    from finsent.data.dataset import data_version, load_split
    from finsent.errors import InputError

    try:
        split = load_split(home, "validation", data_version(home).version)
    except InputError:
        return None  # nothing was ingested: the caller says that fp8 is not used, and why
    return split if split.texts else None


def _try_fp8(engine: EngineConfig, loaded: "LoadedAdapter", held_out: "Split") -> "tuple[LoadedAdapter, str | None]":
    """The model in fp8, and why it may not be used."""
    from finsent.engine.fp8 import convert_to_fp8
    from finsent.evaluation.engine_parity import compare_engines, violations
    from finsent.models.predict import predict_logits

    texts, labels = held_out.texts[:PARITY_ROWS], held_out.labels[:PARITY_ROWS]
    reference = predict_logits(loaded, texts)
    assert loaded.packed is not None, "asked before"  # noqa: S101 - tells the type checker
    eight = replace(loaded, packed=convert_to_fp8(loaded.packed), precision="fp8")
    found = compare_engines(reference, predict_logits(eight, texts), labels)
    said = (
        f"agreement {found.agreement:.4f}, rms logit error {found.logit_error:.3f}, macro-F1 {found.f1:.4f} "
        f"(bf16 {found.f1_reference:.4f}) on {found.rows} held-out rows"
    )
    _log.info("fp8 against bf16: %s", said)
    short = violations(found, engine)
    return replace(eight, plan=f"{eight.plan}; fp8: {said}"), "; ".join(short) or None
