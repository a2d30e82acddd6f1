"""What `finsent doctor` finds out about rights, logins, room and frozen processes before work fails over them."""

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from finsent.cli import access
from finsent.cli.server_password import make_password, password_path
from finsent.config import load_config
from finsent.workspace import Workspace
from tests.lock_holding import freeze, held


def found(home: Workspace) -> dict[str, tuple[str, str, str]]:
    return {name: (state, said, advice) for name, state, said, advice in access.find_access(load_config(), home)}


def test_nothing_is_said_of_a_home_that_is_not_there_yet(home: Workspace) -> None:
    assert found(home) == {}


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("audit log", lambda home: home.audit_log),
        ("audit log", lambda home: Path(f"{home.audit_log}.lock")),
        ("locks", lambda home: home.lock("score")),
        ("tables", lambda home: Path(home.tables_url) / "tweets" / "_delta_log"),
    ],
)
def test_what_may_be_read_and_not_written_is_found(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, place: Callable[[Workspace], Path]
) -> None:
    shut = place(home)
    shut.mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda path, _mode: Path(path) != shut)  # the tests may run as root, who may write all
    state, said, advice = found(home)[name]
    assert (state, said) == ("fail", f"{str(shut)!r} cannot be written")
    assert advice.startswith("This user may read and not write it, as is needed ")


def test_a_stopped_process_that_holds_a_lock_is_found(home: Workspace) -> None:
    with held(home.lock("ingest")) as other:
        freeze(other)
        state, said, advice = found(home)["lock ingest"]
    assert (state, said) == ("fail", f"process {other.pid} is stopped")
    assert f"`kill -CONT {other.pid}` lets it go on" in advice


def test_the_password_of_the_homes_servers_is_looked_at(home: Workspace) -> None:
    make_password(home)
    assert found(home)["servers' password"] == ("ok", "private", "")
    password_path(home.root).chmod(0o644)
    state, _, advice = found(home)["servers' password"]
    assert state == "fail"
    assert "open to others" in advice


def test_another_disk_that_is_nearly_full_is_found(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == home.root.parent.stat().st_dev:
        pytest.skip("no second disk here")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 29))
    state, said, _ = found(replace(home, tables_url=str(shared / "finsent-not-there")))["disk of tables"]
    assert (state, said) == ("fail", f"0.5 GiB free, {shared}")
