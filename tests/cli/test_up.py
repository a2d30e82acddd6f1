"""Child processes: started in groups of their own, watched, stopped with all they started."""

import os
import signal
import socket
import time
from pathlib import Path

import psutil
import pytest

from finsent.cli import up
from finsent.errors import InputError, ServiceError
from finsent.logging_setup import QUIETED
from finsent.workspace import Workspace

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


def launch(code: str, folder: Path, home: Workspace) -> up.Service:
    module = folder / "service_under_test.py"
    module.write_text(code, encoding="utf-8")
    service = up.start_service("test", ["service_under_test"], {**os.environ, "PYTHONPATH": str(folder)}, home)
    up.wait_until(lambda: "ready" in service.log_tail(), service, seconds=20)
    return service


@pytest.mark.parametrize("code", [STUBBORN, DETACHED])
def test_stop_leaves_no_process_behind(code: str, tmp_path: Path, home: Workspace) -> None:
    service = launch(code, tmp_path, home)
    child = int(service.log.read_text(encoding="utf-8").split()[1])
    up.stop_services([service], grace=0.5, insist=0.5)
    assert service.process.poll() is not None
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_children_take_ctrl_c_even_when_their_parent_ignores_it(tmp_path: Path, home: Workspace) -> None:
    """A shell starts background jobs with SIGINT ignored, which children would inherit."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        service = launch("import time\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path, home)
        began = time.monotonic()
        up.stop_services([service], grace=10)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 8
    assert service.process.returncode == -signal.SIGINT


def test_a_service_that_ends_early_is_quoted(tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "short_lived.py").write_text("raise SystemExit('no database')", encoding="utf-8")
    service = up.start_service("test", ["short_lived"], {**os.environ, "PYTHONPATH": str(tmp_path)}, home)
    with pytest.raises(ServiceError, match=r"test ended with code 1\..*test\.log, ends with:\nno database"):
        up.wait_until(lambda: False, service, seconds=20)


def test_a_service_that_never_answers_is_given_up(tmp_path: Path, home: Workspace) -> None:
    service = launch("import time\nprint('ready', flush=True)\ntime.sleep(60)", tmp_path, home)
    with pytest.raises(ServiceError, match="did not answer within 1 s"):
        up.wait_until(lambda: False, service, seconds=1)
    up.stop_services([service])


def test_taken_ports_are_refused_by_name() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(InputError, match=rf"port {port} on '127\.0\.0\.1', wanted for mlflow.*--mlflow-port"):
            up.require_free_ports("127.0.0.1", {"mlflow": port})


def test_one_port_cannot_serve_both() -> None:
    with pytest.raises(InputError, match="need different ports, and both were given 5000"):
        up.require_free_ports("127.0.0.1", {"mlflow": 5000, "prefect": 5000})


def test_free_ports_stay_free() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    up.require_free_ports("127.0.0.1", {"mlflow": port})
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))
        assert again.getsockname()[1] == port, "the look has left it free"


def test_servers_and_workers_log_what_the_console_of_the_command_hushes(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("PREFECT_LOGGING_LEVEL", "DEBUG"), ("TORCH_LOGS", "-all"), (QUIETED, "TORCH_LOGS")):
        monkeypatch.setenv(name, value)
    environment = up.environment(home, up.UpOptions("127.0.0.1", 1, 2, Path()), "nano", None)
    assert not {"TORCH_LOGS", QUIETED} & set(environment)
    assert environment["PREFECT_LOGGING_LEVEL"] == "DEBUG"
