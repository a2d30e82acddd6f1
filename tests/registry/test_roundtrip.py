"""A new process loads the version from the registry alone and finds what training left; what differs is found, too."""

import shutil

import pytest

from finsent.errors import ArtifactError, Refused
from finsent.model.manifest import verify, write_manifest
from finsent.registry import roundtrip, tracking, versions


def register(home, config, adapter):
    with tracking.start_run(config, home, kind="train") as run_id:
        return versions.register(tracking.connect(home), config, run_id=run_id, adapter=adapter)


def test_sound_version_is_proved(mlflow_home, tiny_config, make_adapter):
    version = register(mlflow_home, tiny_config, make_adapter(0))
    proof = roundtrip.prove(mlflow_home, "finsent", version, max_logit_difference=1e-2)
    assert proof.max_logit_difference < 1e-4
    assert (proof.head_hash_equal, proof.padding_invariant, proof.batch_invariant) == (True, True, True)
    assert (proof.probes, proof.tolerance) == (5, 1e-2)
    assert not mlflow_home.bases.exists()  # the new process built its base itself, in a home of its own


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_probe_of_another_model_is_found(mlflow_home, tiny_config, make_adapter, tmp_path, monkeypatch):
    monkeypatch.setattr(roundtrip, "_in_new_process", roundtrip.load_and_repeat)  # a new process has its test above
    foreign = shutil.copytree(make_adapter(0), tmp_path / "foreign")
    shutil.copyfile(make_adapter(1) / "probe.json", foreign / "probe.json")
    write_manifest(foreign, verify(make_adapter(0)))
    version = register(mlflow_home, tiny_config, foreign)
    found = roundtrip.prove(mlflow_home, "finsent", version, max_logit_difference=1e-2)
    assert found.max_logit_difference > 0.1
    assert (found.head_hash_equal, found.padding_invariant, found.batch_invariant) == (True, True, True)
    strict = roundtrip.prove(mlflow_home, "finsent", version, max_logit_difference=-1.0)
    assert (strict.padding_invariant, strict.batch_invariant) == (False, False)


def test_version_that_cannot_be_loaded_is_refused_with_the_reason(mlflow_home, tiny_config, make_adapter):
    version = register(mlflow_home, tiny_config, make_adapter(0))
    versions.adapter_path(mlflow_home, "finsent", version)  # this home has a copy; the registry loses its own
    shutil.rmtree(mlflow_home.artifacts)
    with pytest.raises(
        Refused, match=r"a new process cannot load it \(the adapter of version '1' of 'finsent' cannot be fetched"
    ):
        roundtrip.prove(mlflow_home, "finsent", version, max_logit_difference=1e-2)


def test_head_hash_sees_values_names_and_absence():
    import torch

    head = [("base_model.model.score.weight", torch.ones(3, 4))]
    rounded = [("base_model.model.score.weight", torch.full((3, 4), 1.001))]
    assert roundtrip._hash_weights(head) == roundtrip._hash_weights([(head[0][0], torch.ones(3, 4, dtype=torch.bfloat16))])
    assert roundtrip._hash_weights(head) != roundtrip._hash_weights(rounded)
    assert roundtrip._hash_weights(head) != roundtrip._hash_weights([("other", head[0][1])])
    with pytest.raises(ArtifactError, match="no classification head"):
        roundtrip._hash_weights([])
