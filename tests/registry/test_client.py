"""Registering an adapter and getting the same bytes back, or an error that says what is wrong."""

import json
import shutil

import pytest

from finsent.errors import ArtifactError, InputError, NoChampionError
from finsent.models.manifest import file_sha256, verify_manifest
from finsent.registry import tracking
from finsent.registry.audit_mirror import verify_audit_log
from finsent.registry.champion import require_champion
from finsent.registry.client import Registry, logged_model_id
from tests.champions import crown


def artifact_folder(home, name, version):
    """Where the local store keeps the version's files."""
    client = tracking.connect(home)
    model = client.get_logged_model(logged_model_id(client.get_model_version(name, version)))
    return home.artifacts.parent / model.artifact_location.removeprefix(f"{home.root.as_uri()}/")


def test_version_holds_the_adapter_the_code_and_no_pickle(mlflow_home, new_version, make_adapter):
    folder = artifact_folder(mlflow_home, "finsent", new_version())
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert {f"artifacts/adapter/{path.name}" for path in make_adapter(0).iterdir()} <= files
    assert {"serving_model.py", "MLmodel", "requirements.txt", "code/finsent/models/predict.py"} <= files
    assert not {name for name in files if name.endswith((".pkl", ".bin", ".pt", ".pyc", ".csv"))}
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 3 << 20
    text = (folder / "MLmodel").read_text(encoding="utf-8")
    assert str(mlflow_home.root.parent) not in text
    assert "/" not in text.split("model_code_path:")[1].splitlines()[0]
    pins = (folder / "requirements.txt").read_text(encoding="utf-8").split()
    assert all("==" in pin and "+" not in pin for pin in pins)
    assert {"torch", "peft", "transformers", "mlflow"} <= {pin.partition("==")[0] for pin in pins}


def test_version_is_tagged_and_tied_to_its_run(mlflow_home, new_version):
    version = new_version()
    client = tracking.connect(mlflow_home)
    record = client.get_model_version("finsent", version)
    assert record.tags["stage"] == "None"
    assert record.tags["run_id"] == record.run_id
    assert (record.tags["profile"], record.tags["base"], record.tags["data_version"]) == ("nano", "embedded", "1")
    (output,) = client.get_run(record.run_id).outputs.model_outputs
    assert output.model_id == logged_model_id(record)
    assert client.get_logged_model(output.model_id).status == "READY"


def test_registering_again_gives_the_same_version(mlflow_home, tiny_config, make_adapter, registry):
    tracking.connect(mlflow_home)
    with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
        first = registry.register(make_adapter(0), run_id=run_id, profile="nano")
        again = registry.register(make_adapter(0), run_id=run_id, profile="nano")
        other = registry.register(make_adapter(1), run_id=run_id, profile="nano")
    assert (first, again, other) == ("1", "1", "2")
    assert registry.latest_version() == "2"


def test_damaged_adapter_is_not_registered(mlflow_home, tiny_config, make_adapter, tmp_path, registry):
    folder = shutil.copytree(make_adapter(0), tmp_path / "adapter")
    (folder / "adapter_config.json").write_text("{}", encoding="utf-8")
    tracking.connect(mlflow_home)
    with (
        pytest.raises(ArtifactError, match="adapter_config"),
        tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id,
    ):
        registry.register(folder, run_id=run_id, profile="nano")
    assert registry.champion() is None
    with pytest.raises(InputError, match="run `finsent train`"):
        registry.latest_version()


def test_adapter_comes_back_byte_for_byte_and_once(mlflow_home, new_version, make_adapter, registry):
    version = new_version()
    folder = registry.adapter_path(version)
    assert folder == mlflow_home.versions / "finsent-1"
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in make_adapter(0).iterdir()}
    shutil.rmtree(artifact_folder(mlflow_home, "finsent", version))
    assert registry.adapter_path(version) == folder
    assert [path.name for path in mlflow_home.versions.iterdir()] == ["finsent-1"]


