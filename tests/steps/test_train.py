"""What a training leaves with its version beside the weights."""

import json

import pytest

from finsent.config import load_config
from finsent.data.sample import sample_sources
from finsent.errors import InputError
from finsent.models.manifest import verify_manifest
from finsent.registry.client import Registry
from finsent.registry.tracking import connect
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.predict import predict
from finsent.steps.train import fit, prepare, train

TINY = [
    f"model.embedded.{item}"
    for item in ("hidden_size=64", "intermediate_size=64", "layers=1", "heads=2", "kv_heads=1", "vocab_size=512")
]


@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_a_threshold_is_fitted_on_validation_rows_and_goes_with_the_version(mlflow_home):
    # so low a target is reached by answering everything, even by a model that has learnt nothing
    overrides = [*TINY, "lora.r=4", "recipe.epochs=0.1", "evaluation.target_precision=0.2"]
    config = load_config("nano", overrides=overrides)
    ingest(make_context(config, mlflow_home), sample_sources(1)[:1])
    trained = train(make_context(config, mlflow_home))
    manifest = verify_manifest(Registry(mlflow_home, config.registered_model).adapter_path(trained.model_version))
    assert manifest.abstain_below == 0.0
    assert manifest.temperature == trained.temperature
    metrics = connect(mlflow_home).get_run(trained.run_id).data.metrics
    assert (metrics["abstain_below"], metrics["temperature"]) == (0.0, pytest.approx(manifest.temperature))
    (answer,) = predict(make_context(config, mlflow_home), ["flat day"], version=trained.model_version).predictions
    assert answer.abstained is False
    assert "It always answers." in (trained.adapter_dir / "README.md").read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_an_unfinished_training_whose_run_mlflow_lost_blocks_no_other(served, mlflow_home, caplog):
    context = make_context(served.config, served.home)
    gone = context.registry.get_version("1").run_id
    state = served.home.runs / gone / "training.json"
    recorded = {**json.loads(state.read_text()), "finished": False}
    state.write_text(json.dumps(recorded))  # as if it was killed between the loop and the registration
    result = state.with_name("result.json")
    whole = result.read_text()
    result.write_text(whole.replace('"fingerprint": "v2:', '"fingerprint": "v2:another'))
    with pytest.raises(InputError, match=f"{gone}' is complete but not registered.* another base .* or delete that folder"):
        fit(context, prepare(context))
    result.write_text(whole)
    context.registry.client.delete_run(gone)
    with pytest.raises(InputError, match=f"MLflow has no run '{gone}'"):
        prepare(context, resume=gone)
    run_id, trained = fit(context, prepare(context))
    assert run_id != gone
    assert trained.resumed_from == 0
    assert f"runs/{gone} is not resumed: MLflow has no run of that id" in caplog.text
    assert not make_context(served.config, mlflow_home).registry.has_run(gone), "a store begun anew"
