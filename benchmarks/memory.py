"""GPU memory of training and scoring: under a cap, as on a smaller card, and with the base kept in NF4.

    python benchmarks/memory.py FOLDER --json memory.json
    python benchmarks/memory.py FOLDER --json memory.json --parts train_16gib infer_6gib

FOLDER holds the random base (16 GB, built on first use; other benchmarks share it). Each part runs in a process of its own, so
that memory starts empty. Under a cap the process may not allocate more than that: what does not fit on such a card fails here
too. `used` counts the CUDA context and paged optimisers as well. `--tiny` runs it without a GPU.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import llama8b
import measuring
import torch
from measuring import say

PARTS: Final[dict[str, tuple[str, float | None, tuple[str, ...]]]] = {
    "train_16gib": ("train", 16.0, ("engine.memory_gib=16",)),
    "infer_6gib": ("infer", 6.0, ("engine.memory_gib=6",)),
    "train_nf4": ("train", None, ("engine.residency=nf4",)),
    "infer_nf4": ("infer", None, ("engine.residency=nf4",)),
    "train_stock": ("train", None, ("engine.training=stock",)),
    "infer_stock": ("infer", None, ("engine.inference=stock",)),
}
"""Work, cap in GiB, overrides of the configuration."""
CONTEXT_GIB: Final = 0.5  # CUDA context and libraries: on a card of 16 GiB they take their share too


@contextmanager
def sampled(samples: list[float]) -> Iterator[None]:
    """Append GiB in use on the device, all that is not free, every 50 ms."""
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.05):
            free, total = torch.cuda.mem_get_info()
            samples.append((total - free) / 2**30)

    if not torch.cuda.is_available():
        yield
        return
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_part(name: str, base: Path, adapter: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """One part, in this process: peak memory and the rate that it came with."""
    work, cap, overrides = PARTS[name]
    config = llama8b.configure(base, "llama-3.1-8b", [*overrides, *arguments.set])
    measuring.free()
    measuring.mark_memory()
    if torch.cuda.is_available() and cap is not None and not arguments.no_cap:
        total = torch.cuda.mem_get_info()[1] / 2**30
        torch.cuda.set_per_process_memory_fraction(min(1.0, (cap - CONTEXT_GIB) / total))
    count = 16 * arguments.steps if work == "train" else arguments.rows
    lengths = llama8b.draw_lengths(count, seed=arguments.seed, lengths=arguments.lengths)
    texts = llama8b.write_texts(lengths, seed=arguments.seed)
    samples: list[float] = []
    with sampled(samples):
        done = (train_part if work == "train" else infer_part)(config, adapter, texts, arguments)
    return {
        "part": name,
        "work": work,
        "cap_gib": cap,
        "cap_enforced": cap is not None and not arguments.no_cap,
        "overrides": [*overrides, *arguments.set],
        "rows": count,
        "tokens_per_row": round(float(lengths.mean()), 2),
        "allocated_gib": measuring.peak_gib(),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / 2**30, 2) if torch.cuda.is_available() else None,
        "used_gib": round(max(samples), 2) if samples else None,
        **done,
    }


def train_part(config: Any, adapter: Path, texts: llama8b.Texts, arguments: argparse.Namespace) -> dict[str, Any]:
    """Some steps of 16 rows through `finsent.training.trainer.train`."""
    del adapter
    from finsent.training.trainer import LabelledTexts, train

    home, steps = llama8b.home_in(arguments.folder), []
    rows = LabelledTexts(texts.texts, llama8b.draw_labels(len(texts.texts), seed=arguments.seed))
    train(config, home, rows, rows, home.runs / f"memory-{time.time_ns()}", lambda _, values: steps.append(values))
    rates = [values["rows_per_second"] for values in steps if "rows_per_second" in values]
    return {"steps": len(rates), "rows_per_second": round(sorted(rates)[len(rates) // 2], 2)}


def infer_part(config: Any, adapter: Path, texts: llama8b.Texts, arguments: argparse.Namespace) -> dict[str, Any]:
    """Opening, then one pass over all rows; the peak of opening is told apart as well."""
    from finsent.models.adapter import load_adapter
    from finsent.models.predict import predict_logits

    loaded = load_adapter(adapter, llama8b.home_in(arguments.folder))
    if not arguments.without_planner:
        from finsent.models.load import prepare_for_inference

        loaded = prepare_for_inference(loaded, config.engine, rows=len(texts.texts))
    opened = time.perf_counter()
    load_peak = measuring.peak_gib()
    predict_logits(loaded, texts.texts)
    seconds = time.perf_counter() - opened
    return {
        "opening_allocated_gib": load_peak,
        "rows_per_second": round(len(texts.texts) / seconds, 2),
        "engine": getattr(loaded, "engine", "stock"),
    }


def in_process_of_its_own(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run this script again for one part and read what it prints last: `environment` and `result`."""
    options = [f"--set={value}" for value in arguments.set]
    options += ["--tiny"] * arguments.tiny + ["--no-cap"] * arguments.no_cap
    options += ["--without-planner"] * arguments.without_planner
    options += [f"--lengths={arguments.lengths}"] if arguments.lengths else []
    command = [sys.executable, __file__, str(arguments.folder), "--only", name, f"--steps={arguments.steps}"]
    ended = subprocess.run(
        [*command, f"--rows={arguments.rows}", f"--seed={arguments.seed}", *options],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise RuntimeError(f"{name} ended with {ended.returncode}: {ended.stdout[-500:]}")
    answer: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return answer


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama8b.add_options(parser)
    parser.add_argument(
        "--parts", nargs="+", choices=list(PARTS), default=["train_16gib", "infer_6gib", "train_nf4", "infer_nf4"]
    )
    parser.add_argument("--only", choices=list(PARTS), help="this part, in this process, its result as the last line printed")
    parser.add_argument("--steps", type=int, default=20, help="training steps of 16 rows")
    parser.add_argument("--rows", type=int, default=2048, help="rows scored")
    parser.add_argument("--no-cap", action="store_true", help="let finsent keep to the cap by itself")
    parser.add_argument("--without-planner", action="store_true", help="score with what `load_adapter` gives")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts one after the other, one JSON file as they go."""
    arguments = parse(argv)
    if arguments.only:
        base, _ = llama8b.build_base(arguments.folder, tiny=arguments.tiny)
        config = llama8b.configure(base, "llama-3.1-8b", arguments.set)
        adapter = llama8b.make_adapter(base, arguments.folder / "memory-adapter", config)
        result = run_part(arguments.only, base, adapter, arguments)
        device = "cuda:0" if torch.cuda.is_available() else "cpu"
        print(json.dumps({"environment": measuring.environment(device), "result": result}))
        return 0
    # this process asks nothing of the GPU: its own context would lie beside what is measured
    found: dict[str, Any] = {
        "benchmark": "memory",
        "tiny": arguments.tiny,
        "environment": {},
        "results": [],
        "finished": False,
    }
    for name in arguments.parts:
        with measuring.part(name, arguments.json, found) as result:
            answer = in_process_of_its_own(name, arguments)
            found["environment"] = answer["environment"] | {"command": measuring.command()}
            result.update(answer["result"])
    say("done")
    return measuring.finish(arguments.json, found)


if __name__ == "__main__":
    raise SystemExit(main())
