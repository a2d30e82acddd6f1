"""Atomic writes and locks between processes."""

import os
import subprocess
import sys

import pytest

from finsent.errors import CheckFailed, ServiceError
from finsent.files import atomic_write, locked


def test_atomic_write_replaces_content_and_makes_the_folder(tmp_path):
    path = tmp_path / "new" / "state.json"
    atomic_write(path, "Ünï")
    assert path.read_text(encoding="utf-8") == "Ünï"
    atomic_write(path, b"\x00\x01")
    assert path.read_bytes() == b"\x00\x01"
    assert [entry.name for entry in path.parent.iterdir()] == ["state.json"]


def test_failed_write_keeps_the_old_content_and_leaves_no_file(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    atomic_write(path, "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


def test_written_file_has_the_permissions_of_the_umask(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("x")
    atomic_write(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == plain.stat().st_mode


def test_lock_held_by_another_process_raises_the_message(tmp_path):
    lock = tmp_path / "locks" / "x.lock"
    with locked(lock, 0, "unused"):
        pass  # released, and its folder made
    code = (
        f"from finsent.files import locked\nfrom pathlib import Path\n"
        f"with locked(Path({str(lock)!r}), 0, ''):\n  print(1, flush=True)\n  input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "1\n"
        with pytest.raises(CheckFailed, match="held by another"), locked(lock, 0, "held by another"):
            pass
        with pytest.raises(ServiceError, match="busy"), locked(lock, 0, "busy", ServiceError):
            pass
        holder.communicate("\n")
    with locked(lock, 0, "unused"):
        pass
