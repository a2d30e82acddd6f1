"""Scoring speed: the card's way and finsent's side by side in one process, on the same texts.

    python benchmarks/speed_infer.py FOLDER --json infer.json
    python benchmarks/speed_infer.py FOLDER --json table.json --parts bf16 --table 40000
    python benchmarks/speed_infer.py FOLDER --json gpus.json --parts bf16 --devices 2

FOLDER holds the random base (16 GB, built on first use; other benchmarks share it). Parts run in the order given; the default
is A-B-A: `naive` (batches of 32, 64 and 256, see benchmarks/naive.py), `bf16` and `fp8` (as `prepare_for_inference` gives for
that many rows), `naive` again; `stock` is finsent's padded reference. Each is timed from texts to labels, and on ready tokens
(`model only`). `--table` adds a tweets file to a Delta table of predictions; `--devices` several GPUs. `--tiny` does the same
with a toy base, on a CPU too: its figures mean nothing.
"""

import argparse
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import llama8b
import measuring
import naive
import numpy as np
import torch
from measuring import say
from numpy.typing import NDArray

from finsent.config import Config, InboxSource
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.predict import padded_batches, predict_logits, predict_tokens, tokenise

OURS = ("stock", "bf16", "fp8")


def open_part(name: str, adapter: Path, arguments: argparse.Namespace, config: Config, rows: int) -> LoadedAdapter:
    """The adapter as finsent's commands open it for long work, compiled; `stock` is what `load_adapter` alone gives.

    Random weights would never pass the fidelity gate of fp8, so here it is made without asking.
    """
    loaded = load_adapter(adapter, llama8b.home_in(arguments.folder))
    if name == "stock":
        return loaded
    from finsent.engine.fp8 import convert_to_fp8
    from finsent.models.load import prepare_for_inference

    compiled = config.engine.model_copy(update={"compile": "always"}) if arguments.device != "cpu" else config.engine
    loaded = prepare_for_inference(loaded, compiled, rows=rows)
    if name == "fp8":
        assert loaded.packed is not None, "a Llama is packed"
        loaded = replace(loaded, packed=convert_to_fp8(loaded.packed), precision="fp8")
    return loaded


def time_passes(score: Callable[[], NDArray[np.float32]], rows: int, repeats: int, device: str) -> naive.Timing:
    """`repeats` passes over all rows; results are on the host when the clock is read."""
    timing = naive.Timing()
    for _ in range(repeats):
        naive.synchronize(device)
        started = time.perf_counter()
        logits = score()
        timing.seconds.append(time.perf_counter() - started)
        timing.rows.append(rows)
        if logits.shape[0] != rows or not np.isfinite(logits).all():
            raise ValueError(f"logits of {logits.shape[0]} rows for {rows}, finite: {bool(np.isfinite(logits).all())}")
    return timing


def padded_per_real(loaded: LoadedAdapter, lengths: Sequence[int], token_budget: int = 4096) -> float:
    """Tokens computed to tokens of the texts: 1 where rows are packed."""
    if getattr(loaded, "engine", "stock") == "packed":
        return 1.0
    batches = list(padded_batches(lengths, token_budget))
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches) / sum(lengths)


