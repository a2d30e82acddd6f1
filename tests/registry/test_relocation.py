"""Homes that were copied, moved or restored: refused until settled, and then at work without touching the original."""

import hashlib
import json
import shutil
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finsent.errors import CheckFailed, InputError, ServiceError
from finsent.registry import relocation, tracking
from finsent.registry.client import Registry
from finsent.registry.relocation import foreign_locations, missing_artifacts, move_locations
from finsent.workspace import Workspace, resolve_workspace
from tests.homes import BuildOnce, copy_home


def at(folder: Path) -> Workspace:
    return resolve_workspace({"FINSENT_HOME": str(folder)})


def sums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture
def original(
    build_once: BuildOnce,
    _mlflow_store: Path,
    tiny_config: Any,
    make_adapter: Any,
    tmp_path: Path,
) -> Workspace:
    """One version with artifacts in the home, one run that names a table, one finished training that is not registered."""

    def build(folder: Path) -> None:
        shutil.copyfile(_mlflow_store, folder / "mlflow.db")
        home = at(folder)
        registry = Registry(home, "finsent")
        with tracking.start_run(tiny_config, home, kind="train") as run_id:
            tracking.log_dataset(
                registry.client, run_id, home, table="tweets", version=1, fingerprint="ab" * 16, context="training"
            )
            registry.register(make_adapter(0), run_id=run_id, profile="nano")
            registry.client.log_text(run_id, "{}", "evaluation/evidence.json")
        result = home.runs / run_id / "result.json"
        result.parent.mkdir(parents=True)
        result.write_text(json.dumps({"base": {"folder": str(home.bases / "nano")}, "loss": 1.0}), encoding="utf-8")

    return copy_home(build_once("relocated", build), tmp_path / "home")


def test_a_copy_is_refused_before_it_writes_and_settled_by_a_move(original: Workspace, tmp_path: Path) -> None:
    assert foreign_locations(original) == []
    tracking.connect(original)
    copy = at(tmp_path / "a copy")  # whose URI is quoted
    shutil.copytree(original.root, copy.root)
    before = sums(original.root)
    untouched = sums(copy.root)
    with pytest.raises(CheckFailed, match=r"keeps 3 artifact locations outside it, .*finsent home move --home"):
        tracking.connect(copy)
    assert sums(copy.root) == untouched, "nothing was written, in the copy neither"

    done = move_locations(copy)
    assert (done.was, done.missing) == ((str(original.artifacts),), ())
    assert done.changed == 3, "as many as the refusal counted; model and version name one place"
    with closing(sqlite3.connect(copy.root / "mlflow.db")) as store:
        dump = "\n".join(store.iterdump())
    assert str(original.root) not in dump
    with closing(sqlite3.connect(done.backup)) as store:
        assert "\n".join(store.iterdump()).count(original.artifacts.as_uri()) >= 4

    registry = Registry(copy, "finsent")
    run_id = registry.get_version("1").run_id
    registry.client.log_text(run_id, "{}", "evaluation/report_inputs.json")
    assert registry.adapter_path("1").is_relative_to(copy.root)
    assert json.loads((copy.runs / run_id / "result.json").read_text(encoding="utf-8"))["base"]["folder"] == str(
        copy.bases / "nano"
    )
    assert sums(original.root) == before, "the original is as it was"
    assert len(list(copy.artifacts.rglob("report_inputs.json"))) == 1


def test_a_moved_home_has_its_models_again(original: Workspace, tmp_path: Path) -> None:
    moved = at(tmp_path / "moved")
    original.root.rename(moved.root)
    assert missing_artifacts(moved) == ["finsent version 1"]
    assert move_locations(moved).missing == ()
    assert Registry(moved, "finsent").adapter_path("1").is_dir()
    with pytest.raises(InputError, match="nothing to move"):
        move_locations(moved)


def test_a_backup_without_artifacts_says_what_it_lacks(original: Workspace, tmp_path: Path) -> None:
    restored = at(tmp_path / "restored")
    restored.root.mkdir()
    shutil.copyfile(original.root / "mlflow.db", restored.root / "mlflow.db")
    assert move_locations(restored).missing == ("finsent version 1",)


