"""One training in several processes, on CPUs: the same result as in one, one answer, and nothing left open when one fails."""

import json
import runpy
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from finsent.config import load_config
from finsent.data.sample import sample_sources
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.training.run_dir import find_resumable
from finsent.workspace import Workspace
from tests.several_processes import FLOAT32, check_shares, launch, train_in
from tests.several_processes import SMALL as NANO

pytestmark = pytest.mark.integration

LOOP = """
import json, sys
from pathlib import Path

import numpy as np
from torch.nn.parallel import DistributedDataParallel

from finsent.config import load_config
from finsent.workspace import resolve_workspace
from finsent.training import trainer
from finsent.training.distributed import world_from_env

optimise = trainer._training_step
texts = [f"{ticker} {words}" for ticker in "ABCDEFGH" for words in ("calls printing", "puts printing, all of it", "meets")]
rows = trainer.LabelledTexts(texts, np.array([1, 2, 0] * 8, dtype=np.int64))


def train(folder, home, overrides, stop_at=None):
    figures = []

    def cut_off(run, recipe, rows, labels, step, total):
        assert not any(isinstance(module, DistributedDataParallel) for module in run.model.modules())
        if step == stop_at:
            raise KeyboardInterrupt
        return optimise(run, recipe, rows, labels, step, total)

    trainer._training_step = cut_off
    config = load_config("nano", overrides=overrides)
    try:
        root = resolve_workspace({"FINSENT_HOME": home})
        done = trainer.train(config, root, rows, rows, Path(folder), lambda _, f: figures.append(f))
    except KeyboardInterrupt:
        return None
    finally:
        trainer._training_step = optimise
    assert bool(figures) == world_from_env().is_main
    return {"figures": figures, "resumed_from": done.resumed_from, "processes": done.processes}


if __name__ == "__main__":
    folder, home, *overrides = sys.argv[1:]
    whole = train(f"{folder}/whole", home, overrides)
    assert train(f"{folder}/cut", home, overrides, stop_at=9) is None
    resumed = train(f"{folder}/cut", home, overrides)
    if whole["figures"]:
        Path(folder, "figures.json").write_text(json.dumps({"whole": whole, "resumed": resumed}))
"""
SMALL = (*NANO, *FLOAT32)


@pytest.mark.long
def test_two_processes_train_as_one_and_resume_as_if_never_cut_off(tmp_path: Path) -> None:
    script, home = tmp_path / "loop.py", str(tmp_path / "home")
    script.write_text(LOOP)
    one = runpy.run_path(str(script))["train"](tmp_path / "one", home, SMALL)
    done = launch(2, [str(script), str(tmp_path), home, *SMALL], check=False)
    assert done.returncode == 0, done.stderr
    two = json.loads((tmp_path / "figures.json").read_text())

    def series(run: Any, name: str) -> list[float]:
        return [figures[name] for figures in run["figures"] if name in figures]

    assert (one["processes"], two["whole"]["processes"]) == (1, 2)
    assert len(series(one, "loss")) == 20
    assert series(one, "loss")[-1] < 0.5 * series(one, "loss")[0]
    for name in ("loss", "grad_norm", "validation_loss"):
        assert series(two["whole"], name) == pytest.approx(series(one, name), rel=1e-3)
    assert two["resumed"]["resumed_from"] == 6
    assert series(two["resumed"], "loss") == series(two["whole"], "loss")[6:]
    for file in (
        "adapter/adapter_model.safetensors",
        "checkpoint-18/trainable.safetensors",
        "checkpoint-18/optimizer.safetensors",
    ):
        whole, taken_up = load_file(tmp_path / "whole" / file), load_file(tmp_path / "cut" / file)
        assert whole.keys() == taken_up.keys()
        assert all(torch.equal(whole[name], taken_up[name]) for name in whole)


@pytest.mark.long
def test_each_process_computes_rows_of_its_own_and_the_main_one_alone_writes(tmp_path: Path) -> None:
    one, two = (train_in(count, tmp_path / str(count), tmp_path / "home", (*SMALL, "recipe.epochs=2")) for count in (1, 2))
    check_shares(one, two)
    assert one.series("loss") == pytest.approx(two.series("loss"), rel=1e-3)
    assert {"adapter_model.safetensors", "checkpoint-6"} <= set(two.files[0])
    assert two.files[1] == []


