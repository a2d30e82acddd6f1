"""Training speed: the card's way and finsent's side by side in one process, on the same rows.

    python benchmarks/speed_train.py FOLDER --json train.json
    python benchmarks/speed_train.py FOLDER --json train.json --parts naive card fast naive --steps 200 --set engine.residency=nf4
    torchrun --nproc-per-node 2 benchmarks/speed_train.py FOLDER --json train-2.json --parts fast

FOLDER holds the random base (16 GB, built on first use; other benchmarks share it). Parts run in the order given, so the
default is A-B-A: `naive` (benchmarks/naive.py), `card` (profile llama-3.1-8b), `fast` (llama-3.1-8b-fast), `naive` again.
Under `torchrun` finsent's side trains over all processes, one on each GPU; the main one reports and writes. `--tiny` does the
same with a toy base, on a CPU too: its figures mean nothing.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama8b
import measuring
import naive
import numpy as np
from measuring import say

from finsent.models.base_model import pick_device
from finsent.training import distributed
from finsent.training.distributed import World, world_from_env

TRAINABLE = 41_955_328  # r 16 on seven projections of 32 layers, and the head: the card's number
PROFILES = {"card": "llama-3.1-8b", "fast": "llama-3.1-8b-fast"}


@dataclass
class Watch:
    """Collects what `train` reports, and when."""

    steps: list[tuple[int, float, dict[str, float]]] = field(default_factory=list)
    other: dict[str, float] = field(default_factory=dict)

    def __call__(self, step: int, values: dict[str, float]) -> None:
        """As `on_metrics` of `finsent.training.trainer.train`."""
        if "rows_per_second" in values:
            self.steps.append((step, time.perf_counter(), dict(values)))
            if step == 1 or step % 20 == 0:
                say(f"step {step}: {values['rows_per_second']:.1f} rows/s, loss {values['loss']:.4f}")
        # whatever else is timed (compiling, capturing) is reported under its own name
        for name, value in values.items():
            if name.endswith("_seconds"):
                self.other[name] = self.other.get(name, 0.0) + value


def read_watch(
    watch: Watch, *, skip: int, rows_per_step: int, tokens_per_row: float, ceiling: dict[str, float], devices: int = 1
) -> dict[str, Any]:
    """Columns from the steps after the first `skip`: the median of their own rates, and rows by the clock from first to last."""
    timed = watch.steps[skip:]
    if len(timed) < 2:
        raise SystemExit(f"{len(watch.steps)} steps were reported, and the first {skip} are not timed. Raise --steps.")
    own = [values["rows_per_second"] for _, _, values in timed]
    wall = (timed[-1][0] - timed[0][0]) * rows_per_step / (timed[-1][1] - timed[0][1])
    padding = [values.get("padding_share", 0.0) for _, _, values in timed]
    found = measuring.rates(
        "train",
        rows=[rows_per_step] * len(own),
        seconds=[rows_per_step / rate for rate in own],
        tokens_per_row=tokens_per_row,
        padded_per_real=float(np.mean([1 / (1 - share) for share in padding])),
        wall=wall,
        ceiling=ceiling,
        devices=devices,
    )
    return found | {
        "steps_timed": len(timed),
        "slowest_step_rows_per_second": round(min(own), 2),
        "first_loss": round(watch.steps[0][2]["loss"], 4),
        "last_loss": round(watch.steps[-1][2]["loss"], 4),
        **{name: round(value, 2) for name, value in watch.other.items()},
    }


def run_naive(model: Any, arguments: argparse.Namespace, data: "Data", result: dict[str, Any], ceiling: dict[str, float]) -> None:
    """One A side: a few steps of the card's loop."""
    before = measuring.mark_memory()
    steps, warmup = arguments.naive_steps, arguments.naive_warmup
    rows = (steps + warmup) * naive.MICRO_BATCH * naive.ACCUMULATION
    timing = naive.train_steps(model, data.tokens[:rows], data.labels[:rows], warmup=warmup, steps=steps, device=arguments.device)
    result.update(
        measuring.rates(
            "train",
            rows=timing.rows,
            seconds=timing.seconds,
            tokens_per_row=timing.tokens / sum(timing.rows),
            padded_per_real=timing.padded / timing.tokens,
            ceiling=ceiling,
        )
    )
    result.update(
        {
            "rows_per_step": naive.MICRO_BATCH * naive.ACCUMULATION,
            "steps_timed": len(timing.seconds),
            "first_loss": round(timing.losses[0], 4),
            "last_loss": round(timing.losses[-1], 4),
            # the model lies in memory for both A sides: its share is added here and taken off the others
            "peak_gib": measuring.peak_gib(),
            "step_seconds": [round(seconds, 4) for seconds in timing.seconds],
            "resident_gib": round(before / 2**30, 2),
        }
    )


