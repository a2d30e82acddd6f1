"""Child processes of `finsent up`: started in groups of their own, watched, their logs rotated, stopped with all they started."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.cli.start_faults import explain
from finsent.errors import ServiceError
from finsent.files import make_folder
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import psutil

STARTUP_SECONDS: Final = 180
"""Both servers migrate their databases on the first start, which takes half a minute on a slow disk."""
LOG_BYTES: Final = 10 << 20
"""A log that is larger is rotated."""
LOGS_KEPT: Final = 3
"""Rotated logs of each service, NAME.log.1 the newest."""
SERVICE_VARIABLE: Final = "FINSENT_SERVICE"
"""Names, in the environment of a service and of all that it starts, which one that is."""


@dataclass(frozen=True)
class Service:
    """One child process, leader of its own group, so that whatever it starts can be stopped with it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    log_start: int = 0
    """The log's size at its start; before stands what earlier lives said."""

    def log_tail(self, lines: int = 12) -> str:
        """The end of what it has said since its start, and where that lies."""
        older, said = self.log.with_name(f"{self.log.name}.1"), b""
        rotated = self.log.is_file() and self.log.stat().st_size < self.log_start
        for file, start in ((older, self.log_start), (self.log, 0)) if rotated else ((self.log, self.log_start),):
            with suppress(FileNotFoundError), file.open("rb") as source:
                source.seek(start)
                said += source.read()
        end = said.decode(errors="replace").splitlines()[-lines:]
        return "\n".join([f"Its log, {self.log}, ends with:", *end])

    def require_alive(self) -> None:
        """Raise ServiceError, with the end of its log, if it has ended."""
        if (code := self.process.poll()) is not None:
            raise ServiceError(f"{self.name} ended by itself with code {code}. {self.cause(code)}{self.log_tail()}")

    def cause(self, code: int | None) -> str:
        """Why it did not start, where its log says so; with a space behind it."""
        found = explain(self.name, code, self.log_tail(60))
        return f"{found} " if found else ""


def start_service(
    name: str, command: Sequence[str], environment: Mapping[str, str], home: Workspace, sockets: Sequence[socket.socket] = ()
) -> Service:
    """Start one service; its output goes to `logs/NAME.log` in the home. Sockets are handed to it, each as `--fd NUMBER`."""
    numbers = [one.fileno() for one in sockets]
    log = home.root / "logs" / f"{name}.log"
    make_folder(log.parent)
    with suppress(OSError):  # no room for the copy is told by supervision, and no reason to stay down
        rotate_log(log)
    with log.open("ab") as sink:
        log_start = sink.tell()
        process = subprocess.Popen(  # not a context: it outlives this function
            [sys.executable, "-m", *command, *(part for number in numbers for part in ("--fd", str(number)))],
            pass_fds=numbers,
            env={**environment, SERVICE_VARIABLE: name},
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
            preexec_fn=_prepare_child,  # noqa: PLW1509 - no threads are running when services start
        )
    return Service(name, process, log, log_start)


def run_to_end(command: Sequence[str], env: Mapping[str, str], folder: Path, pause: Callable[[float], None]) -> tuple[int, str]:
    """Run a command in a folder; its exit code and what it said. It is killed where `pause` raises."""
    with subprocess.Popen(
        command,
        env=dict(env),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # Ctrl-C reaches us alone
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    said, _ = process.communicate(timeout=0.2)
                    return process.returncode, said
                pause(0)
        except BaseException:
            process.kill()
            raise


def rotate_log(log: Path, limit: int = LOG_BYTES, kept: int = LOGS_KEPT) -> None:
    """Move the content of a log beyond `limit` bytes to NAME.log.1, and that of older ones a number on.

    The service goes on writing to the same open file, at its end, so the file is copied and cut, not renamed.
    """
    if not log.is_file() or log.stat().st_size <= limit:
        return
    copied = log.with_name(f"{log.name}.new")
    try:
        with log.open("rb") as source, copied.open("wb") as target:
            shutil.copyfileobj(source, target)
            target.write(source.read())  # what was written meanwhile
    except OSError:
        copied.unlink(missing_ok=True)
        raise
    for number in range(kept, 1, -1):  # only now: a disk without room for the copy costs no older log
        older = log.with_name(f"{log.name}.{number - 1}")
        if older.is_file():
            older.replace(log.with_name(f"{log.name}.{number}"))
    copied.replace(log.with_name(f"{log.name}.1"))
    os.truncate(log, 0)


def wait_until(
    ready: Callable[[], bool],
    service: Service,
    seconds: float = STARTUP_SECONDS,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Wait for a service to answer; `pause` may raise to give up.

    Raises:
        ServiceError: it ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        service.require_alive()
        if time.monotonic() > deadline:
            raise ServiceError(f"{service.name} did not answer within {seconds:.0f} s. {service.cause(None)}{service.log_tail()}")
        pause(0.2)


def stop_services(services: Sequence[Service], grace: float = 15.0, insist: float = 5.0, *, follow: float = 0.0) -> None:
    """Stop services, all at once: SIGINT, SIGTERM, SIGKILL; then their remaining descendants, in any process group.

    Descendants have `follow` seconds to end by themselves, as flow runs do whose worker is gone.
    """
    import psutil

    running = [service.process for service in services if service.process.poll() is None]
    groups, started = [process.pid for process in running], set[psutil.Process]()
    # SIGINT first: a Prefect worker turns its first SIGTERM into one, and both servers end cleanly on it
    for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, insist), (signal.SIGKILL, insist)):
        for process in running:
            started |= _descendants(process.pid)
            _signal_group(process.pid, number)
            _signal_group(process.pid, signal.SIGCONT)  # it may be stopped
        deadline = time.monotonic() + seconds
        while (running := [process for process in running if process.poll() is None]) and time.monotonic() < deadline:
            time.sleep(0.05)
    psutil.wait_procs(started, timeout=follow)
    for group in groups:
        _signal_group(group, signal.SIGKILL)  # a leader that ended has left its group behind
    for process in started:
        with suppress(psutil.NoSuchProcess):  # compares the start time too, so a reused id is safe
            process.kill()
    psutil.wait_procs(started, timeout=insist)


def _descendants(pid: int) -> "set[psutil.Process]":
    import psutil

    try:
        return set(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return set()


def _signal_group(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # gone (macOS says so with EPERM)
        os.killpg(pid, number)


_LIBC = ctypes.CDLL(None)  # loaded here: a child between fork and exec loads nothing
_PR_SET_PDEATHSIG = 1


def _prepare_child() -> None:
    """Runs in the child. A shell starts background jobs with SIGINT ignored, which a child would inherit.

    Linux ends the child when `finsent up` is killed, which can stop nothing any more: a worker left alone would take flow runs
    from whatever server listens at the address next.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