@pytest.fixture
def ingested(mlflow_home: Workspace) -> Workspace:
    ingest(make_context(load_config("nano"), mlflow_home), sample_sources(1)[:1])
    return mlflow_home


def options(home: Workspace, *more: str) -> list[str]:
    settings = (*(s for s in SMALL if "batch_size" not in s and "epochs" not in s), "recipe.epochs=0.3", *more)
    return ["train", "--json", "--home", str(home.root), *(part for setting in settings for part in ("--set", setting))]


def runs_of(home: Workspace) -> list[Any]:
    from finsent.registry.tracking import connect

    client = connect(home)
    return [
        run
        for e in client.search_experiments()
        for run in client.search_runs([e.experiment_id])
        if run.data.tags.get("kind") == "train"
    ]


@pytest.mark.long
def test_the_command_in_two_processes_gives_one_run_one_version_one_answer(ingested: Workspace) -> None:
    done = launch(2, ["-m", "finsent", *options(ingested)])
    answer = json.loads(done.stdout)  # one object, or this fails
    assert answer["model_version"] == "1"
    assert Path(answer["adapter_dir"], "manifest.json").is_file()
    (run,) = runs_of(ingested)
    assert (run.info.run_id, run.info.status) == (answer["run_id"], "FINISHED")
    assert "2 processes share 32 rows" not in done.stderr
    assert done.stderr.count("training with the packed engine") == 1


FAILING = """
import os, sys
from finsent.cli.main import main
from finsent.training import trainer

real = trainer._training_step

def fail(run, recipe, rows, labels, step, total):
    if step == 3 and run.world.rank == 1:
        os._exit(7)
    return real(run, recipe, rows, labels, step, total)

trainer._training_step = fail
main()
"""


@pytest.mark.long
def test_one_process_that_fails_ends_all_and_leaves_no_run_open(ingested: Workspace, tmp_path: Path) -> None:
    (tmp_path / "failing.py").write_text(FAILING)
    done = launch(2, [str(tmp_path / "failing.py"), *options(ingested, "recipe.batch_size=8")], check=False)
    assert done.returncode != 0
    (run,) = runs_of(ingested)
    assert run.info.status in {"FAILED", "KILLED"}
    assert set(json.loads(done.stdout)) == {"error"}
    assert "2 processes share 8 rows a step" in done.stderr
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(tmp_path) in " ".join(p.info["cmdline"] or [])]


STOPPED = """
import os, signal, sys
from finsent.cli.main import main
from finsent.training import trainer
from finsent.training.distributed import world_from_env

real = trainer._training_step

def stop(run, recipe, rows, labels, step, total):
    if step == 6 and world_from_env().is_main:  # a checkpoint is there
        os.kill(os.getppid() if world_from_env().size > 1 else os.getpid(), signal.SIGTERM)
    return real(run, recipe, rows, labels, step, total)

trainer._training_step = stop
main()
"""


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_training_that_is_terminated_is_recorded_as_killed_and_can_be_resumed(
    processes: int, ingested: Workspace, tmp_path: Path
) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    done = launch(processes, [str(tmp_path / "stopped.py"), *options(ingested, "recipe.checkpoint_every=5")], check=False)
    assert done.returncode == (130 if processes == 1 else 1), done.stderr
    (run,) = runs_of(ingested)
    assert run.info.status == "KILLED"
    assert "error" not in run.data.tags
    digest = json.loads((ingested.runs / run.info.run_id / "training.json").read_text())["digest"]
    assert find_resumable(ingested.runs, digest, lambda _run: True) == run.info.run_id


def test_other_commands_refuse_to_run_in_several_processes(monkeypatch: pytest.MonkeyPatch, capsys: Any, home: Workspace) -> None:
    from finsent.cli.main import run

    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert run(["status", "--home", str(home.root)]) == 2
    assert "`finsent status` was started in 2 processes" in capsys.readouterr().err
