"""A home copied while its original is there, and one restored where the original is gone: both go on, in their own files."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Served
from tests.registry.test_relocation import sums

pytestmark = [pytest.mark.integration, pytest.mark.long]
FINSENT = str(Path(sys.executable).parent / "finsent")


@pytest.mark.parametrize("gone", [False, True], ids=["copied", "restored"])
def test_a_copy_evaluates_and_decides_without_its_original(served: Served, tmp_path: Path, gone: bool) -> None:
    original, copy = tmp_path / "original", tmp_path / "copy"
    shutil.copytree(served.home.root, original)

    def finsent(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
        command = [FINSENT, *arguments, *served.options, "--home", str(home)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    assert finsent(original, "home", "move").returncode == 0
    shutil.copytree(original, copy)
    if gone:
        shutil.rmtree(original)
        shutil.rmtree(copy / "versions")
    before = sums(original)
    assert "finsent home move" in finsent(copy, "evaluate").stderr
    assert finsent(copy, "home", "move").returncode == 0
    evaluated = finsent(copy, "evaluate", "--set", "evaluation.robustness_rows=30")
    assert evaluated.returncode == 0, evaluated.stderr
    decided = finsent(copy, "promote")
    assert decided.returncode in {0, 1}, decided.stderr
    assert "had no evidence" not in decided.stdout or "1 had no evidence" in decided.stdout
    assert sums(original) == before
    assert finsent(copy, "ledger", "verify").returncode == 0
