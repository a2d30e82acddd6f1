"""Speed from a file of tweets to the table of predictions, as a share of the model's own speed.

    python benchmarks/speed_score.py FOLDER --rows 100000 --rate 1400 2500
    python benchmarks/speed_score.py FOLDER --rows 20000 --chunk-rows 2000

With `--rate` the model is simulated by a device of that many tweets a second: it waits for that time, and as with a GPU no
Python runs meanwhile. Tokenising, hashing, tables and commits are real. Without it the model is `nano`, trained on a few
rows of the bundled sample, on this machine's processor, and its own speed that of the same batches, tokenised beforehand.

The host's steps are timed one by one first; then everything together, as `finsent score FILE` does it, without loading the
model. Rows are those of `ingest_scale.py`, with ids; texts that occur twice go through the model once. Tables of earlier runs
in FOLDER are removed.
"""

import argparse
import csv
import json
import logging
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from ingest_scale import tweets
from numpy.typing import NDArray

from finsent.config import Config, InboxSource, load_config
from finsent.data import tables
from finsent.data.inbox import receive
from finsent.data.predictions import ModelIdentity
from finsent.data.sample import sample_sources
from finsent.models.adapter import LoadedAdapter
from finsent.models.predict import predict_tokens, tokenise
from finsent.registry.client import Registry
from finsent.scoring import writer
from finsent.scoring.chunk_pipeline import score_chunks
from finsent.scoring.pending_rows import PendingRows, chunk_bounds, find_pending
from finsent.scoring.predictor import ChunkLogits, ModelSpec, Predictor, describe_engine, load_model, predict_chunks, prefetch
from finsent.scoring.writer import PredictionMetadata, build_predictions, count_distinct_texts, make_chunk
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.train import train
from finsent.workspace import Workspace, resolve_workspace

MODEL = ModelIdentity("finsent", "1", "benchmark", datetime(2025, 1, 1, tzinfo=UTC))
STAMP = PredictionMetadata(MODEL, "benchmark", 0.5)


def main() -> None:
    """Time the steps, then the whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rate", type=float, nargs="*", default=[], help="tweets a second of a device that stands in")
    parser.add_argument("--chunk-rows", type=int, default=20_000)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    home = resolve_workspace({"FINSENT_HOME": str(given.folder / "home")})
    config, loaded = _model(home)
    file = given.folder / f"tweets-{given.rows}.csv"
    if not file.exists():
        _write(file, given.rows)
    steps = _steps(file, home, config, loaded, given.chunk_rows)
    found: dict[str, Any] = {"rows": given.rows, "chunk_rows": given.chunk_rows, "steps": steps, "whole": []}
    for rate in given.rate or [None]:
        found["whole"].append(_whole(file, home, config, loaded, given.chunk_rows, rate))
        print(json.dumps(found["whole"][-1]), file=sys.stderr)
    print(json.dumps(found, indent=2))
    if given.json:
        given.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


def _model(home: Workspace) -> tuple[Config, LoadedAdapter]:
    config = load_config("nano", overrides=["recipe.epochs=0.2"])
    if tables.version(home, "tweets") is None:
        ingest(make_context(config, home), sample_sources(1)[:1])
        train(make_context(config, home))
    folder = Registry(home, config.registered_model).adapter_path("1")
    return config, load_model(ModelSpec(folder, home, config.engine, 0, config.scoring.token_budget))


def _write(file: Path, count: int) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("id", "text"))
        out.writerows((f"{0x9E3779B97F4A7C15 * (i + 1) % 2**60:019d}", text) for i, (text, _) in enumerate(tweets(count, 1)))


def _fresh(home: Workspace) -> None:
    for name in ("inbox", "predictions", "quarantine"):
        shutil.rmtree(tables.location(home, name), ignore_errors=True)


def _timed(run: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = run()
    return round(time.perf_counter() - started, 3), result


def _steps(file: Path, home: Workspace, config: Config, loaded: LoadedAdapter, size: int) -> dict[str, float]:
    """Seconds of each of the host's steps, one after the other."""
    _fresh(home)
    steps: dict[str, float] = {}
    steps["receive"], _ = _timed(lambda: receive([InboxSource(uri=str(file))], home))
    steps["find due"], due = _timed(lambda: _due(home, config))
    cuts = chunk_bounds(len(due.rows), size)
    steps["cut chunks"], parts = _timed(lambda: [make_chunk(due.rows, *place) for place in cuts])
    steps["tokenise"], _ = _timed(lambda: [tokenise(loaded.tokenizer, part.texts, loaded.manifest.max_length) for part in parts])
    logits = [np.random.default_rng(0).normal(size=(len(part.texts), 3)).astype(np.float32) for part in parts]
    steps["make rows"], rows = _timed(
        lambda: [build_predictions(part, found, loaded.manifest, STAMP) for part, found in zip(parts, logits, strict=True)]
    )

    def commit() -> None:
        after = writer.read_position(home)
        for some in rows:
            written = writer.commit_chunk(home, some, after)
            if written is None:
                raise SystemExit("somebody else writes to the benchmark's tables")
            after = written

    steps["commit"], _ = _timed(commit)
    return steps


def _due(home: Workspace, config: Config) -> PendingRows:
    return find_pending(home, STAMP.model, max_characters=config.data.max_characters)


def _whole(file: Path, home: Workspace, config: Config, loaded: LoadedAdapter, size: int, rate: float | None) -> dict[str, Any]:
    _fresh(home)
    budget = config.scoring.token_budget

    def wait(rows: list[list[int]]) -> NDArray[np.float32]:
        time.sleep(len(rows) / (rate or 1.0))
        return np.random.default_rng(0).normal(size=(len(rows), 3)).astype(np.float32)

    def stand_in(parts: Iterator[list[str]]) -> Generator[ChunkLogits, None, None]:
        return prefetch(parts, lambda texts: tokenise(loaded.tokenizer, texts, loaded.manifest.max_length), wait)

    def really(parts: Iterator[list[str]]) -> Generator[ChunkLogits, None, None]:
        return predict_chunks(loaded, parts, budget)

    opened = Predictor(stand_in if rate else really, loaded.manifest, describe_engine(loaded))
    started = time.perf_counter()
    receive([InboxSource(uri=str(file))], home)
    before = writer.read_position(home)
    due = _due(home, config)
    ready = time.perf_counter()
    for done in score_chunks(home, opened, due.rows, chunk_bounds(len(due.rows), size), STAMP, before, due.watermark):
        if done is None:
            raise SystemExit("somebody else scores in the benchmark's home")
    ended = time.perf_counter()
    texts, alone = count_distinct_texts(due.rows), 0.0
    if rate is None:
        for place in chunk_bounds(len(due.rows), size):
            rows = tokenise(loaded.tokenizer, make_chunk(due.rows, *place).texts, loaded.manifest.max_length)
            seconds, _ = _timed(lambda rows=rows: predict_tokens(loaded, rows, token_budget=budget))
            alone += seconds
    else:
        alone = sum(len(make_chunk(due.rows, *place).texts) for place in chunk_bounds(len(due.rows), size)) / rate
    return {
        "rate": rate,
        "rows": len(due.rows),
        "texts": texts,
        "seconds": round(ended - started, 2),
        "of that before the model": round(ready - started, 2),
        "model alone": round(alone, 2),
        "share": round(alone / (ended - started), 4),
        "share from inbox on": round(alone / (ended - ready), 4),
    }


if __name__ == "__main__":
    logging.getLogger("finsent").setLevel(logging.WARNING)
    main()
