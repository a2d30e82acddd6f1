"""What `finsent up` asks of its servers and workers while they start and run."""

import time
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

from finsent.cli.lost_runs import end_lost_runs
from finsent.cli.ownership import SERVERS
from finsent.cli.processes import Service
from finsent.cli.services_file import RunningServices, give_token, is_healthy
from finsent.cli.supervisor import Supervised
from finsent.errors import ServiceError

T = TypeVar("T")

_BUSY_SECONDS: Final = 60.0


def ask_until_answered(ask: Callable[[], T], servers: Sequence[Service], pause: Callable[[float], None]) -> T:
    """Ask servers that have just started: while they catch up on SQLite one answers 503 (database is locked) now and then.

    Raises:
        ServiceError: one has ended, or goes on like that for a minute.
    """
    until = time.monotonic() + _BUSY_SECONDS
    while True:
        for service in servers:
            service.require_alive()
        try:
            return ask()
        except ServiceError:
            if time.monotonic() >= until:
                raise
        pause(2.0)


def has_token(running: RunningServices) -> bool:
    """Have the servers serve the token again; whether both do."""
    try:
        give_token(running)
    except ServiceError:
        return False
    return True


def lost_runs(running: RunningServices, services: "Sequence[Supervised]") -> list[str]:
    """End the runs that nothing works on any more, where the servers answer; a sentence for each."""
    if any(one.retry_at is not None or one.unanswered or not one.answered for one in services if one.name in SERVERS):
        return []
    try:
        return end_lost_runs(running)
    except ServiceError:
        return []  # a server that ended just now is started again, and then they are looked for


def answers_at(url: str) -> Callable[[Service], bool]:
    """Whether a server answers, as supervision asks it: five seconds are slow, even for a busy one."""
    return lambda _service: is_healthy(url, timeout=5.0, direct=True)


def is_not_stopped(service: Service) -> bool:
    """Whether a worker is anything but stopped by a signal."""
    import psutil

    try:
        return bool(psutil.Process(service.process.pid).status() != psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return True  # it has ended, which is noticed by its exit code
