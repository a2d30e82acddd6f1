"""Which runs are lost, as decision tables. On a real server: tests/integration/test_prefect_server.py."""

import os
import subprocess
import sys
from typing import Any

import pytest

from finsent import process_identity
from finsent.cli import lost_runs
from finsent.cli.lost_runs import end_lost_runs, fate, surplus
from finsent.cli.server_password import make_password
from finsent.cli.services_file import RunningServices
from finsent.errors import ServiceError
from finsent.process_identity import PROCESS_LABEL, is_alive, is_of_another_boot, start_time, this_process
from finsent.workspace import Workspace

ALIVE, DEAD, UNKNOWN = True, False, None


@pytest.mark.parametrize(
    ("state", "alive", "silent", "becomes"),
    [
        ("RUNNING", ALIVE, 0, "KEEP"),
        ("RUNNING", ALIVE, 9999, "KEEP"),  # a process that is frozen or starved sends nothing, and lives
        ("RUNNING", DEAD, 0, "CRASHED"),
        ("PENDING", DEAD, 0, "CRASHED"),
        ("CANCELLING", DEAD, 0, "CANCELLED"),
        ("CANCELLING", ALIVE, 9999, "KEEP"),
        ("RUNNING", UNKNOWN, 149, "KEEP"),
        ("RUNNING", UNKNOWN, 151, "CRASHED"),
        ("PENDING", UNKNOWN, 149, "KEEP"),
        ("PENDING", UNKNOWN, 151, "CRASHED"),
        ("CANCELLING", UNKNOWN, 149, "KEEP"),
        ("CANCELLING", UNKNOWN, 151, "CANCELLED"),
    ],
)
def test_only_what_cannot_live_is_ended(state: str, alive: bool | None, silent: float, becomes: str) -> None:
    assert fate(state, alive, silent, grace=150) == becomes


@pytest.mark.parametrize(
    ("state", "alive", "silent", "is_ours", "becomes"),
    [
        ("PENDING", UNKNOWN, 99, True, "KEEP"),
        ("PENDING", UNKNOWN, 101, True, "CRASHED"),
        ("PENDING", UNKNOWN, 101, False, "KEEP"),  # a worker elsewhere may take minutes: a container's image, a slow import
        ("RUNNING", UNKNOWN, 101, True, "KEEP"),
        ("PENDING", ALIVE, 101, True, "KEEP"),
    ],
)
def test_a_claim_is_short_for_workers_of_our_own(
    state: str, alive: bool | None, silent: float, is_ours: bool, becomes: str
) -> None:
    assert fate(state, alive, silent, grace=300, is_ours=is_ours) == becomes


def flow_run(name: str, parent: str | None = None, pool: str | None = None, **labels: str) -> dict[str, Any]:
    return {"id": name, "parent_task_run_id": parent, "work_pool_name": pool, "labels": labels}


def test_a_run_goes_by_the_process_that_runs_it() -> None:
    known = {
        run["id"]: run
        for run in (
            flow_run("root", pool="gpu"),
            flow_run("inner", "t-root"),
            flow_run("deployed", "t-inner", "cpu"),
            flow_run("served", "t-root", **{PROCESS_LABEL: "its own"}),
            flow_run("deepest", "t-deployed"),
        )
    }

    def ask(path: str) -> dict[str, str]:
        return {"flow_run_id": path.partition("t-")[2]}

    leaders = {name: lost_runs._leader(ask, run, known)["id"] for name, run in known.items()}
    assert leaders == {"root": "root", "inner": "root", "deployed": "deployed", "served": "served", "deepest": "deployed"}


def test_pools_are_asked_for_by_any_name() -> None:
    asked: list[str] = []

    def ask(path: str, _body: object) -> list[str]:
        asked.append(path)
        return []

    assert lost_runs._pools_of_our_own(ask, ["große GPU/1"]) == {"große GPU/1"}
    assert asked == ["work_pools/gro%C3%9Fe%20GPU%2F1/workers/filter"]


def missed(name: str, deployment: str, hour: int, schedule: str | None = "s") -> dict[str, object]:
    created = {"id": schedule} if schedule else None
    return {"id": name, "deployment_id": deployment, "created_by": created, "expected_start_time": f"2026-11-30T{hour:02}:00:00Z"}


def test_the_newest_of_each_schedule_catches_up() -> None:
    runs = [missed("b", "score", 2), missed("c", "score", 3), missed("a", "score", 1), missed("d", "monitor", 1)]
    runs += [missed("e", "score", 1, "added by hand"), missed("f", "score", 9, None)]
    newest, others = surplus(runs)
    assert {run["id"] for run in newest} == {"c", "d", "e", "f"}
    assert {run["id"] for run in others} == {"a", "b"}
    assert surplus([]) == ([], [])


def test_a_process_is_known_by_host_id_start_boot_and_container() -> None:
    host, pid, started, boot, container = this_process().split()
    assert is_alive(this_process()) is True
    assert is_alive(f"{host} {pid} {float(started) - 60:.2f} {boot} {container}") is False  # another process's id by now
    unknown = [
        f"elsewhere {pid} {started} {boot} {container}",
        f"{host} {pid} {started} another-boot {container}",  # another machine of the same name, or this one before it stopped
        f"{host} {pid} {started} {boot} pid:[1]",
        f"{host} {pid} {started}",
        *("", "nonsense", f"{host} x y {boot} {container}"),
    ]
    assert [is_alive(text) for text in unknown] == [None] * len(unknown)
    assert [text for text in (this_process(), *unknown) if is_of_another_boot(text)] == [unknown[1]]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        record = f"{host} {child.pid} {start_time(child.pid)} {boot} {container}"
        assert is_alive(record) is True
        child.kill()
        child.wait()
        assert is_alive(record) is False
    assert int(pid) == os.getpid()


def test_a_server_that_has_just_ended_is_no_bug(home: Workspace) -> None:
    make_password(home)
    with pytest.raises(ServiceError, match="prefect"):
        end_lost_runs(RunningServices(1, "http://127.0.0.1:9", "http://127.0.0.1:9", str(home.root)))


def test_a_machine_without_proc_knows_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_identity, "_boot", lambda: "-")
    monkeypatch.setattr(process_identity, "_namespace", lambda: "-")
    assert this_process().endswith(" - -")
    assert is_alive(this_process()) is True
    assert not is_of_another_boot(this_process())
