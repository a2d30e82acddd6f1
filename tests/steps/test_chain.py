"""The steps after ingestion, for real: a small model on the bundled sample, MLflow's store in a temporary home."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finsent.config import Config, Source
from finsent.data.sample import sample_sources
from finsent.errors import InputError, ServiceError
from finsent.steps.context import make_context
from finsent.steps.evaluate import evaluate
from finsent.steps.evaluate_ad_hoc import evaluate_file
from finsent.steps.ingest import ingest
from finsent.steps.promote import promote
from finsent.steps.train import train
from finsent.workspace import Workspace

pytestmark = pytest.mark.integration


@pytest.fixture
def quick(tiny_config: Config) -> Config:
    """One small epoch, so that a training takes seconds; the result is poor and honest about it."""
    recipe = tiny_config.recipe.model_copy(update={"epochs": 0.2, "evaluate_every_epoch": False, "checkpoint_every": 5})
    return tiny_config.model_copy(update={"recipe": recipe})


def test_train_evaluate_and_refuse(quick: Config, mlflow_home: Workspace, tmp_path: Path) -> None:
    from finsent.registry.tracking import connect

    with pytest.raises(InputError, match="finsent ingest"):
        train(make_context(quick, mlflow_home))
    ingest(make_context(quick, mlflow_home), sample_sources(1))
    trained = train(make_context(quick, mlflow_home))
    assert trained.model_version == "1"
    assert {"accuracy", "macro_f1"} == trained.validation.keys()

    client = connect(mlflow_home)
    run = client.get_run(trained.run_id)
    assert run.info.status == "FINISHED"
    assert {
        "lora.r",
        "quantization.kind",
        "recipe.learning_rate",
        "data.version",
        "trainable_parameters",
    } <= run.data.params.keys()
    assert len(client.get_metric_history(trained.run_id, "loss")) == trained.steps
    assert {item.dataset.name for item in run.inputs.dataset_inputs} == {"tweets-train", "tweets-validation"}

    result = evaluate(make_context(quick, mlflow_home))
    evidence = result.evidence
    assert evidence.n_test == evidence.metrics["n"] > 500
    assert evidence.leaks == 0
    assert evidence.baselines["tfidf"]["accuracy"] > 0.7
    assert evidence.champion_version is None
    assert evidence.round_trip["max_logit_difference"] == 0.0
    assert evidence.round_trip["head_hash_equal"]
    artifacts = {item.path for item in client.list_artifacts(trained.run_id, "evaluation")}
    assert {
        f"evaluation/{name}"
        for name in ("evidence.json", "report.html", "model_card.html", "confusion.png", "predictions.parquet")
    } <= artifacts

    decision = promote(make_context(quick, mlflow_home))
    assert decision.decision == "refused"  # so small a model does not beat the TF-IDF baseline, and is told so
    assert any("TF-IDF" in reason for reason in decision.reasons)

    labelled = tmp_path / "extra.csv"
    labelled.write_text("text,label\n$A to the moon,bullish\n$A to zero,bearish\nfed meets,neutral\n" * 3)
    other = evaluate_file(make_context(quick, mlflow_home), trained.model_version, Source(uri=str(labelled)))
    assert other.evidence.n_test == 9
    assert other.evidence.leaks is None  # figures for the record, no evidence
    assert other.run_id != result.run_id


@pytest.mark.long
def test_a_killed_training_is_taken_up_and_ends_in_the_same_weights(
    quick: Config, mlflow_home: Workspace, tmp_path: Path
) -> None:
    ingest(make_context(quick, mlflow_home), sample_sources(2))
    script = tmp_path / "train.py"
    config = tmp_path / "config.json"
    config.write_text(quick.model_copy(update={"recipe": quick.recipe.model_copy(update={"epochs": 3.0})}).model_dump_json())
    script.write_text(
        "import json, sys\nfrom finsent.config import Config\n"
        "from finsent.workspace import resolve_workspace\nfrom finsent.steps.train import train\n"
        "from finsent.steps.context import make_context\n"
        "config = Config.model_validate_json(open(sys.argv[1]).read())\n"
        "result = train(make_context(config, resolve_workspace()))\n"
        "print(json.dumps([result.run_id, result.resumed_from, result.steps]))\n"
    )
    environment = {**os.environ, "FINSENT_HOME": str(mlflow_home.root)}
    command = [sys.executable, "-W", "ignore", str(script), str(config)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(mlflow_home.runs.glob("*/checkpoint-*/state.json")):
        assert process.poll() is None, "the training ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()

    def run() -> tuple[str, int, int]:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        run_id, resumed_from, steps = json.loads(done.stdout.splitlines()[-1])
        return run_id, resumed_from, steps

    resumed, whole = run(), run()
    assert resumed[1] >= 5
    assert whole[1] == 0  # finished trainings are not taken up
    assert resumed[0] != whole[0]
    first, second = (
        (mlflow_home.runs / run_id / "adapter" / "adapter_model.safetensors").read_bytes() for run_id in (resumed[0], whole[0])
    )
    assert first == second


def test_a_tracking_server_that_is_down_is_said_before_training(quick: Config, mlflow_home: Workspace) -> None:
    from dataclasses import replace

    ingest(make_context(quick, mlflow_home), sample_sources(2))
    started = time.monotonic()
    with pytest.raises(ServiceError, match=r"127\.0\.0\.1:9"):
        train(make_context(quick, replace(mlflow_home, tracking_uri="http://127.0.0.1:9")))
    assert time.monotonic() - started < 15
    assert not mlflow_home.runs.exists()
