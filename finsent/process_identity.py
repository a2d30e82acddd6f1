"""Which process a record is of: host, id, start time, boot and container, so that its finder can tell whether it still runs."""

import os
import socket
import time
from functools import cache
from pathlib import Path
from typing import Final

PROCESS_LABEL: Final = "finsent.process"
"""Label of a Prefect flow run that holds `this_process()`; MLflow's runs have it as the tag `process`."""


def start_time(pid: int) -> float | None:
    """When a process started, in seconds since the machine did, so that a corrected clock changes nothing; None: it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return float(process.create_time() - psutil.boot_time())
    except (psutil.NoSuchProcess, psutil.AccessDenied, ValueError, OverflowError):
        return None


def is_running(pid: int, started: float) -> bool:
    """Whether the process that started then still runs: an id alone may belong to another one by now."""
    now = start_time(pid)
    return now is not None and abs(now - started) < 1


def seconds_since(started: float) -> float:
    """How long ago a process started, of which `start_time` is known."""
    import psutil

    return float(time.time() - psutil.boot_time() - started)


def this_process() -> str:
    """This process, as text for a record."""
    return " ".join((socket.gethostname(), str(os.getpid()), f"{start_time(os.getpid()) or 0.0:.2f}", _boot(), _namespace()))


def is_alive(identity: str) -> bool | None:
    """Whether the process of a record still runs.

    None: it cannot be told. The record is no record, or of another machine, boot or container: host names are given twice
    (cloned machines, containers), and ids and start times repeat at each boot.
    """
    try:
        host, pid, started, *where = identity.split(" ")
        if (host, where) != (socket.gethostname(), [_boot(), _namespace()]):
            return None
        return is_running(int(pid), float(started))
    except ValueError:
        return None


def is_of_another_boot(identity: str) -> bool:
    """Whether a record is of this host's name and another boot.

    Such a process has ended where the record is certain to be of this machine, which its name alone does not tell.
    """
    parts = identity.split(" ")
    return len(parts) == 5 and (parts[0], parts[4]) == (socket.gethostname(), _namespace()) and parts[3] != _boot()


@cache
def _boot() -> str:
    """Id of this machine's boot; a machine without /proc (macOS) has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "-"


@cache
def _namespace() -> str:
    """Within which the process id counts: each container has its own."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return "-"
