"""Child processes: started in groups of their own, watched, their logs rotated, stopped with all they started."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finsent.cli import processes
from finsent.errors import ServiceError
from finsent.workspace import Workspace
from tests.lock_holding import freeze

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sleeper = "import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", sleeper])
print("ready", child.pid, flush=True)
time.sleep(60)
"""
DETACHED = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", child.pid, flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    pass
"""


def launch(code: str, folder: Path, home: Workspace) -> processes.Service:
    module = folder / "service_under_test.py"
    module.write_text(code, encoding="utf-8")
    service = processes.start_service("test", ["service_under_test"], {**os.environ, "PYTHONPATH": str(folder)}, home)
    processes.wait_until(lambda: "ready" in service.log_tail(), service, seconds=20)
    return service


@pytest.mark.parametrize("code", [STUBBORN, DETACHED])
def test_stop_leaves_no_process_behind(code: str, tmp_path: Path, home: Workspace) -> None:
    service = launch(code, tmp_path, home)
    child = int(service.log.read_text(encoding="utf-8").split()[1])
    processes.stop_services([service], grace=0.5, insist=0.5)
    assert service.process.poll() is not None
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


FOLLOWER = """
import os, signal, subprocess, sys, time
if sys.argv[1:]:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    print("ready", flush=True)
    while os.getppid() == int(sys.argv[1]):
        time.sleep(0.05)
    time.sleep(0.5)
    print("reported", flush=True)
else:
    subprocess.Popen([sys.executable, __file__, str(os.getpid())])
    time.sleep(60)
"""


def test_what_a_service_started_may_report_its_end(tmp_path: Path, home: Workspace) -> None:
    service = launch(FOLLOWER, tmp_path, home)
    began = time.monotonic()
    processes.stop_services([service], follow=30)
    assert "reported" in service.log.read_text(encoding="utf-8")
    assert time.monotonic() - began < 20


def test_a_frozen_service_is_stopped_as_cleanly(tmp_path: Path, home: Workspace) -> None:
    service = launch("import time\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path, home)
    freeze(service.process)
    processes.stop_services([service], grace=10)
    assert service.process.returncode == -signal.SIGINT


def test_children_take_ctrl_c_even_when_their_parent_ignores_it(tmp_path: Path, home: Workspace) -> None:
    """A shell starts background jobs with SIGINT ignored, which children would inherit."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service = launch("import time\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path, home)
        began = time.monotonic()
        processes.stop_services([service], grace=10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 8
    assert service.process.returncode == -signal.SIGINT


def test_a_service_that_ends_early_is_quoted(tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "short_lived.py").write_text("raise SystemExit('no database')", encoding="utf-8")
    service = processes.start_service("test", ["short_lived"], {**os.environ, "PYTHONPATH": str(tmp_path)}, home)
    with pytest.raises(ServiceError, match=r"test ended by itself with code 1\..*test\.log, ends with:\nno database"):
        processes.wait_until(lambda: False, service, seconds=20)


def test_a_service_that_never_answers_is_given_up(tmp_path: Path, home: Workspace) -> None:
    service = launch("import time\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path, home)
    with pytest.raises(ServiceError, match="did not answer within 1 s"):
        processes.wait_until(lambda: False, service, seconds=1)
    processes.stop_services([service])


STARTER = """
import os, signal, sys
from pathlib import Path
from finsent.cli import processes
from finsent.workspace import resolve_workspace

home = resolve_workspace({"FINSENT_HOME": sys.argv[1]})
service = processes.start_service("test", ["timeit", "-n1", "-r1", "import time; time.sleep(60)"], dict(os.environ), home)
print(service.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent was killed")
def test_a_killed_parent_leaves_no_service(home: Workspace) -> None:
    done = subprocess.run([sys.executable, "-c", STARTER, str(home.root)], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_log_is_rotated_while_its_service_writes(tmp_path: Path, home: Workspace) -> None:
    code = "import sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n    print(line, end='', flush=True)\n"
    module = tmp_path / "echoing.py"
    module.write_text(code, encoding="utf-8")
    log = home.root / "logs" / "test.log"
    log.parent.mkdir(parents=True)
    with log.open("ab") as sink:
        service = subprocess.Popen([sys.executable, str(module)], stdin=subprocess.PIPE, stdout=sink, text=True)
    assert service.stdin is not None

    def write(line: str) -> None:
        assert service.stdin is not None
        before = log.stat().st_size
        service.stdin.write(f"{line}\n")
        service.stdin.flush()
        while log.stat().st_size == before:
            time.sleep(0.01)

    for number in range(5):
        write(f"{number}" * 100)
        processes.rotate_log(log, limit=90, kept=3)
    write("the end")
    service.stdin.close()
    service.wait()
    rotated = [log.with_name(f"test.log.{number}").read_text(encoding="utf-8").strip()[:1] for number in (1, 2, 3)]
    assert rotated == ["4", "3", "2"]
    assert log.read_text(encoding="utf-8") == "the end\n", "written at the start of the file that was cut"
    assert sorted(path.name for path in log.parent.iterdir()) == ["test.log", "test.log.1", "test.log.2", "test.log.3"]


def test_a_log_without_room_for_its_copy_stays_with_those_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "test.log"
    log.write_text("now", encoding="utf-8")
    for number in (1, 2, 3):
        log.with_name(f"test.log.{number}").write_text(str(number), encoding="utf-8")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfileobj", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space left"):
            processes.rotate_log(log, limit=1)
    kept = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert kept == {"test.log": "now", "test.log.1": "1", "test.log.2": "2", "test.log.3": "3"}


def test_a_log_without_room_for_its_copy_hinders_no_start(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(processes, "rotate_log", full)
    service = processes.start_service("test", ["timeit", "-h"], os.environ, home)
    assert service.process.wait() == 0
    assert "Tool for measuring" in service.log.read_text(encoding="utf-8")


def test_what_an_earlier_life_said_is_no_cause(tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "short_lived.py").write_text("print('just ended', flush=True)", encoding="utf-8")
    log = home.root / "logs" / "prefect.log"
    log.parent.mkdir(parents=True)
    log.with_name("prefect.log.1").write_text("database is locked\n", encoding="utf-8")
    log.write_text("No space left on device\n", encoding="utf-8")
    service = processes.start_service("prefect", ["short_lived"], {**os.environ, "PYTHONPATH": str(tmp_path)}, home)
    service.process.wait()
    assert service.cause(1) == ""
    assert service.log_tail().splitlines()[1:] == ["just ended"]
    text = log.read_text(encoding="utf-8")
    log.with_name("prefect.log.1").write_text(text + "database is locked\n", encoding="utf-8")
    log.write_text("", encoding="utf-8")
    assert "Another process holds" in service.cause(1), "rotated since"
    assert service.log_tail().splitlines()[1:] == ["just ended", "database is locked"]


def test_a_small_log_stays(tmp_path: Path) -> None:
    log = tmp_path / "test.log"
    processes.rotate_log(log)
    log.write_text("short\n", encoding="utf-8")
    processes.rotate_log(log, limit=100)
    assert [path.name for path in tmp_path.iterdir()] == ["test.log"]
