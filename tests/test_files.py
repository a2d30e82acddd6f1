"""Atomic writes and locks between processes."""

import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from finsent import files
from finsent.errors import CheckFailed, ServiceError
from finsent.files import atomic_write, close_to_others, disk_use, locked, sync
from tests.lock_holding import freeze, held


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
    with held(lock) as holder:
        with pytest.raises(CheckFailed, match="held by another"), locked(lock, 0, "held by another"):
            pass
        with pytest.raises(ServiceError, match="busy"), locked(lock, 0, "busy", ServiceError):
            pass
        named = rf"held by another\. Process {holder.pid} \(-c\) has held it since 20.* UTC\.$"
        with pytest.raises(CheckFailed, match=named), locked(lock, 0, "held by another."):
            pass
        freeze(holder)
        frozen = rf"UTC and is stopped: `kill -CONT {holder.pid}` lets it go on"
        with pytest.raises(CheckFailed, match=frozen), locked(lock, 0, ""):
            pass
        holder.send_signal(signal.SIGCONT)
        holder.communicate("\n")
    with locked(lock, 0, "unused"):
        pass


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize(
    ("above", "mask", "made"),
    [
        (0o755, 0o022, 0o700),  # a home in a user's folder
        (0o1777, 0o000, 0o700),  # in /tmp, of a user with a strange umask
        (0o2775, 0o002, 0o2770),  # in a folder that hands its group down
        (0o700, 0o022, 0o755),  # in a home, closed already
        (0o2770, 0o002, 0o2775),  # in a home that a group shares
        (0o750, 0o027, 0o750),
    ],
)
def test_new_folders_are_not_for_everybody(above, mask, made, tmp_path, umask):
    folder = tmp_path / "above"
    folder.mkdir()
    folder.chmod(above)
    umask(mask)
    with locked(folder / "home" / "locks" / "x.lock", 0, ""):
        assert mode(folder / "home") == made
    atomic_write(folder / "other" / "file", "x")
    assert mode(folder / "other") == made


@pytest.mark.parametrize(
    ("before", "after"), [(0o755, 0o700), (0o777, 0o700), (0o711, 0o700), (0o2775, 0o2770), (0o750, 0o750), (0o700, 0o700)]
)
def test_a_home_that_all_may_enter_is_closed(before, after, tmp_path):
    home = tmp_path / "home"
    (home / "locks").mkdir(parents=True)
    home.chmod(before)
    assert close_to_others(home) is (before != after)
    assert mode(home) == after
    assert close_to_others(home) is False


def test_a_folder_that_is_more_than_a_home_is_left_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "locks").mkdir()
    tmp_path.chmod(0o755)
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert close_to_others(tmp_path) is False
    (tmp_path / "other").mkdir()
    assert close_to_others(tmp_path / "other") is False
    assert close_to_others(tmp_path / "missing") is False


HOLD = """
import sys, time
from pathlib import Path
from finsent.files import locked
with locked(Path(sys.argv[1]), 0, ""):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def hold(lock, seconds):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock), str(seconds)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    holder.stdout.close()
    return holder


def test_a_lock_file_that_a_killed_process_left_long_ago_is_no_lock(tmp_path):
    lock = tmp_path / "x.lock"
    holder = hold(lock, 60)
    holder.kill()
    holder.wait()
    assert lock.exists()
    os.utime(lock, (0, 0))
    with locked(lock, 0, "it is held"):
        pass


def test_waiting_without_limit_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0.05)
    holder = hold(tmp_path / "x.lock", 0.3)
    with locked(tmp_path / "x.lock", -1, ""):
        pass
    holder.wait()
    assert f"waiting for the lock {tmp_path / 'x.lock'}" in caplog.text


def test_a_file_system_that_cannot_flush_folders_is_no_failure_but_one_that_cannot_flush_a_file_is():
    sync(Path("/proc/self"))  # EINVAL, as on CIFS and FUSE mounts
    with pytest.raises(OSError, match="Invalid argument"):
        sync(Path("/proc/self/status"))


def test_the_size_of_a_folder_that_goes_meanwhile_is_what_is_left(tmp_path, monkeypatch):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(b"x" * 5000)
    scandir = os.scandir

    def removing(path):
        if Path(path) == tmp_path / "c":
            monkeypatch.undo()
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", removing)
    assert 10_000 < disk_use(tmp_path) < 40_000
