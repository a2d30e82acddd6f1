"""A copied home at the command line: told at once, settled by `finsent home move`."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.cli import doctor
from finsent.registry import tracking
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


def test_a_copied_home_is_told_and_settled(
    finsent: "Finsent", mlflow_home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking.experiment_id(tracking.connect(mlflow_home), mlflow_home, "finsent")
    copy = tmp_path / "copy"
    shutil.copytree(mlflow_home.root, copy)
    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_artifacts, doctor.check_servers))

    said = finsent("doctor", "--home", copy)
    assert said.code == 1
    assert f"finsent home move --home {copy}" in said.out
    assert "finsent home move" in finsent("status", "--home", copy).out
    refused = finsent("up", "--home", copy)
    assert (refused.code, "finsent home move" in refused.err) == (1, True)
    assert not (copy / "logs").exists()

    moved = finsent("home", "move", "--home", copy, "--json")
    assert (moved.code, moved.json()["changed"]) == (0, 1)
    assert finsent("doctor", "--home", copy).code == 0
    again = finsent("home", "move", "--home", copy)
    assert (again.code, "nothing to move" in again.err) == (2, True)