def run_ours(
    name: str, adapter: Path, config: Config, arguments: argparse.Namespace, texts: llama8b.Texts, ceiling: Any
) -> dict[str, Any]:
    """One engine: opening, the first batches (compiling), and passes over all rows."""
    before, started = measuring.mark_memory(), time.perf_counter()
    loaded = open_part(name, adapter, arguments, config, len(texts.texts))
    opened = time.perf_counter()
    tokens = tokenise(loaded.tokenizer, texts.texts, loaded.manifest.max_length)
    llama8b.check_lengths(texts, tokens)
    opening_peak, before_work = measuring.peak_gib(before), time.perf_counter()
    predict_tokens(loaded, tokens[: arguments.warmup_rows])
    warm = time.perf_counter() - before_work
    say(f"{name}: opened in {opened - started:.1f} s, first {arguments.warmup_rows} rows in {warm:.1f} s")
    measuring.mark_memory()
    only = time_passes(lambda: predict_tokens(loaded, tokens), len(tokens), arguments.repeats, loaded.device)
    whole = time_passes(lambda: predict_logits(loaded, texts.texts), len(tokens), arguments.repeats, loaded.device)
    lengths = texts.wanted.tolist()
    common = {
        "tokens_per_row": float(texts.wanted.mean()),
        "padded_per_real": padded_per_real(loaded, lengths),
        "precision": "fp8" if name == "fp8" else "bf16",
        "ceiling": ceiling,
    }
    found = measuring.rates("infer", rows=whole.rows, seconds=whole.seconds, **common)
    model_only = measuring.rates("infer", rows=only.rows, seconds=only.seconds, **common)
    found |= {
        "model_only": model_only,
        "model_only_rows_per_second": model_only["rows_per_second"],
        "rows": len(tokens),
        "engine": getattr(loaded, "engine", "stock"),
        "open_seconds": round(opened - started, 1),
        "compile_seconds": round(max(0.0, warm - arguments.warmup_rows / model_only["rows_per_second"]), 1),
        "opening_peak_gib": opening_peak,
        "peak_gib": measuring.peak_gib(before),
        "overrides": list(arguments.set),
    }
    if arguments.table:
        found["table"] = measure_table(loaded, arguments, config, model_only["rows_per_second"])
    return found


def run_naive(
    model: Any, tokenizer: Any, arguments: argparse.Namespace, texts: llama8b.Texts, ceiling: Any
) -> list[dict[str, Any]]:
    """One A side: each of the card's batch sizes, in order of arrival."""
    count = min(arguments.naive_rows, len(texts.texts))
    part = texts.texts[:count]
    tokens = tokenizer(part, truncation=True, max_length=llama8b.MAX_LENGTH)["input_ids"]
    found = []
    for rows in arguments.naive_batches:
        measuring.mark_memory()
        whole, only = naive.time_inference(
            model, tokenizer, part, tokens, batch_rows=rows, repeats=arguments.repeats, device=arguments.device
        )
        common = {
            "tokens_per_row": only.tokens / sum(only.rows),
            "padded_per_real": only.padded / only.tokens,
            "ceiling": ceiling,
        }
        result = measuring.rates("infer", rows=whole.rows, seconds=whole.seconds, **common)
        model_only = measuring.rates("infer", rows=only.rows, seconds=only.seconds, **common)
        found.append(
            result
            | {
                "part": f"naive b{rows}",
                "model_only": model_only,
                "model_only_rows_per_second": model_only["rows_per_second"],
                "rows": count,
                "peak_gib": measuring.peak_gib(),
            }
        )
    return found


def measure_table(loaded: LoadedAdapter, arguments: argparse.Namespace, config: Config, model_only: float) -> dict[str, Any]:
    """Parquet of tweets (a tenth of them repeated under other ids) to the Delta table `predictions`, as `finsent score` does it.

    Each distinct text goes through the model once, so the share of the model-only rate is that of distinct rows.
    """
    from finsent.data.inbox import receive
    from finsent.data.predictions import ModelIdentity
    from finsent.models.abstention import abstain_threshold
    from finsent.scoring.chunk_pipeline import score_chunks
    from finsent.scoring.pending_rows import chunk_bounds, find_pending
    from finsent.scoring.predictor import Predictor, describe_engine, predict_chunks
    from finsent.scoring.writer import PredictionMetadata, read_position
    from finsent.workspace import resolve_workspace

    folder = arguments.folder / "table"
    shutil.rmtree(folder, ignore_errors=True)
    file = write_tweets(folder / "tweets.parquet", arguments.table, arguments)
    home = resolve_workspace({"FINSENT_HOME": str(folder / "home")})
    model = ModelIdentity("benchmark", "1", "benchmark", datetime.now(UTC))
    opened = Predictor(
        lambda parts: predict_chunks(loaded, parts, config.scoring.token_budget), loaded.manifest, describe_engine(loaded)
    )
    started = time.perf_counter()
    receive([InboxSource(uri=str(file))], home)
    received = time.perf_counter()
    before = read_position(home)
    due = find_pending(home, model, max_characters=config.data.max_characters)
    derived = time.perf_counter()
    cuts = chunk_bounds(len(due.rows), config.scoring.chunk_rows)
    stamp = PredictionMetadata(model, "benchmark", abstain_threshold(opened.manifest))
    for done in score_chunks(home, opened, due.rows, cuts, stamp, before, due.watermark):
        assert done is not None, "nobody else writes here"
    ended = time.perf_counter()
    return table_figures(due.rows["text"].to_pylist(), model_only, started, received, derived, ended)