def run_ours(
    profile: str,
    base: Path,
    arguments: argparse.Namespace,
    data: "Data",
    result: dict[str, Any],
    ceiling: dict[str, float],
    world: World,
) -> None:
    """The B side: `finsent.training.trainer.train`, as `finsent train` calls it, in every process of a launch."""
    from finsent.training.trainer import LabelledTexts, train

    config = llama8b.configure(base, profile, arguments.set)
    rows_per_step = config.recipe.batch_size * config.recipe.accumulation
    count = min(len(data.texts.texts), rows_per_step * (arguments.skip + arguments.steps)) // rows_per_step * rows_per_step
    rows = LabelledTexts(data.texts.texts[:count], data.labels[:count])
    watch, before = Watch(), measuring.mark_memory()
    folder = llama8b.home_in(arguments.folder).runs / distributed.broadcast(world, f"speed-{time.time_ns()}")
    started = time.perf_counter()
    trained = train(config, llama8b.home_in(arguments.folder), rows, rows, folder, watch)
    whole = time.perf_counter() - started
    if not arguments.tiny and trained.trainable_parameters != TRAINABLE:
        raise ValueError(f"{trained.trainable_parameters} parameters were trained, the card's {TRAINABLE} were to be")
    if not world.is_main:  # nothing is reported to it
        return
    tokens_per_row = float(data.texts.wanted[:count].mean())
    found = {"rows_per_step": rows_per_step, "tokens_per_row": tokens_per_row, "ceiling": ceiling, "devices": world.size}
    result.update(read_watch(watch, skip=arguments.skip, **found))
    result.update(
        {
            "profile": profile,
            "processes": trained.processes,
            "overrides": list(arguments.set),
            "rows_per_step": rows_per_step,
            "peak_gib": measuring.peak_gib(before),  # of the main process's GPU
            "trainable_parameters": trained.trainable_parameters,
            "quantized_modules": trained.quantized_modules,
            # everything that `train` did, loading and compiling and the pre-flight check included
            "end_to_end_seconds": round(whole, 1),
            "outside_the_steps_seconds": round(whole - trained.seconds, 1),
            "adapter": str(trained.adapter),
            "adapter_mib": round(sum(path.stat().st_size for path in trained.adapter.iterdir()) / 2**20, 1),
            "losses": [round(values["loss"], 6) for _, _, values in watch.steps],
            "median_rates": [round(values["rows_per_second"], 1) for _, _, values in watch.steps],
        }
    )


@dataclass(frozen=True)
class Data:
    """What both sides train on."""

    texts: llama8b.Texts
    tokens: list[list[int]]
    labels: Any


def prepare(arguments: argparse.Namespace, base: Path, rows: int) -> Data:
    """Texts, their tokens and labels; stops if the token counts are not the ones asked for."""
    from transformers import AutoTokenizer

    texts = llama8b.write_texts(llama8b.draw_lengths(rows, seed=arguments.seed, lengths=arguments.lengths), seed=arguments.seed)
    tokens = AutoTokenizer.from_pretrained(base)(texts.texts, truncation=True, max_length=llama8b.MAX_LENGTH)["input_ids"]
    llama8b.check_lengths(texts, tokens)
    return Data(texts, tokens, llama8b.draw_labels(rows, seed=arguments.seed))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    llama8b.add_options(parser)
    parser.add_argument("--parts", nargs="+", choices=["naive", *PROFILES], help="default: naive card fast naive")
    parser.add_argument("--steps", type=int, default=200, help="timed steps of finsent's side")
    parser.add_argument("--skip", type=int, default=20, help="first steps of finsent's side, not timed")
    parser.add_argument("--naive-steps", type=int, default=8, help="timed steps of each naive side (2.7 s each on an H200)")
    parser.add_argument("--naive-warmup", type=int, default=3)
    parser.add_argument("--rows", type=int, help="rows made; default: what the card's part needs")
    arguments = parser.parse_args(argv)
    world = world_from_env()
    if world.size > 1 and "naive" in (arguments.parts or ()):
        parser.error("--parts: the naive side runs in one process. Under torchrun leave `naive` out.")
    arguments.parts = arguments.parts or (["naive", "card", "fast", "naive"] if world.size == 1 else ["card", "fast"])
    arguments.device = pick_device()
    if not world.is_main:
        arguments.json = None
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts in their order, one JSON file as they go."""
    arguments, world = parse(argv), distributed.init()
    if not world.is_main:
        distributed.barrier(world)  # the main process builds
    base, build_seconds = llama8b.build_base(arguments.folder, tiny=arguments.tiny)
    if world.is_main:
        distributed.barrier(world)
    say(f"base in {base} (built in {build_seconds:.0f} s)")
    needed = 16 * max(arguments.steps + arguments.skip, arguments.naive_steps + arguments.naive_warmup)
    if "fast" in arguments.parts:
        fast = llama8b.configure(base, PROFILES["fast"], arguments.set).recipe
        needed = max(needed, fast.batch_size * fast.accumulation * (arguments.steps + arguments.skip))
    data = prepare(arguments, base, arguments.rows or needed)
    ceiling = measuring.measure_ceiling(arguments.device, **({"size": 128, "repeats": 2} if arguments.tiny else {}))
    found: dict[str, Any] = {
        "benchmark": "speed_train",
        "tiny": arguments.tiny,
        "environment": measuring.environment(arguments.device),
        "lengths": llama8b.describe_lengths(arguments.lengths),
        "tokens_per_row": round(float(data.texts.wanted.mean()), 2),
        "rows": len(data.tokens),
        "measured_ceiling_tflops": ceiling,
        "base_build_seconds": round(build_seconds, 1),
        "results": [],
        "finished": False,
    }
    measuring.save(arguments.json, found)
    say(f"{len(data.tokens)} rows, {found['tokens_per_row']} tokens a row; ceiling {ceiling} TFLOP/s")
    model = None
    for name in arguments.parts:
        with measuring.part(name, arguments.json, found) as result:
            if name == "naive":
                model = model or naive.prepare(naive.load(base, arguments.device))
                run_naive(model, arguments, data, result, ceiling)
            else:
                run_ours(PROFILES[name], base, arguments, data, result, ceiling, world)
        measuring.free()
        found["naive_spread"] = measuring.spread(found["results"], "naive")
        if world.size > 1 and found.get("failed"):  # the others wait for this process: the launcher ends them when it ends
            return measuring.finish(arguments.json, found)
    distributed.shutdown(world)
    return measuring.finish(arguments.json, found)


if __name__ == "__main__":
    raise SystemExit(main())
