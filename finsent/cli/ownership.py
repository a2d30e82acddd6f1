"""One `finsent up` per home: the lock that it holds, and the end of what one that was killed has left running."""

import fcntl
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.cli.processes import SERVICE_VARIABLE
from finsent.cli.services_file import RunningServices, read_services, services_path
from finsent.errors import InputError, ServiceError
from finsent.files import make_folder
from finsent.process_identity import is_running
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import psutil

SERVERS: Final = ("mlflow", "prefect")
GRACE_SECONDS: Final = 20.0
"""For what a killed `finsent up` left: a training records its end, a server answers its last requests."""


def hold_home(home: Workspace) -> int:
    """Take the home's lock, which is free again when this process has ended, however that happens, or closes what is returned.

    Raises:
        InputError: another `finsent up` holds it; the message says which.
    """
    path = home.lock("up")
    make_folder(path.parent)
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        holder = path.read_text(encoding="utf-8").strip() or "a process that has just started"
        raise InputError(
            f"finsent is already up in {str(home.root)!r}: {holder}. Stop it with Ctrl-C there, or use another --home."
        ) from error
    os.ftruncate(lock, 0)
    os.write(lock, f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n".encode())
    return lock


def belongs(environ: Mapping[str, str], root: Path, service: str | None = None) -> bool:
    """Whether a process with this environment is a service of the home's `finsent up` (`service`, or any), or was started by one.

    FINSENT_HOME alone proves nothing: users set it for their own commands and workers.
    """
    of = environ.get(SERVICE_VARIABLE)
    return environ.get("FINSENT_HOME") == str(root) and of is not None and service in {None, of}


def find_processes(root: Path, service: str | None = None) -> "list[psutil.Process]":
    """The processes of this user that `belongs` knows, without this one and what has ended."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            if process.pid != os.getpid() and belongs(process.environ(), root, service):
                found.append(process)
    return found


def end_leftovers(
    home: Workspace, tell: Callable[[str], None], pause: Callable[[float], None] = time.sleep, grace: float = GRACE_SECONDS
) -> None:
    """End what a killed `finsent up` left, workers and flow runs before the servers, and remove its `services.json`.

    Call it with the home's lock held.

    Raises:
        InputError: a `finsent up` of an earlier release, which held no lock, is at work.
        ServiceError: something cannot be ended.
    """
    import psutil

    recorded = _recorded(read_services(home.root), home.root)
    servers = {process.pid for name, process in recorded.items() if name in SERVERS}
    for process in (marked := find_processes(home.root)):
        with suppress(psutil.Error):
            servers |= {process.pid} if process.environ()[SERVICE_VARIABLE] in SERVERS else set()
    left = {process.pid: process for process in (*recorded.values(), *marked)}
    if left:
        tell(f"ending what a killed `finsent up` left: {', '.join(f'process {pid}' for pid in sorted(left))}")
        end_processes([process for pid, process in left.items() if pid not in servers], grace=grace, pause=pause)
        end_processes([process for pid, process in left.items() if pid in servers], grace=grace / 4, pause=pause)
    services_path(home.root).unlink(missing_ok=True)


def _recorded(running: RunningServices | None, root: Path) -> "dict[str, psutil.Process]":
    """Services of `services.json` that still run; none of a file that came with a copied home."""
    import psutil

    if running is None or running.home != str(root):
        return {}
    found = {name: pid for name, (pid, started) in running.processes.items() if is_running(pid, started)}
    processes = {}
    for name, pid in found.items():
        with suppress(psutil.Error, OSError):  # ended meanwhile, or another user's
            process = psutil.Process(pid)
            if process.ppid() == running.pid and running.pid != os.getpid():
                raise InputError(
                    f"finsent is already up in {str(root)!r}: process {running.pid}, {running.mlflow} and {running.prefect}. "
                    "Stop it with Ctrl-C there, or use another --home."
                )
            if belongs(process.environ(), root):  # ids and start times repeat at each boot
                processes[name] = process
    return processes


def end_processes(
    processes: "Iterable[psutil.Process]",
    *,
    grace: float = GRACE_SECONDS,
    insist: float = 5.0,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Terminate processes, frozen ones too, and kill those that are still there after `grace` seconds.

    Raises:
        ServiceError: one is still there `insist` seconds after that.
    """
    import psutil

    alive = [process for process in processes if is_alive(process)]
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, insist)):
        for process in alive:
            with suppress(psutil.NoSuchProcess):  # compares the start time too, so a reused id is safe
                process.send_signal(number)
                process.send_signal(signal.SIGCONT)
        deadline = time.monotonic() + seconds
        while (alive := [process for process in alive if is_alive(process)]) and time.monotonic() < deadline:
            pause(0.1)
    if alive:
        raise ServiceError(
            f"{', '.join(f'process {process.pid}' for process in alive)} cannot be ended, not even by SIGKILL: it waits for a "
            "device or a network share. Look at the system's log."
        )


def is_alive(process: "psutil.Process") -> bool:
    """Whether the process has not ended. One of which only the exit code is left, for a parent that does not ask, has."""
    import psutil

    try:
        if process.ppid() == os.getpid():  # nobody else asks for its exit code
            process.wait(0)
        # the main thread is gone before the others, which hold ports and files until they are
        ended = process.status() == psutil.STATUS_ZOMBIE and process.num_threads() <= 1
        return bool(process.is_running() and not ended)
    except psutil.TimeoutExpired:
        return True
    except psutil.NoSuchProcess:
        return False
