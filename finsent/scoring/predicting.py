"""The model's part of scoring, in this process: texts of chunk after chunk in, their logits out.

While the device computes one chunk, a thread tokenises the next: the tokenizer works outside Python's lock.
"""

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.config.model_schema import EngineConfig
from finsent.home import Home
from finsent.model.manifest import Manifest

if TYPE_CHECKING:
    from finsent.model.adapter import Loaded


@dataclass(frozen=True)
class Opening:
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
class Engine:
    """What computes the predictions, as the run records it."""

    name: str
    """stock or packed."""
    precision: str
    """Type of the weights."""
    devices: tuple[str, ...]
    plan: str = ""
    """Why it computes so; what fp8 was found to change, or why it is not used."""


@dataclass(frozen=True)
class Predicted:
    """What the model says of a chunk's texts."""

    logits: NDArray[np.float32]
    """[texts, 3], in the order of the texts."""
    tokens: int
    """Tokens of the texts, padding not counted."""


Predict = Callable[[Iterator[list[str]]], Generator[Predicted, None, None]]
"""Predictions of the texts of one chunk after the other, in the order of the chunks."""


@dataclass(frozen=True)
class Opened:
    """A model that is ready, here or in processes of its own."""

    predict: Predict
    manifest: Manifest
    engine: Engine


def open_model(opening: Opening, device: str | None = None) -> "Loaded":
    """The model, on `device` or where it is fastest."""
    from finsent.scoring.opening import open_folder

    return open_folder(opening.engine, opening.home, opening.folder, rows=opening.rows, device=device)


def describe(loaded: "Loaded") -> Engine:
    """What an opened model computes with."""
    quantization = loaded.manifest.quantization
    stored = quantization.compute_dtype if quantization.kind == "none" else quantization.kind
    return Engine(loaded.engine, stored if loaded.precision == "as loaded" else loaded.precision, (loaded.device,), loaded.plan)


def open_here(opening: Opening, device: str | None = None) -> Opened:
    """The model in this process."""
    loaded = open_model(opening, device)
    return Opened(lambda parts: predict_ahead(loaded, parts, opening.token_budget), loaded.manifest, describe(loaded))


def predict_ahead(loaded: "Loaded", parts: Iterator[list[str]], token_budget: int) -> Generator[Predicted, None, None]:
    """Logits of each part's texts, see `overlap`."""
    from finsent.model.engine import predict_tokens, tokenise

    def prepare(texts: list[str]) -> list[list[int]]:
        return tokenise(loaded.tokenizer, texts, loaded.manifest.max_length)

    def compute(rows: list[list[int]]) -> NDArray[np.float32]:
        return predict_tokens(loaded, rows, token_budget=token_budget)

    return overlap(parts, prepare, compute)


def overlap(
    parts: Iterator[list[str]],
    prepare: Callable[[list[str]], list[list[int]]],
    compute: Callable[[list[list[int]]], NDArray[np.float32]],
) -> Generator[Predicted, None, None]:
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
            yield Predicted(compute(rows), sum(map(len, rows)))
    finally:
        # not waited for: a part that is being fetched may be one that never comes
        ahead.shutdown(wait=False, cancel_futures=True)
