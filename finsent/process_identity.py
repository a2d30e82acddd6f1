"""Which process a record is of: host, id and start time, so that whoever finds it can tell whether that process still runs."""

import os
import socket
import time
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
    return f"{socket.gethostname()} {os.getpid()} {start_time(os.getpid()) or 0.0:.2f}"


def is_alive(identity: str) -> bool | None:
    """Whether the process of a record still runs; None: it cannot be told, since it is another machine's, or no record."""
    host, _, rest = identity.partition(" ")
    pid, _, started = rest.partition(" ")
    if host != socket.gethostname():
        return None
    try:
        return is_running(int(pid), float(started))
    except ValueError:
        return None
