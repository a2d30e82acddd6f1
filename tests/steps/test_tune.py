"""The search for real: trainings of a second each on a small base, MLflow's store, a process that is killed."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from finsent.cli.models import tune_command
from finsent.cli.options import Settings
from finsent.cli.output import as_text, plain
from finsent.config import Config, Source, load_config
from finsent.data import tables
from finsent.errors import InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.tune import TuneResult, tune
from finsent.tuning import search as studies
from finsent.tuning.space import apply_params
from finsent.workspace import Workspace, resolve_workspace

if TYPE_CHECKING:
    from mlflow.entities import Run

OVERRIDES = (
    *(f"model.embedded.{item}" for item in ("layers=1", "hidden_size=64", "intermediate_size=64", "heads=2", "kv_heads=1")),
    "model.embedded.vocab_size=300",
    *("lora.r=4", "recipe.epochs=2", "recipe.batch_size=16", "recipe.learning_rate=0.01", "recipe.checkpoint_every=8"),
    "recipe.seed=132",  # draws the rates 0.01, 1000, 0.01 and 1e-9 after the own one
    "registered_model=tuned-one",
)
SPACE = "recipe:\n  learning_rate: [1.0e-9, 0.01, 1000.0]\n  warmup_ratio: {low: 0.0, high: 0.1}\n"
"""One learning rate that learns nothing, one that does, one that ends in infinity."""
TRIALS = 5


@dataclass(frozen=True)
class Searched:
    config: Config
    home: Workspace
    space: Path
    untouched: Path
    """The home as it was before the search."""
    result: TuneResult


def written(path: Path, rows: int) -> Path:
    """Tweets whose label anything can learn."""
    draw = random.Random(3)
    said = {"Bullish": ("moon", "calls"), "Bearish": ("crash", "puts"), "Neutral": ("meets", "reports")}
    words = ["".join(draw.choices("abcdefghijklmnop", k=6)) for _ in range(400)]
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("text", "label"))
        for number in range(rows):
            label = sorted(said)[number % 3]
            out.writerow((" ".join([*draw.choices(words, k=6), draw.choice(said[label])]), label))
    return path


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, _mlflow_store: Path) -> Searched:
    """One search of `TRIALS` trials; tests that go on with it copy nothing and say so."""
    folder = tmp_path_factory.mktemp("tuning")
    home = resolve_workspace({"FINSENT_HOME": str(folder / "home")})
    home.root.mkdir()
    shutil.copyfile(_mlflow_store, home.root / "mlflow.db")
    config = load_config("nano", overrides=OVERRIDES)
    ingest(make_context(config, home), [Source(uri=str(written(folder / "tweets.csv", 180)))])
    shutil.copytree(home.root, folder / "untouched")
    space = folder / "space.yaml"
    space.write_text(SPACE, encoding="utf-8")
    return Searched(config, home, space, folder / "untouched", tune(make_context(config, home), trials=TRIALS, space=space))


@pytest.fixture
def fresh(searched: Searched, tmp_path: Path) -> Workspace:
    """A home with the same data, in which nothing was searched."""
    shutil.copytree(searched.untouched, tmp_path / "fresh")
    return resolve_workspace({"FINSENT_HOME": str(tmp_path / "fresh")})


def runs(home: Workspace, wanted: str) -> "list[Run]":
    from finsent.registry.tracking import connect

    client = connect(home)
    return list(client.search_runs([one.experiment_id for one in client.search_experiments()], wanted))


def learnt(result: TuneResult) -> list[tuple[object, ...]]:
    return [(trial.number, trial.state, trial.value, trial.params) for trial in result.trials]


def test_the_first_trial_is_the_configurations_own_and_the_best_is_never_worse(searched: Searched) -> None:
    result = searched.result
    assert [trial.number for trial in result.trials] == list(range(TRIALS))
    assert result.added == TRIALS
    own = result.trials[0]
    assert own.params == {"recipe.learning_rate": 0.01, "recipe.warmup_ratio": 0.05}
    assert result.own == own
    assert own.value is not None
    assert result.best.value is not None
    assert result.best.value == min(trial.value for trial in result.trials if trial.value is not None) <= own.value
    assert own.value < 1.0986, "it learns"


def test_what_learns_nothing_is_pruned_and_what_diverges_fails_with_its_reason(searched: Searched) -> None:
    found = [(trial.params["recipe.learning_rate"], trial.state) for trial in searched.result.trials]
    assert found == [(0.01, "complete"), (0.01, "complete"), (1000.0, "failed"), (0.01, "complete"), (1e-9, "pruned")]
    assert searched.result.states == {"complete": 3, "pruned": 1, "failed": 1}
    assert [trial.value is None for trial in searched.result.trials] == [False, False, True, False, True]
    assert "Lower recipe.learning_rate" in str(searched.result.trials[2].reason)
    assert "behind the median" in str(searched.result.trials[4].reason)


def test_every_trial_is_a_nested_run_that_ended(searched: Searched) -> None:
    from finsent.registry.tracking import connect

    result, client = searched.result, connect(searched.home)
    nested = {run.info.run_id: run for run in runs(searched.home, f"tags.`mlflow.parentRunId` = '{result.run_id}'")}
    assert set(nested) == {trial.run_id for trial in result.trials}
    for trial in result.trials:
        run = nested[str(trial.run_id)]
        assert run.data.tags["trial_state"] == trial.state
        assert run.info.status == ("FAILED" if trial.state == "failed" else "FINISHED")
        assert float(run.data.params["recipe.learning_rate"]) == trial.params["recipe.learning_rate"]
        looks = client.get_metric_history(run.info.run_id, "validation_loss")
        if trial.state == "complete":
            assert len(looks) == 2
            assert run.data.metrics["tuned_loss"] == trial.value
        elif trial.state == "pruned":
            assert len(looks) == 1
        else:
            assert "loss" in run.data.tags["error"] or "Lower" in run.data.tags["error"]


def test_the_search_has_a_run_with_the_best_settings_plots_and_table(searched: Searched) -> None:
    from finsent.registry.tracking import connect

    result, client = searched.result, connect(searched.home)
    run = client.get_run(result.run_id)
    assert (run.info.status, run.data.tags["kind"], run.data.tags["study"]) == ("FINISHED", "tune", result.study)
    assert run.data.tags["best.recipe.learning_rate"] == "0.01"
    assert run.data.metrics["best_loss"] == result.best.value
    assert {name: run.data.metrics[f"trials_{name}"] for name in result.states} == result.states
    assert {source.dataset.name for source in run.inputs.dataset_inputs} == {"tweets-train", "tweets-validation"}
    files = {item.path for item in client.list_artifacts(result.run_id)}
    assert {"best.yaml", "trials.csv", "history.png", "slices.png"} <= files
    with Path(client.download_artifacts(result.run_id, "trials.csv")).open(encoding="utf-8") as stream:
        assert [row["state"] for row in csv.DictReader(stream)] == [trial.state for trial in result.trials]


def test_best_yaml_is_the_best_trials_whole_configuration(searched: Searched) -> None:
    assert load_config(path=searched.result.config_file) == apply_params(searched.config, searched.result.best.params)


def test_nothing_is_registered_evaluated_or_left_on_disk(searched: Searched) -> None:
    from finsent.registry.tracking import connect

    assert connect(searched.home).search_registered_models() == []
    assert not searched.home.audit_log.exists()
    assert not searched.home.runs.exists()
    assert runs(searched.home, "tags.kind != 'trial' and tags.kind != 'tune' and tags.kind != 'data'") == []
    assert list((studies.study_dir(searched.home, searched.result.study) / "trials").iterdir()) == []


def test_the_test_split_has_no_say_and_one_trial_runs_in_any_time(searched: Searched, fresh: Workspace) -> None:
    rows = tables.read(fresh, "tweets")
    keep = [split != "test" for split in rows["split"].to_pylist()]
    assert not all(keep)
    tables.replace(fresh, "tweets", rows.filter(keep))
    found = tune(make_context(searched.config, fresh), hours=1e-9, space=searched.space)
    assert found.study == searched.result.study, "no test row is part of what makes a study"
    assert learnt(found) == learnt(searched.result)[:1]


def test_settings_that_were_tried_are_not_trained_again_and_a_space_used_up_ends_the_search(
    searched: Searched, fresh: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("recipe: {learning_rate: [0.01, 1.0e-9]}")
    with caplog.at_level("INFO"):
        result = tune(make_context(searched.config, fresh), trials=40, space=space)
    assert {trial.params["recipe.learning_rate"] for trial in result.trials} == {0.01, 1e-9}
    assert len(runs(fresh, "tags.kind = 'trial'")) == 2
    first = result.trials[0]
    for trial in result.trials[1:-1]:
        assert trial == replace(first, number=trial.number, seconds=0.0, reason="same settings as trial 0, not trained again")
    assert result.trials[-1].params != first.params, "it ended at once"
    assert f"Study {result.study}: all 2 settings of its space were tried; widen the space to go on" in caplog.text
    assert tune(make_context(searched.config, fresh), trials=40, space=space).added == 0


@pytest.mark.long
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_search_that_was_cut_off_ends_as_one_that_was_not(
    searched: Searched, fresh: Workspace, tmp_path: Path, how: signal.Signals
) -> None:
    script = tmp_path / "search.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\nfrom finsent.config import load_config\n"
        "from finsent.workspace import resolve_workspace\n"
        "from finsent.steps.context import make_context\nfrom finsent.steps.tune import tune\n"
        "context = make_context(load_config('nano', overrides=sys.argv[2:]), resolve_workspace())\n"
        "tune(context, trials=2, space=Path(sys.argv[1]))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(script), str(searched.space), *OVERRIDES],
        env={**os.environ, "FINSENT_HOME": str(fresh.root)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    cut, deadline = 1, time.monotonic() + 120
    while not list(studies.study_dir(fresh, searched.result.study).glob(f"trials/{cut}/checkpoint-*/state.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(how)
    process.communicate()
    assert process.returncode != 0
    left = runs(fresh, "attributes.status = 'RUNNING'")
    assert (len(left) == 2) == (how == signal.SIGKILL), "the search's and the trial's are left open by a kill alone"
    result = tune(make_context(searched.config, fresh), trials=2, space=searched.space)
    assert learnt(result) == learnt(searched.result)[:2]
    assert result.added == 1
    assert runs(fresh, "attributes.status = 'RUNNING'") == []
    killed = runs(fresh, "attributes.status = 'KILLED'")
    assert [run.data.tags["mlflow.runName"] for run in killed] == [f"trial-{cut}"]
    assert [run.info.run_id for run in runs(fresh, "tags.kind = 'tune'")] == [result.run_id], "it went on in the same run"
    with studies.open_study(fresh, result.study, {}, {}) as search:
        assert [(trial.user_attrs[studies.NUMBER], trial.state.name) for trial in search.trials] == [
            *[(0, "COMPLETE"), (cut, "FAIL"), (cut, "COMPLETE")]
        ]


def test_a_finished_search_adds_nothing_and_goes_on_when_told_more(
    searched: Searched, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(overrides=OVERRIDES, home_dir=searched.home.root)

    def say(trials: int) -> tuple[dict[str, object], str]:
        assert tune_command.callback is not None
        with click.Context(tune_command, obj=settings):
            outcome = tune_command.callback(trials=trials, hours=None, study=None, space=searched.space)
        return json.loads(json.dumps(plain(outcome.result))), as_text(outcome.text)

    said, text = say(TRIALS)
    assert said["added"] == 0
    assert "It was finished" in text
    assert said["config_file"] == str(searched.result.config_file)
    best, own = searched.result.best, searched.result.own
    better = own is None or best.number != own.number  # which, the processor's rounding decides
    assert text.endswith(f"finsent train --config {searched.result.config_file}") == better
    assert ("No trial was better" in text) != better
    assert said["best"] == {
        "value": searched.result.best.value,
        "params": searched.result.best.params,
        "trial": searched.result.best.number,
    }
    more, _ = say(TRIALS + 1)
    assert (more["added"], more["run_id"], more["study"]) == (1, said["run_id"], said["study"])


def test_a_home_without_data_is_an_error_at_once(mlflow_home: Workspace, tiny_config: Config) -> None:
    with pytest.raises(InputError, match="finsent ingest"):
        tune(make_context(tiny_config, mlflow_home), trials=1)
    assert not (mlflow_home.root / "tune").exists()
