"""The processes of `finsent up`: MLflow, the Prefect server and its workers, started together and stopped together."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.errors import InputError, ServiceError
from finsent.home import Home

if TYPE_CHECKING:
    import psutil

STARTUP_SECONDS = 180
"""Both servers migrate their databases on the first start, which takes half a minute on a slow disk."""


@dataclass(frozen=True)
class Service:
    """One child process, leader of its own group, so that whatever it starts can be stopped with it."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self, lines: int = 12) -> str:
        """The end of its log, and where that lies."""
        end = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
        return "\n".join([f"Its log, {self.log}, ends with:", *end])


def require_free_ports(host: str, ports: Mapping[str, int]) -> None:
    """Refuse before anything starts when a port is taken or named twice.

    Raises:
        InputError: naming the port, who wants it and the option that changes it.
    """
    if len(set(ports.values())) < len(ports):
        raise InputError(f"the servers need different ports, and both were given {next(iter(ports.values()))}.")
    for name, port in ports.items():
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise InputError(
                    f"port {port} on {host!r}, wanted for {name}, cannot be used: {error.strerror}. Stop what holds it, "
                    f"or give another with --{name}-port. Nothing was started."
                ) from error


def start(name: str, command: Sequence[str], environment: Mapping[str, str], home: Home) -> Service:
    """Start one service; its output goes to `logs/NAME.log` in the home."""
    log = home.root / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as sink:
        process = subprocess.Popen(  # not a context: it outlives this function
            [sys.executable, "-m", *command],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches us alone, and we stop them in order
            preexec_fn=_default_interrupt,  # noqa: PLW1509 - no threads are running when services start
        )
    return Service(name, process, log)


def wait_until(ready: Callable[[], bool], service: Service, seconds: float = STARTUP_SECONDS) -> None:
    """Wait for a service to answer.

    Raises:
        ServiceError: it ended, or did not answer in time; with the end of its log.
    """
    deadline = time.monotonic() + seconds
    while not ready():
        if service.process.poll() is not None:
            raise ServiceError(f"{service.name} ended with code {service.process.returncode}. {service.last_words()}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{service.name} did not answer within {seconds:.0f} s. {service.last_words()}")
        time.sleep(0.3)


def stop(services: Sequence[Service], grace: float = 15.0, insist: float = 5.0) -> None:
    """Stop services, last started first: ask, insist, kill; then whatever they started and left, in any process group."""
    import psutil

    for service in reversed(services):
        started = _descendants(service.process.pid)
        # SIGINT first: a Prefect worker turns its first SIGTERM into one, and both servers end cleanly on it
        for number, seconds in ((signal.SIGINT, grace), (signal.SIGTERM, insist), (signal.SIGKILL, insist)):
            if service.process.poll() is not None:
                break
            started |= _descendants(service.process.pid)
            _signal_group(service.process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                service.process.wait(seconds)
        _signal_group(service.process.pid, signal.SIGKILL)  # a leader that died by itself has left its group behind
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


def _default_interrupt() -> None:
    """Runs in the child: a shell starts background jobs with SIGINT ignored, and a child would inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
