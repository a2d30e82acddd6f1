"""One training in several processes: how tests launch it, and what each process notes of it.

    torchrun --nproc-per-node 2 tests/several_processes.py FOLDER HOME KEY=VALUE...

trains the `nano` profile on 24 short texts. Each process is given a folder of its own, so that what it writes shows.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
SMALL = (
    "model.embedded.layers=2",
    "model.embedded.hidden_size=64",
    "model.embedded.intermediate_size=128",
    "model.embedded.heads=2",
    "model.embedded.kv_heads=1",
    "model.embedded.vocab_size=512",
    "lora.dropout=0",
    "recipe.token_dropout=0.1",
    "recipe.batch_size=7",
    "recipe.accumulation=1",
    "recipe.epochs=5",
    "recipe.optimizer=adamw_torch",
    "recipe.checkpoint_every=6",
)
"""24 rows in steps of 7, 7, 7 and 3: shares of unequal size. What tokens are dropped goes by row and step, not by process."""
FLOAT32 = ("model.quantization.kind=none", "model.quantization.compute_dtype=float32", "recipe.mixed_precision=none")


@dataclass(frozen=True)
class Noted:
    """What the processes of one training noted."""

    figures: list[dict[str, float]]
    """Of each step, as the main process reported them."""
    shares: list[list[list[int]]]
    """Rows that each process computed, by process and step."""
    files: list[list[str]]
    """Names of what each process wrote."""
    weights: dict[str, Any]

    def series(self, name: str) -> list[float]:
        """One figure, of the steps that have it."""
        return [figures[name] for figures in self.figures if name in figures]


def launch(
    processes: int, arguments: Sequence[str], *, gpus: bool = False, check: bool = True, timeout: float = 100
) -> "subprocess.CompletedProcess[str]":
    """Run a script or `-m module` under `torchrun`, in one process without it; on CPUs unless `gpus`."""
    environment = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE", "LOCAL_RANK"}}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if not gpus:
        environment["CUDA_VISIBLE_DEVICES"] = ""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", str(free_port())]
    command = [sys.executable, *(launcher if processes > 1 else []), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=check, timeout=timeout)


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def train_in(processes: int, folder: Path, home: Path, overrides: Sequence[str], *, gpus: bool = False) -> Noted:
    """Train in that many processes, and collect what they noted under `folder`."""
    done = launch(processes, [__file__, str(folder), str(home), *overrides], gpus=gpus, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    ranks = [json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8")) for rank in range(processes)]
    assert [rank["processes"] for rank in ranks] == [processes] * processes
    assert [rank["backend"] for rank in ranks] == [("nccl" if gpus else "gloo") if processes > 1 else None] * processes
    return Noted(
        figures=ranks[0]["figures"],
        shares=[rank["shares"] for rank in ranks],
        files=[sorted(file.name for file in (folder / f"rank-{rank}").rglob("*")) for rank in range(processes)],
        weights=load_file(folder / "rank-0" / "adapter" / "adapter_model.safetensors"),
    )


def distance(one: dict[str, Any], other: dict[str, Any], part: str) -> float:
    """Norm of the difference of all weights named `part`, by their norm."""
    assert one.keys() == other.keys()
    pairs = [(one[name].double(), other[name].double()) for name in one if part in name]
    apart, whole = (
        sum(float(tensor.square().sum()) for tensor in some) for some in ([a - b for a, b in pairs], [a for a, _ in pairs])
    )
    return (apart / whole) ** 0.5


def check_shares(one: Noted, several: Noted) -> None:
    """Every row of a step is computed by exactly one process, and all have equally many, give or take one."""
    assert {len(shares) for shares in several.shares} == {len(one.shares[0])}
    for step, rows in enumerate(one.shares[0]):
        shares = [share[step] for share in several.shares]
        assert sorted(row for share in shares for row in share) == sorted(rows)
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


def main() -> None:
    """One process of the training."""
    from finsent.config import load_config
    from finsent.training import trainer
    from finsent.training.distributed import shutdown, world_from_env
    from finsent.workspace import resolve_workspace

    folder, home, *overrides = sys.argv[1:]
    texts = [f"{ticker} {words}" for ticker in "ABCDEFGH" for words in ("calls printing", "puts printing, all of it", "meets")]
    rows = trainer.LabelledTexts(texts, np.array([1, 2, 0] * 8, dtype=np.int64))
    world, shares, figures, real = world_from_env(), [], [], trainer._accumulate_gradients

    def noting(run: Any, recipe: Any, mine: list[int], *rest: Any) -> Any:
        shares.append(mine)
        return real(run, recipe, mine, *rest)

    trainer._accumulate_gradients = noting
    config, root = load_config("nano", overrides=overrides), resolve_workspace({"FINSENT_HOME": home})
    own = Path(folder, f"rank-{world.rank}")
    trained = trainer.train(config, root, rows, rows, own, lambda _, values: figures.append(values))
    backend = torch.distributed.get_backend() if world.size > 1 else None
    shutdown(world)
    assert bool(figures) == world.is_main
    noted = {"figures": figures, "shares": shares, "processes": trained.processes, "backend": backend, "plan": trained.plan}
    own.with_suffix(".json").write_text(json.dumps(noted), encoding="utf-8")


if __name__ == "__main__":
    main()