def test_a_copy_below_its_original_and_one_above_are_copies_too(original: Workspace) -> None:
    below = at(original.root / "staging")
    below.root.mkdir()
    shutil.copyfile(original.root / "mlflow.db", below.root / "mlflow.db")
    assert len(foreign_locations(below)) == 3
    above = at(original.root.parent)
    shutil.copyfile(original.root / "mlflow.db", above.root / "mlflow.db")
    assert len(foreign_locations(above)) == 3


def test_artifacts_of_an_experiment_that_was_named_like_a_path(mlflow_home: Workspace, tiny_config: Any, tmp_path: Path) -> None:
    """An earlier release took such a name, and its artifacts went outside the home."""
    outside = tmp_path / "outside"
    client = tracking.connect(mlflow_home)
    client.create_experiment("finsent", artifact_location=outside.as_uri())
    with (
        pytest.raises(InputError, match=r"keeps its artifacts in .*outside the home"),
        tracking.start_run(tiny_config, mlflow_home, kind="train"),
    ):
        pass
    experiment = client.get_experiment_by_name("finsent").experiment_id
    run_id = client.create_run(experiment).info.run_id
    assert foreign_locations(mlflow_home) == [], "a run of somebody else's"
    client.set_tag(run_id, "kind", "train")
    client.log_text(run_id, "{}", "evaluation/evidence.json")
    with pytest.raises(CheckFailed, match="1 artifact locations outside"):
        tracking.connect(mlflow_home)
    with pytest.raises(InputError, match=r"name it with --from\. Nothing was changed"):
        move_locations(mlflow_home)
    shutil.copytree(outside, mlflow_home.artifacts)
    move_locations(mlflow_home, outside)
    assert [item.path for item in tracking.connect(mlflow_home).list_artifacts(run_id)] == ["evaluation"]


def test_another_store_and_another_server_are_not_the_homes(original: Workspace, tmp_path: Path) -> None:
    shared = f"sqlite:///{original.root / 'mlflow.db'}"
    other = resolve_workspace({"FINSENT_HOME": str(tmp_path / "other"), "MLFLOW_TRACKING_URI": shared})
    assert foreign_locations(other) == []
    tracking.connect(other)
    with pytest.raises(InputError, match="no MLflow store of its own"):
        move_locations(other)


def test_a_store_in_use_or_damaged_is_told(original: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = at(tmp_path / "copy")
    shutil.copytree(original.root, copy.root)
    before = sums(copy.root)
    monkeypatch.setattr(relocation, "_BUSY_SECONDS", 0.1)
    with closing(sqlite3.connect(copy.root / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("begin immediate")
        with pytest.raises(ServiceError, match="cannot be changed"):
            move_locations(copy)
        writer.execute("rollback")
    after = {name: digest for name, digest in sums(copy.root).items() if "before-move" not in name and "result.json" not in name}
    assert after == {name: digest for name, digest in before.items() if "result.json" not in name}
    move_locations(copy)
    (copy.root / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(InputError, match=r"cannot be used.*backup"):
        foreign_locations(copy)


def test_what_a_killed_writer_left_is_rolled_back(original: Workspace, tmp_path: Path) -> None:
    """A journal beside the store, which nobody holds: SQLite wants to write before it reads."""
    copy = at(tmp_path / "killed")
    copy.root.mkdir()
    with closing(sqlite3.connect(original.root / "mlflow.db", isolation_level=None)) as writer:
        writer.execute("pragma cache_size = 1")  # so that it begins to write before it commits
        writer.execute("begin immediate")
        writer.execute("update runs set name = hex(randomblob(50000))")
        writer.execute("update experiments set name = hex(randomblob(50000))")
        for name in ("mlflow.db", "mlflow.db-journal"):
            shutil.copy(original.root / name, copy.root / name)
        writer.execute("rollback")
    assert missing_artifacts(original) == []
    assert len(foreign_locations(copy)) == 3
    assert not (copy.root / "mlflow.db-journal").exists()


def test_the_store_is_the_homes_own_through_its_own_server_too(original: Workspace, tmp_path: Path) -> None:
    shutil.rmtree(original.artifacts)
    served = replace(original, tracking_uri="http://me:secret@localhost:5000/")
    assert missing_artifacts(served) == []
    for place, lost in ((original.root, ["finsent version 1"]), (tmp_path / "other", [])):
        (original.root / "services.json").write_text(json.dumps({"home": str(place), "mlflow": "http://127.0.0.1:5000"}))
        assert missing_artifacts(served) == lost
        assert missing_artifacts(replace(served, tracking_uri="http://localhost:5001")) == []