def table_figures(
    texts: Sequence[str], model_only: float, started: float, received: float, derived: float, ended: float
) -> dict[str, Any]:
    """Rates of a file-to-table run, and how much of the model-only rate they are."""
    distinct = len(set(texts))
    return {
        "rows": len(texts),
        "distinct": distinct,
        "receive_seconds": round(received - started, 2),
        "due_seconds": round(derived - received, 2),
        "score_and_write_seconds": round(ended - derived, 2),
        "rows_per_second": round(len(texts) / (ended - started), 1),
        "distinct_per_second": round(distinct / (ended - started), 1),
        "share_of_model_only": round(distinct / (ended - started) / model_only, 4),
        "share_of_model_only_from_inbox": round(distinct / (ended - received) / model_only, 4),
    }


def write_tweets(path: Path, count: int, arguments: argparse.Namespace) -> Path:
    """A parquet file with columns id and text: nine tenths distinct, the rest retweets of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    distinct = count - count // 10
    lengths = llama8b.draw_lengths(distinct, seed=arguments.seed + 10, lengths=arguments.lengths)
    texts = llama8b.write_texts(lengths, seed=arguments.seed + 10).texts
    again = np.random.default_rng(arguments.seed).integers(0, distinct, count - distinct)
    texts += [texts[i] for i in again]
    order = np.random.default_rng(arguments.seed + 1).permutation(count)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"id": [f"tweet-{i}" for i in range(count)], "text": [texts[i] for i in order]}), path)
    return path


def measure_devices(adapter: Path, arguments: argparse.Namespace, texts: llama8b.Texts) -> list[dict[str, Any]]:
    """Rows/s over 1, 2, ... `--devices` replicas as `finsent score` makes them, from texts to logits; opening not counted."""
    from finsent.scoring.predictor import ModelSpec, load_local
    from finsent.scoring.workers import model_workers

    config = llama8b.configure(Path(load_base_name(adapter)), "llama-3.1-8b", arguments.set)
    engine = config.engine.model_copy(update={"compile": "always"}) if torch.cuda.is_available() else config.engine
    home, rows = llama8b.home_in(arguments.folder), len(texts.texts)
    size = config.scoring.chunk_rows
    parts = [texts.texts[start : start + size] for start in range(0, rows, size)]
    found = []
    for count in range(1, arguments.devices + 1):
        opening = ModelSpec(adapter, home, engine, rows, config.scoring.token_budget)
        names = [f"cuda:{rank}" for rank in range(count)] if torch.cuda.is_available() else ["cpu"] * count
        # one replica in a process of its own, too: the same way for each count
        with model_workers(opening, names) if count > 1 else nullcontext(load_local(opening, names[0])) as opened:
            for _ in opened.predict(iter(parts[: 2 * count])):
                pass  # compiles
            started = time.perf_counter()
            scored = sum(len(part.logits) for part in opened.predict(iter(parts)))
            seconds = time.perf_counter() - started
            assert scored == rows, "every text comes back"
            del opened
        measuring.free()
        found.append({"devices": count, "rows_per_second": round(rows / seconds, 1), "seconds": round(seconds, 2)})
        found[-1]["scaling"] = round(found[-1]["rows_per_second"] / found[0]["rows_per_second"], 3)
        say(f"{count} devices: {found[-1]}")
    return found


def load_base_name(adapter: Path) -> str:
    """Folder of the base that an adapter belongs to."""
    from finsent.models.manifest import verify_manifest

    return verify_manifest(adapter).base_name


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama8b.add_options(parser)
    parser.add_argument("--parts", nargs="*", choices=["naive", *OURS], default=["naive", "bf16", "fp8", "naive"])
    parser.add_argument("--rows", type=int, default=16384, help="rows of finsent's side")
    parser.add_argument("--naive-rows", type=int, default=768, help="the first of them, for the naive side")
    parser.add_argument("--naive-batches", type=int, nargs="+", default=[32, 64, 256])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warmup-rows", type=int, default=1024)
    parser.add_argument("--table", type=int, default=0, metavar="ROWS", help="also a tweets file of ROWS to predictions")
    parser.add_argument("--devices", type=int, default=0, help="also 1, 2, ... N replicas, one on each GPU")
    arguments = parser.parse_args(argv)
    arguments.device = "cuda:0" if torch.cuda.is_available() else "cpu"
    arguments.warmup_rows = min(arguments.warmup_rows, arguments.rows)
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts in their order, one JSON file as they go."""
    arguments = parse(argv)
    base, build_seconds = llama8b.build_base(arguments.folder, tiny=arguments.tiny)
    say(f"base in {base} (built in {build_seconds:.0f} s)")
    config = llama8b.configure(base, "llama-3.1-8b", arguments.set)
    adapter = llama8b.make_adapter(base, arguments.folder / ("tiny-adapter" if arguments.tiny else "adapter"), config)
    texts = llama8b.write_texts(
        llama8b.draw_lengths(arguments.rows, seed=arguments.seed, lengths=arguments.lengths), seed=arguments.seed
    )
    ceiling = measuring.measure_ceiling(arguments.device, **({"size": 128, "repeats": 2} if arguments.tiny else {}))
    found: dict[str, Any] = {
        "benchmark": "speed_infer",
        "tiny": arguments.tiny,
        "environment": measuring.environment(arguments.device),
        "lengths": llama8b.describe_lengths(arguments.lengths),
        "tokens_per_row": round(float(texts.wanted.mean()), 2),
        "rows": arguments.rows,
        "measured_ceiling_tflops": ceiling,
        "base_build_seconds": round(build_seconds, 1),
        "results": [],
        "finished": False,
    }
    measuring.save(arguments.json, found)
    say(f"{arguments.rows} rows, {found['tokens_per_row']} tokens a row; ceiling {ceiling} TFLOP/s")
    model = tokenizer = None
    for name in arguments.parts:
        with measuring.part(name, arguments.json, found) as result:
            if name == "naive":
                if model is None:
                    model, tokenizer = load_naive(base, adapter, arguments.device)
                *earlier, last = run_naive(model, tokenizer, arguments, texts, ceiling)
                found["results"] += earlier
                result.update(last)
            else:
                result.update(run_ours(name, adapter, config, arguments, texts, ceiling))
        measuring.free()
        spreads = {f"naive b{rows}": measuring.spread(found["results"], f"naive b{rows}") for rows in arguments.naive_batches}
        found["naive_spread"] = spreads
    if arguments.devices:
        model = None
        measuring.free()
        with measuring.part("devices", arguments.json, found) as result:
            result["scaling"] = measure_devices(adapter, arguments, texts)
    return measuring.finish(arguments.json, found)


def load_naive(base: Path, adapter: Path, device: str) -> tuple[Any, Any]:
    """The card's snippet: the base in NF4, the adapter on it and live, the tokenizer beside it."""
    from peft import PeftModel
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(adapter)
    tokenizer.padding_side = "left"
    return PeftModel.from_pretrained(naive.load(base, device), adapter).eval(), tokenizer


if __name__ == "__main__":
    raise SystemExit(main())
