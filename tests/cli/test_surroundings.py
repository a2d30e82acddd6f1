"""What `finsent doctor` finds around finsent: each fault is named with its remedy, and a sound machine has none."""

import os
import time
from pathlib import Path

import pytest

from finsent.cli import surroundings
from finsent.cli.surroundings import find_surroundings
from finsent.workspace import Workspace


@pytest.fixture
def found(home: Workspace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """`found()`: what is wrong, by name. The machine itself is made sound first."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "RANK", "WORLD_SIZE", "TZ"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(surroundings, "_open_files", lambda: ("open files", "ok", "many", ""))
    home.root.mkdir(mode=0o700)
    return lambda: {name: (state, f"{what}: {advice}") for name, state, what, advice in find_surroundings(home) if state != "ok"}


def test_a_sound_machine_has_nothing(found):
    assert found() == {}


@pytest.mark.parametrize(
    ("variable", "value", "name", "state", "said"),
    [
        ("HOME", "/dev/null/x", "user", "warn", "HOME"),
        ("RANK", "x", "launcher", "fail", "RANK = 'x'"),
        ("WORLD_SIZE", "4", "launcher", "warn", "4 processes"),
        ("OMP_NUM_THREADS", "many", "threads", "warn", "OMP_NUM_THREADS = 'many'"),
        ("TZ", "Mars/Base", "clock", "warn", "TZ = 'Mars/Base'"),
        ("HTTPS_PROXY", "http://[", "HTTPS_PROXY", "fail", "no URL of a proxy"),
    ],
)
def test_variables(variable, value, name, state, said, found, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert found()[name][0] == state
    assert said in found()[name][1]


@pytest.mark.parametrize(
    ("variable", "value"), [("TZ", "CET-1CEST"), ("TZ", "Europe/Prague"), ("TZ", ""), ("OMP_NUM_THREADS", "4,2")]
)
def test_variables_that_are_right(variable, value, found, monkeypatch):
    monkeypatch.setenv(variable, value)
    assert found() == {}


def test_a_proxy_is_shown_without_its_password(home, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@proxy:3128")
    shown = {name: what for name, _, what, _ in find_surroundings(home)}
    assert "proxy:3128" in shown["HTTP_PROXY"]
    assert "secret" not in shown["HTTP_PROXY"]


def test_a_user_whom_the_system_does_not_know(found, monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    assert "Set HOME to a folder" in found()["user"][1]


def test_permissions_of_the_home(found, home):
    home.root.chmod(0o755)
    assert "chmod o-rwx" in found()["home's permissions"][1]


def test_a_clock_that_was_set_back(found, home):
    home.audit_log.touch()
    later = time.time() + 3600
    os.utime(home.audit_log, (later, later))
    assert found()["clock"][0] == "fail"


def test_no_limit_of_open_files_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.resource, "getrlimit", lambda _: (-1, -1))
    assert surroundings._open_files()[1:3] == ("ok", "no limit")
