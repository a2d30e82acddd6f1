"""The model side of scoring in one process: loading (fp8 only after a parity check) and logits of chunk after chunk."""

import logging
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from finsent.config import EngineConfig
from finsent.errors import InputError
from finsent.evaluation.engine_parity import compare_engines, violations
from finsent.models.manifest import Manifest
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.models.adapter import LoadedAdapter


_log = logging.getLogger(__name__)

PARITY_ROWS = 2000
"""Validation rows that fp8 is measured on; they tell an agreement of 99 % to within 0.5 points."""
ORDINARY: Final = "$AAPL reports earnings on Tuesday"
"""A text for which a sound model has logits."""
_FEWEST_OF_A_MODEL: Final = 3
"""Texts without finite logits that are the model's fault, where they are most of a chunk."""


@dataclass(frozen=True)
class ModelSpec:
    """What a model is loaded from: plain values, which can be sent to a worker process."""

    folder: Path
    """Of the adapter."""
    home: Workspace
    engine: EngineConfig
    rows: int
    """About how many texts it will score."""
    token_budget: int
    """See `scoring.token_budget`."""


@dataclass(frozen=True)
class EngineInfo:
    """The engine that computes predictions, as the MLflow run records it."""

    name: str
    """`stock` or `packed`."""
    precision: str
    """Type of the weights."""
    devices: tuple[str, ...]
    plan: str = ""
    """Reasons for the choice; the measured parity of fp8, or why it is not used."""

    def params(self) -> dict[str, str]:
        """As parameters of an MLflow run."""
        return {"engine": self.name, "precision": self.precision, "devices": ", ".join(self.devices), "plan": self.plan}


@dataclass(frozen=True)
class ChunkLogits:
    """Logits of a chunk's texts."""

    logits: NDArray[np.float32]
    """[texts, 3], in the order of the texts; those of single texts may not be finite."""
    tokens: int
    """Tokens of the texts, without padding."""


PredictFn = Callable[[Iterator[list[str]]], Generator[ChunkLogits, None, None]]
"""Texts of chunk after chunk to their logits, in order."""


@dataclass(frozen=True)
class Predictor:
    """A loaded model, in this process or in workers."""

    predict: PredictFn
    manifest: Manifest
    engine: EngineInfo


def load_local(spec: ModelSpec, device: str | None = None) -> Predictor:
    """Load the model into this process."""
    loaded = load_model(spec, device)
    return Predictor(lambda chunks: predict_chunks(loaded, chunks, spec.token_budget), loaded.manifest, describe_engine(loaded))


def load_model(spec: ModelSpec, device: str | None = None) -> "LoadedAdapter":
    """The model, on `device` or the default one."""
    return load_with_fp8_check(spec.engine, spec.home, spec.folder, rows=spec.rows, device=device)


def load_with_fp8_check(
    engine: EngineConfig, home: Workspace, folder: Path, *, rows: int, device: str | None = None
) -> "LoadedAdapter":
    """Load an adapter for about `rows` texts; with `engine.precision=fp8`, in fp8 if it passes the parity check.

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
    in_fp8, reason = _try_fp8(engine, loaded, held_out)
    if reason is None:
        return in_fp8
    _log.warning("fp8 is refused: %s. Scoring in bf16.", reason)
    del loaded, in_fp8  # converting used the bf16 weights up
    again = load_for_inference(folder, home, engine, rows=rows, device=device)
    return replace(again, plan=f"{again.plan}; fp8 refused: {reason}")


_one_model_at_a_time = threading.Lock()


@contextmanager
def only_model(engine: EngineConfig, home: Workspace, folder: Path, *, rows: int) -> "Iterator[LoadedAdapter]":
    """The only loaded model of this process, prepared for about `rows` texts. Loading frees the memory of those before.

    Two 8B models do not fit on one GPU, and transformers does not load models in two threads at once.

    Raises:
        ArtifactError: the folder or the base is not what the manifest says.
        BaseModelError: the base cannot be loaded.
    """
    with _one_model_at_a_time:
        yield load_with_fp8_check(engine, home, folder, rows=rows)


def _fp8_unsupported_reason(loaded: "LoadedAdapter") -> str | None:
    from finsent.engine.fp8 import fp8_unsupported_reason

    if reason := fp8_unsupported_reason(loaded.device):
        return reason
    if loaded.packed is None or loaded.packed.fused is None:
        return "the adapter is not merged into dense weights here"
    if not loaded.packed.compiled:
        return "it only pays when compiled, and engine.compile is never"
    return None


def _validation_rows(home: Workspace) -> "Split | None":
    from finsent.data.dataset import data_version, load_split

    try:
        split = load_split(home, "validation", data_version(home).version)
    except InputError:
        return None  # nothing was ingested
    return split if split.texts else None


def _try_fp8(engine: EngineConfig, loaded: "LoadedAdapter", held_out: "Split") -> "tuple[LoadedAdapter, str | None]":
    """The model in fp8, and why it may not be used; None if it may."""
    from finsent.engine.fp8 import convert_to_fp8
    from finsent.models.predict import predict_logits

    texts, labels = held_out.texts[:PARITY_ROWS], held_out.labels[:PARITY_ROWS]
    reference = predict_logits(loaded, texts)
    assert loaded.packed is not None, "checked before"  # noqa: S101 - for the type checker
    in_fp8 = replace(loaded, packed=convert_to_fp8(loaded.packed), precision="fp8")
    found = compare_engines(reference, predict_logits(in_fp8, texts, finite=False), labels)
    summary = (
        f"agreement {found.agreement:.4f}, rms logit error {found.logit_error:.3f}, macro-F1 {found.f1:.4f} "
        f"(bf16 {found.f1_reference:.4f}) on {found.rows} held-out rows"
    )
    _log.info("fp8 against bf16: %s", summary)
    return replace(in_fp8, plan=f"{in_fp8.plan}; fp8: {summary}"), "; ".join(violations(found, engine)) or None


def describe_engine(loaded: "LoadedAdapter") -> EngineInfo:
    """The engine of a loaded model."""
    quantization = loaded.manifest.quantization
    stored = quantization.compute_dtype if quantization.kind == "none" else quantization.kind
    return EngineInfo(
        loaded.engine, stored if loaded.precision == "as loaded" else loaded.precision, (loaded.device,), loaded.plan
    )


def predict_chunks(loaded: "LoadedAdapter", chunks: Iterator[list[str]], token_budget: int) -> Generator[ChunkLogits, None, None]:
    """Logits of each chunk's texts, see `prefetch` and `compute_logits`."""

    def compute(rows: list[list[int]]) -> NDArray[np.float32]:
        return compute_logits(loaded, rows, ordinary, token_budget)

    def prepare(texts: list[str]) -> list[list[int]]:
        return tokenise_texts(loaded, texts)

    ordinary = prepare([ORDINARY])  # before a thread is at the tokenizer
    return prefetch(chunks, prepare, compute)