def test_changed_copy_in_the_home_is_refused(new_version, registry):
    version = new_version()
    weights = registry.adapter_path(version) / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors.* delete it, and it is fetched again"):
        registry.adapter_path(version)
    shutil.rmtree(weights.parent)
    assert registry.adapter_path(version) == weights.parent


def test_copy_of_another_registry_is_replaced(mlflow_home, new_version, make_adapter, registry):
    version = new_version(0)
    shutil.copytree(make_adapter(1), mlflow_home.versions / "finsent-1")
    folder = registry.adapter_path(version)
    assert verify_manifest(folder) == verify_manifest(make_adapter(0))


@pytest.mark.parametrize("change", ["byte", "manifest too", "gone"])
def test_changed_artifact_is_refused(mlflow_home, new_version, change, registry):
    version = new_version()
    adapter = artifact_folder(mlflow_home, "finsent", version) / "artifacts" / "adapter"
    if change == "gone":
        shutil.rmtree(adapter)
    else:
        probe = adapter / "probe.json"
        probe.write_text(probe.read_text(encoding="utf-8") + " ", encoding="utf-8")
    if change == "manifest too":
        manifest = json.loads((adapter / "manifest.json").read_text(encoding="utf-8"))
        manifest["files"]["probe.json"] = file_sha256(probe)
        (adapter / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        assert verify_manifest(adapter)
    with pytest.raises(ArtifactError):
        registry.adapter_path(version)
    assert not list(mlflow_home.versions.iterdir())


def test_unknown_names_and_versions_say_what_there_is(new_version, registry):
    with pytest.raises(NoChampionError, match="no champion yet: run `finsent promote`"):
        require_champion(registry)
    assert registry.aliases().get("challenger") is None
    with pytest.raises(InputError, match="has none yet: run `finsent train`"):
        registry.adapter_path("1")
    new_version()
    for wrong in ("7", "seven", ""):
        with pytest.raises(InputError, match="Its versions: 1"):
            registry.adapter_path(wrong)


def test_metrics_land_on_model_run_and_dataset(mlflow_home, tiny_config, new_version, registry):
    version = new_version()
    client = tracking.connect(mlflow_home)
    with tracking.start_run(tiny_config, mlflow_home, kind="evaluate") as run_id:
        ref = tracking.log_dataset(
            client, run_id, mlflow_home, table="tweets", version=1, fingerprint="ab" * 16, context="test", split="test"
        )
        registry.log_model_metrics(version, {"accuracy": 0.75, "macro_f1": 0.5}, run_id=run_id, dataset=ref)
    model = client.get_logged_model(logged_model_id(client.get_model_version("finsent", version)))
    assert {m.key: (m.value, m.dataset_name, m.dataset_digest) for m in model.metrics} == {
        "accuracy": (0.75, "tweets-test", "ab" * 16),
        "macro_f1": (0.5, "tweets-test", "ab" * 16),
    }
    assert client.get_run(run_id).data.metrics == {"accuracy": 0.75, "macro_f1": 0.5}
    experiment = client.get_experiment_by_name(tiny_config.experiment)
    best = client.search_logged_models(
        [experiment.experiment_id],
        filter_string="metrics.accuracy > 0.7",
        datasets=[{"dataset_name": ref.name, "dataset_digest": ref.digest}],
    )
    assert [found.model_id for found in best] == [model.model_id]


@pytest.mark.parametrize("name", ["it's", 'the "new" one', "plain"])
def test_names_with_quotes_are_searched_like_others(mlflow_home, name):
    registry = Registry(mlflow_home, name)
    assert registry.find_latest() is None
    registry.client.create_registered_model(name)
    registry.client.create_model_version(name, source="file:///nowhere")
    crown(registry, "1")
    assert registry.latest_version() == require_champion(registry) == "1"
    assert verify_audit_log(registry).copied == 1
    with pytest.raises(InputError, match="both kinds of quotes"):
        tracking.filter_literal("'\"")
