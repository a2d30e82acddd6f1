"""One `finsent up` per home, and the end of what a killed one left."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from finsent.cli import ownership
from finsent.cli.processes import SERVICE_VARIABLE
from finsent.cli.services_file import RunningServices, services_path, write_services
from finsent.errors import InputError
from finsent.process_identity import start_time
from finsent.workspace import Workspace
from tests.lock_holding import freeze

SLEEP = "import time; print('ready', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"


def launch(code: str = SLEEP, **environment: str) -> "subprocess.Popen[str]":
    env = {**os.environ, **environment}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    return process


def record(at: Workspace, service: int, **changed: object) -> None:
    started = start_time(service)
    assert started is not None
    running = RunningServices(1, "http://127.0.0.1:9", "http://127.0.0.1:9", str(at.root), "0a1b", {"mlflow": (service, started)})
    write_services(at.root, replace(running, **changed))  # type: ignore[arg-type]


def test_the_second_is_told_who_holds_the_home(home: Workspace) -> None:
    held = ownership.hold_home(home)
    with pytest.raises(
        InputError, match=rf"already up in '.*': process {os.getpid()} on .* since \d{{4}}-\d\d-\d\d .* UTC\. Stop"
    ):
        ownership.hold_home(home)
    os.close(held)
    os.close(ownership.hold_home(home))


HOLD = """
import os, signal, sys
from finsent.cli import ownership
from finsent.workspace import resolve_workspace
held = ownership.hold_home(resolve_workspace({"FINSENT_HOME": sys.argv[1]}))
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_one_holds_nothing(home: Workspace) -> None:
    done = subprocess.run([sys.executable, "-c", HOLD, str(home.root)], check=False)
    assert done.returncode == -signal.SIGKILL
    os.close(ownership.hold_home(home))


def test_only_services_of_the_home_and_what_they_started_belong_to_it() -> None:
    root = Path("/h")
    assert ownership.belongs({"FINSENT_HOME": "/h", SERVICE_VARIABLE: "mlflow"}, root)
    assert ownership.belongs({"FINSENT_HOME": "/h", SERVICE_VARIABLE: "mlflow"}, root, "mlflow")
    assert not ownership.belongs({"FINSENT_HOME": "/h", SERVICE_VARIABLE: "mlflow"}, root, "prefect")
    assert not ownership.belongs({"FINSENT_HOME": "/h"}, root), "a command or worker of the user's own"
    assert not ownership.belongs({"FINSENT_HOME": "/h2", SERVICE_VARIABLE: "mlflow"}, root)
    assert not ownership.belongs({SERVICE_VARIABLE: "mlflow"}, root)
    assert not ownership.belongs({}, root)


def test_what_a_killed_one_left_is_ended_and_nothing_else(home: Workspace) -> None:
    mine = {"FINSENT_HOME": str(home.root)}
    left = [
        launch(STUBBORN, **mine, **{SERVICE_VARIABLE: "worker-gpu"}),
        launch(**mine, **{SERVICE_VARIABLE: "prefect"}),
        recorded := launch(**mine, **{SERVICE_VARIABLE: "mlflow"}),
    ]
    others = [launch(**mine), launch(FINSENT_HOME=f"{home.root}-2", **{SERVICE_VARIABLE: "mlflow"}), launch()]
    freeze(left[1])
    record(home, recorded.pid)
    told: list[str] = []
    try:
        ownership.end_leftovers(home, told.append, grace=0.8)
        assert all(process.poll() is not None for process in left)
        assert [process.poll() for process in others] == [None, None, None]
        assert all(str(process.pid) in told[0] for process in left)
        assert not services_path(home.root).exists()
    finally:
        for process in (*left, *others):
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    "changed", [{}, {"home": "/elsewhere"}, {"processes": {"mlflow": (os.getppid(), 1.0)}}, {"processes": {}}]
)
def test_a_record_of_another_home_or_of_ended_processes_ends_nothing(home: Workspace, changed: dict[str, object]) -> None:
    """Without a change the id is an innocent process's, since the machine has started again: ids and times repeat then."""
    process = launch()
    try:
        record(home, process.pid, **changed)
        ownership.end_leftovers(home, pytest.fail)
        assert process.poll() is None
        assert not services_path(home.root).exists()
    finally:
        process.kill()
        process.wait()


def test_a_recorded_id_that_another_user_has_by_now_is_left_alone(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(process: psutil.Process) -> dict[str, str]:
        raise psutil.AccessDenied(process.pid)

    process = launch()
    monkeypatch.setattr(psutil.Process, "environ", refused)
    try:
        record(home, process.pid)
        ownership.end_leftovers(home, pytest.fail)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {SLEEP!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
child.wait()
"""


def test_one_of_an_earlier_release_that_holds_no_lock_is_left_at_work(home: Workspace) -> None:
    parent = launch(PARENT)
    (child,) = psutil.Process(parent.pid).children()
    try:
        record(home, child.pid, pid=parent.pid)
        with pytest.raises(InputError, match=f"already up in .*: process {parent.pid}"):
            ownership.end_leftovers(home, pytest.fail)
        assert child.is_running()
        assert services_path(home.root).exists()
    finally:
        child.kill()
        parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="there a process ends with its main thread")
def test_a_process_has_ended_when_its_last_thread_has() -> None:
    """Until then it holds its ports: after SIGKILL threads that wait for the disk outlive the main one for seconds."""
    ending = (
        "import ctypes, threading, time; threading.Thread(target=time.sleep, args=(60,)).start(); "
        "print('ready', flush=True); ctypes.CDLL(None).pthread_exit(None)"
    )
    parent = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {ending!r}], stdout=-3, stderr=-3).pid)"
    pid = int(subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True).stdout)
    process, deadline = psutil.Process(pid), time.monotonic() + 10
    while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ownership.is_alive(process)
    ownership.end_processes([process], grace=5)
    assert not ownership.is_alive(process)
