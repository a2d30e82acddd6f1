"""A new process loads the version from the registry alone and finds what training left; what differs is found, too."""

import io
import json
import os
import shutil
import subprocess
import sys

import pytest

from finsent.errors import CheckFailed, ServiceError
from finsent.models.manifest import verify_manifest, write_manifest
from finsent.registry import tracking, verification
from finsent.registry.client import Registry


def register(home, config, adapter):
    with tracking.start_run(config, home, kind="train") as run_id:
        return Registry(home, config.registered_model).register(adapter, run_id=run_id, profile=config.profile)


def prove(home, name, version):
    with verification.round_trip_check(Registry(home, name), version) as run:
        return run()


def test_sound_version_is_proved(mlflow_home, tiny_config, make_adapter, tmp_path, monkeypatch):
    (tmp_path / "random.py").write_text("raise ImportError('a module of the working folder')")
    monkeypatch.chdir(tmp_path)
    version = register(mlflow_home, tiny_config, make_adapter(0))
    proof = prove(mlflow_home, "finsent", version)
    assert proof["max_logit_difference"] < 1e-4
    assert proof["head_hash_equal"]
    assert proof["labels_equal"]
    assert proof["padding_equal"]
    assert proof["max_padding_difference"] < 1e-2
    assert proof["max_batch_difference"] < 1e-2
    assert proof["probes"] == 5
    assert not mlflow_home.bases.exists()  # the new process built its base itself, in a home of its own


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_probe_of_another_model_is_found(mlflow_home, tiny_config, make_adapter, tmp_path, proof_in_process):
    foreign = shutil.copytree(make_adapter(0), tmp_path / "foreign")
    shutil.copyfile(make_adapter(1) / "probe.json", foreign / "probe.json")
    write_manifest(foreign, verify_manifest(make_adapter(0)))
    version = register(mlflow_home, tiny_config, foreign)
    found = prove(mlflow_home, "finsent", version)
    assert found["max_logit_difference"] > 0.1
    assert found["max_padding_difference"] < 1e-2


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
def test_head_that_is_not_the_trained_one_is_found(mlflow_home, tiny_config, make_adapter, tmp_path, proof_in_process):
    from safetensors.torch import load_file, save_file

    other = shutil.copytree(make_adapter(0), tmp_path / "other")
    weights = load_file(other / "adapter_model.safetensors")
    (head,) = [name for name in weights if "score" in name]
    weights[head] = weights[head] * (1 + 1e-6)  # no logit tells
    save_file(weights, other / "adapter_model.safetensors", metadata={"format": "pt"})
    write_manifest(other, verify_manifest(make_adapter(0)))
    found = prove(mlflow_home, "finsent", register(mlflow_home, tiny_config, other))
    assert found["max_logit_difference"] < 1e-4
    assert not found["head_hash_equal"]


@pytest.mark.filterwarnings("ignore")  # torch and transformers deprecate things of their own while loading
@pytest.mark.parametrize(
    ("change", "untrue"),
    [
        (lambda loaded: loaded.model.config.id2label.update({1: "Bearish", 2: "Bullish"}), "labels_equal"),
        (lambda loaded: setattr(loaded.model.config, "pad_token_id", 7), "padding_equal"),
        (lambda loaded: setattr(loaded.tokenizer, "padding_side", "right"), "padding_equal"),
    ],
)
def test_labels_and_padding_are_those_of_what_was_loaded(
    mlflow_home, tiny_config, make_adapter, monkeypatch, proof_in_process, change, untrue
):
    from finsent.models import adapter

    load = adapter.load_adapter

    def load_changed(folder, home):
        loaded = load(folder, home)
        change(loaded)
        return loaded

    monkeypatch.setattr(adapter, "load_adapter", load_changed)  # a library that loads otherwise, as one did before
    found = prove(mlflow_home, "finsent", register(mlflow_home, tiny_config, make_adapter(0)))
    assert {name for name in ("head_hash_equal", "labels_equal", "padding_equal") if not found[name]} == {untrue}


def test_probe_without_a_hash_of_the_head_proves_nothing(mlflow_home, tiny_config, make_adapter, tmp_path):
    old = shutil.copytree(make_adapter(0), tmp_path / "old")
    probe = json.loads((old / "probe.json").read_text())
    del probe["head_sha256"]
    (old / "probe.json").write_text(json.dumps(probe))
    write_manifest(old, verify_manifest(make_adapter(0)))
    version = register(mlflow_home, tiny_config, old)
    with pytest.raises(CheckFailed, match="records no hash of the trained head"):
        prove(mlflow_home, "finsent", version)


@pytest.fixture
def without_peft(tmp_path, monkeypatch):
    """In new processes an empty module takes PEFT's place: what loads no adapter need not wait nine seconds for it."""
    (tmp_path / "peft.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)


@pytest.mark.long
@pytest.mark.usefixtures("without_peft")
def test_version_that_cannot_be_loaded_is_refused_with_the_reason(mlflow_home, tiny_config, make_adapter):
    version = register(mlflow_home, tiny_config, make_adapter(0))
    Registry(mlflow_home, "finsent").adapter_path(version)  # this home has a copy; the registry loses its own
    shutil.rmtree(mlflow_home.artifacts)
    with pytest.raises(
        CheckFailed, match=r"a new process cannot load it \(the adapter of version '1' of 'finsent' cannot be fetched"
    ):
        prove(mlflow_home, "finsent", version)


def test_process_that_nobody_asks_ends_with_the_block(mlflow_home, monkeypatch):
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[0])
    with pytest.raises(MemoryError), verification.round_trip_check(Registry(mlflow_home, "finsent"), "1"):
        raise MemoryError  # scoring failed meanwhile
    assert started[0].returncode is not None


@pytest.mark.usefixtures("without_peft")
def test_process_whose_parent_is_gone_loads_nothing():
    command = [sys.executable, "-m", "finsent.registry.verification", "finsent", "1"]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120)
    assert (ended.returncode, ended.stdout) == (1, "")


@pytest.mark.parametrize("code", [75, 1])
def test_an_outage_in_the_new_process_refuses_no_version_and_is_tried_once_more(tmp_path, mlflow_home, monkeypatch, caplog, code):
    program = tmp_path / "python"
    program.write_text(
        f"#!/bin/sh\nread line\necho started >>{tmp_path}/starts\necho 'MLflow does not answer.' >&2\nexit {code}\n"
    )
    program.chmod(0o700)
    monkeypatch.setattr(verification.sys, "executable", str(program))
    kind = ServiceError if code == 75 else CheckFailed
    with pytest.raises(kind, match="MLflow does not answer"), verification._new_process(mlflow_home, "finsent", "1") as replay:
        replay()
    assert (tmp_path / "starts").read_text().count("started") == (2 if code == 75 else 1)
    assert ("Trying once more" in caplog.text) is (code == 75)


def test_the_new_process_tells_an_outage_by_its_exit_code(monkeypatch, capsys):
    monkeypatch.setattr(verification, "end_with_parent", lambda: None)
    monkeypatch.setattr(verification, "configure_child_logging", lambda: None)
    monkeypatch.setattr(verification.sys, "stdin", io.StringIO("go\n"))
    monkeypatch.setattr(verification, "replay_probe", raise_outage)
    monkeypatch.setattr(verification.importlib, "import_module", lambda _: None)
    out = sys.stdout
    assert verification._main(["finsent", "1"]) == 75
    monkeypatch.setattr(sys, "stdout", out)
    assert "MLflow does not answer" in capsys.readouterr().err


def raise_outage(*_: object) -> None:
    raise ServiceError("MLflow does not answer.")
