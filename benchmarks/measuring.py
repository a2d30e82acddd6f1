"""Shared by the benchmarks: floors, rates, memory, and the JSON file of results, written as they come."""

import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

LINEAR_WEIGHTS: Final = 6.979e9  # 32 * 4096 * (2*4096 + 2*1024 + 3*14336): all linear layers of Llama-3.1-8B but the head
CEILING: Final = {"bf16": 790e12, "fp8": 1350e12}
"""FLOP/s of large matrix products as measured on one H200 in short runs: what the floors of the issue and of the docs go by."""
FULL_RUN: Final = 38_119 * 3  # rows that the card's run trains on
_STARTED: Final = time.perf_counter()


def say(text: str) -> None:
    """Print with the seconds since the start, at once: a run that is killed has said how far it came.

    Of several processes under `torchrun` the main one alone does.
    """
    if os.environ.get("RANK", "0") == "0":
        print(f"[{time.perf_counter() - _STARTED:7.1f} s] {text}", flush=True)


def command() -> str:
    """How the running script was called, its folders left out."""
    shown = [Path(a).name if a.endswith((".json", ".txt")) else "FOLDER" if "/" in a else a for a in sys.argv[1:]]
    processes = os.environ.get("LOCAL_WORLD_SIZE")  # which torchrun sets, for one process too
    launcher = f"torchrun --nproc-per-node {processes}" if processes else "python"
    return " ".join([launcher, f"benchmarks/{Path(sys.argv[0]).name}", *shown])


def environment(device: str) -> dict[str, Any]:
    """What it ran on."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else f"cpu ({torch.get_num_threads()} threads)",
        "memory_gib": round(torch.cuda.mem_get_info()[1] / 2**30, 1) if device.startswith("cuda") else None,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": command(),
    }
    for package in ("torch", "transformers", "peft", "bitsandbytes"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def save(path: Path | None, found: dict[str, Any]) -> None:
    """Write what was found so far, in one rename."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
    partial.rename(path)


@contextmanager
def part(name: str, path: Path | None, found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One part of a benchmark: its result is added and saved; a fault is said, kept under `failed`, and the next part runs.

    Device time is scarce: what was measured before and what comes after must not be lost. The exit status tells of it.
    """
    say(f"{name}: started")
    started, result = time.perf_counter(), {"part": name}
    try:
        yield result
    except Exception as error:  # noqa: BLE001 - any fault is reported, and fails the run at its end
        traceback.print_exc()
        found.setdefault("failed", []).append({"part": name, "error": f"{type(error).__name__}: {error}"[:2000]})
    else:
        result["part_seconds"] = round(time.perf_counter() - started, 1)
        found["results"].append(result)
        say(f"{name}: {json.dumps({key: value for key, value in result.items() if not isinstance(value, list)})}")
    save(path, found)


def finish(path: Path | None, found: dict[str, Any]) -> int:
    """Mark the file complete; the exit status."""
    found["finished"] = True
    save(path, found)
    for fault in found.get("failed", []):
        say(f"FAILED {fault['part']}: {fault['error']}")
    return 1 if found.get("failed") else 0


def free() -> None:
    """Give back what dead models hold: PEFT models are reference cycles."""
    import gc

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def mark_memory() -> int:
    """Start a measurement of peak memory; bytes that are allocated already."""
    if not torch.cuda.is_available():
        return 0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_gib(before: int = 0) -> float | None:
    """Peak of allocated memory since `mark_memory`, less what was allocated `before`, GiB; None on a CPU."""
    return round((torch.cuda.max_memory_allocated() - before) / 2**30, 2) if torch.cuda.is_available() else None


def measure_ceiling(device: str, size: int = 8192, repeats: int = 20) -> dict[str, float]:
    """TFLOP/s of one size^3 product of random matrices: bf16, and rowwise fp8 where the device has it."""
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    products = {"bf16": lambda: a @ b}
    if device.startswith("cuda") and torch.cuda.get_device_capability() >= (9, 0):
        eight, transposed = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()
        scale = torch.ones(size, 1, device=device)
        products["fp8"] = lambda: torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
            eight, transposed, scale_a=scale, scale_b=scale.t(), out_dtype=torch.bfloat16, use_fast_accum=True
        )
    found = {}
    for name, product in products.items():
        for _ in range(3):
            product()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(repeats):
            product()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        found[name] = round(2 * size**3 * repeats / (time.perf_counter() - started) / 1e12, 3)
    return found


def floor_rows_per_second(work: str, tokens_per_row: float, precision: str = "bf16", flops: float | None = None) -> float:
    """Rows/s if all time went into the linear layers: 4N FLOP a token in training (frozen base), 2N in inference."""
    return (flops or CEILING[precision]) / ({"train": 4, "infer": 2}[work] * LINEAR_WEIGHTS * tokens_per_row)


def rates(
    work: str,
    *,
    rows: Sequence[int],
    seconds: Sequence[float],
    tokens_per_row: float,
    padded_per_real: float | None,
    precision: str = "bf16",
    wall: float | None = None,
    ceiling: dict[str, float] | None = None,
    devices: int = 1,
) -> dict[str, Any]:
    """The columns of every table, from timed pieces of work (steps or passes).

    `wall` is rows/s over the whole timed part where the pieces do not cover it; else all rows by all seconds. `ceiling` is that
    of one of the `devices`, and shares are of all of them.
    """
    median = float(np.median(np.array(rows) / np.array(seconds)))
    wall = wall if wall is not None else sum(rows) / sum(seconds)
    per_token = {"train": 4, "infer": 2}[work] * LINEAR_WEIGHTS
    found: dict[str, Any] = {
        "rows_per_second": round(median, 2),
        "rows_per_second_wall": round(wall, 2),
        "tokens_per_row": round(tokens_per_row, 2),
        "tokens_per_second": round(median * tokens_per_row),
        "padded_per_real": round(padded_per_real, 3) if padded_per_real else None,
        "useful_tflops": round(median * tokens_per_row * per_token / 1e12, 2),
        "share_of_floor": round(median / devices / floor_rows_per_second(work, tokens_per_row, precision), 4),
        "precision": precision,
    }
    measured = (ceiling or {}).get(precision)
    if measured:
        limit = floor_rows_per_second(work, tokens_per_row, precision, measured * 1e12)
        found["share_of_measured_ceiling"] = round(median / devices / limit, 4)
    if work == "train":
        found["hours_full_run"] = round(FULL_RUN / wall / 3600, 3)
    else:
        found["hours_per_million"] = round(1e6 / wall / 3600, 3)
    return found


def spread(results: Sequence[dict[str, Any]], name: str) -> float | None:
    """Relative difference of the first and the last result called `name` (the two A sides of A-B-A); None if it ran once."""
    found = [result["rows_per_second"] for result in results if result["part"] == name]
    return round(abs(found[0] - found[-1]) / min(found[0], found[-1]), 4) if len(found) > 1 else None