def tokenise_texts(loaded: "LoadedAdapter", texts: list[str]) -> list[list[int]]:
    """Token ids of each text as the model takes them."""
    from finsent.models.predict import tokenise

    return tokenise(loaded.tokenizer, texts, loaded.manifest.max_length)


def compute_logits(
    loaded: "LoadedAdapter", rows: list[list[int]], ordinary: list[list[int]], token_budget: int
) -> NDArray[np.float32]:
    """Logits [rows, 3] of token ids; those of single rows may not be finite.

    Args:
        loaded: The model.
        rows: Token ids of each text.
        ordinary: Those of `ORDINARY`: where it has no finite logits either, it is the model's fault.
        token_budget: See `scoring.token_budget`.

    Raises:
        FinsentError: it is the model that gives no finite logits, and not that some texts have none.
    """
    from finsent.models.predict import finite_rows, predict_tokens, require_finite

    def compute(some: list[list[int]]) -> NDArray[np.float32]:
        return predict_tokens(loaded, some, token_budget=token_budget, finite=False)

    logits = compute(rows)
    if not finite_rows(logits).all():
        require_finite(compute(ordinary))
        recompute_apart(compute, rows, logits)
        failed = int((~finite_rows(logits)).sum())
        if failed >= _FEWEST_OF_A_MODEL and failed > len(logits) / 2:
            require_finite(logits)
    return logits


def recompute_apart(
    compute: Callable[[list[list[int]]], NDArray[np.float32]], rows: Sequence[list[int]], logits: NDArray[np.float32]
) -> None:
    """Compute rows without finite logits again, in halves and then alone: in one pass of fp8 a text may spoil the others' too."""
    waiting = [np.flatnonzero(~np.isfinite(logits).all(axis=1))]
    while waiting:
        group = waiting.pop()
        if not len(group):
            continue
        logits[group] = compute([rows[place] for place in group.tolist()])
        bad = group[~np.isfinite(logits[group]).all(axis=1)]
        if len(group) > 1:
            waiting += np.array_split(bad, 2)


def prefetch(
    chunks: Iterator[list[str]],
    prepare: Callable[[list[str]], list[list[int]]],
    compute: Callable[[list[list[int]]], NDArray[np.float32]],
) -> Generator[ChunkLogits, None, None]:
    """Logits of each chunk by `compute`, while a thread already fetches and tokenises (`prepare`) the next chunk.

    An exception in either is raised here, after the chunks before it. Tokenizers work outside Python's global lock.
    """

    def ready() -> list[list[int]] | None:
        texts = next(chunks, None)
        return None if texts is None else prepare(texts)

    ahead = ThreadPoolExecutor(1, thread_name_prefix="finsent-tokenise")
    try:
        pending = ahead.submit(ready)
        while (rows := pending.result()) is not None:
            pending = ahead.submit(ready)
            yield ChunkLogits(compute(rows), sum(map(len, rows)))
    finally:
        # No waiting: the source of chunks may block for ever.
        ahead.shutdown(wait=False, cancel_futures=True)
