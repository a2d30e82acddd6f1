"""Scoring by actors on Ray beside one process and beside as many worker processes of finsent's own, one after the other.

    python benchmarks/speed_ray.py FOLDER                                        # on cores, two workers
    python benchmarks/speed_ray.py FOLDER --device cuda --workers 2 --rows 40000 # on GPUs

From texts to logits, the same chunks for each: opening (processes or Ray started, models loaded) and computing are timed
apart, and logits must be equal to the bit. On a CPU the model is `nano`'s shape with a head drawn by chance, one thread each
(OMP_NUM_THREADS=1). `--adapter` names another adapter's folder; with its base as that adapter's manifest names it.
"""

import argparse
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import measuring
import numpy as np
from ingest_scale import tweets
from measuring import say

from finsent.config import RayConfig, load_config
from finsent.scoring.predictor import ModelSpec, Predictor, load_local
from finsent.scoring.ray_actors import ray_actors
from finsent.scoring.workers import model_workers
from finsent.workspace import resolve_workspace

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests/, for an adapter that nobody has trained


def main() -> None:
    """Measure the three, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--chunk-rows", type=int, default=500)
    parser.add_argument("--cores", type=int, default=1, help="that Ray reserves for an actor")
    parser.add_argument("--address", help="of a Ray cluster; left out, one of this machine")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    home = resolve_workspace({"FINSENT_HOME": str(arguments.folder / "home")})
    config = load_config("nano")
    texts = [text for text, _ in tweets(arguments.rows, seed=0)]
    parts = [texts[start : start + arguments.chunk_rows] for start in range(0, len(texts), arguments.chunk_rows)]
    adapter = arguments.adapter or _untrained(arguments.folder)
    # the same for each: with a plan of its own each would merge, compile and batch as its share of rows suggests
    engine = config.engine.model_copy(
        update={"compile": "always" if arguments.device == "cuda" else "never", "batch_tokens": 16384}
    )
    spec = ModelSpec(adapter, home, engine, len(texts), config.scoring.token_budget)
    names = [f"cuda:{number}" if arguments.device == "cuda" else "cpu" for number in range(arguments.workers)]
    cluster = RayConfig(
        address=arguments.address,
        min_actors=arguments.workers,
        max_actors=arguments.workers,
        cores_per_actor=arguments.cores,
        gpus_per_actor=float(arguments.device == "cuda"),
    )
    kinds: dict[str, Any] = {
        "one process": lambda: nullcontext(load_local(spec, names[0])),
        f"{len(names)} worker processes": lambda: model_workers(spec, names),
        f"{len(names)} actors on Ray": lambda: ray_actors(spec, cluster),
    }
    found = {"environment": measuring.environment(arguments.device), "rows": len(texts), "results": []}
    reference: np.ndarray | None = None
    for name, open_it in kinds.items():
        with measuring.part(name, arguments.json, found) as result:
            logits = _measure(open_it, parts, 2 * len(names), result)
            reference = logits if reference is None else reference
            result["equal"] = bool((logits == reference).all())
    say(str(found))
    sys.exit(1 if found.get("failed") else 0)


def _measure(open_it: Any, parts: list[list[str]], warm: int, result: dict[str, Any]) -> np.ndarray:
    started = time.perf_counter()
    opened: AbstractContextManager[Predictor] = open_it()
    with opened as predictor:
        result["opening_seconds"] = round(time.perf_counter() - started, 1)
        list(predictor.predict(iter(parts[:warm])))
        started = time.perf_counter()
        logits = np.concatenate([part.logits for part in predictor.predict(iter(parts))])
        seconds = time.perf_counter() - started
        result["seconds"], result["rows_per_second"] = round(seconds, 2), round(len(logits) / seconds, 1)
        started = time.perf_counter()
    result["closing_seconds"] = round(time.perf_counter() - started, 1)
    return logits


def _untrained(folder: Path) -> Path:
    from tests.adapters import build_adapter

    home = resolve_workspace({"FINSENT_HOME": str(folder / "adapter")})
    return build_adapter(home, load_config("nano"), 0)


if __name__ == "__main__":
    main()
