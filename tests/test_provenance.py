"""The commit that is recorded is finsent's own."""

import subprocess
from pathlib import Path

import pytest

import finsent
from finsent.provenance import git_sha


def test_a_hook_of_another_repository_does_not_lend_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (Path(finsent.__file__).parents[1] / ".git").exists():
        pytest.skip("finsent is not run from a checkout")
    own = git_sha()
    other = ["-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--allow-empty", "--message", "other"]
    for arguments in (["init", "--quiet"], other):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(tmp_path))
    assert own is not None
    assert git_sha() == own
