"""What `finsent up` asks of its servers and workers while they start and run."""

import time
from collections.abc import Callable, MutableMapping, Sequence
from functools import partial
from typing import Final, TypeVar

from finsent.cli.limits import Orphaned
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
    # a connection to one that is still starting waits until it accepts
    if not all(is_healthy(url, direct=True) for url in (running.mlflow, running.prefect_api)):
        return False
    try:
        give_token(running)
    except ServiceError:
        return False
    return True


def servers_answer(services: Sequence[Supervised]) -> bool:
    """Whether the servers did at the last probe, and live. Others are not asked: connections to them wait, and so would this."""
    return all(
        one.retry_at is None and one.answered and not one.unanswered and one.service.process.poll() is None
        for one in services
        if one.name in SERVERS
    )


def lost_runs_at_start(running: RunningServices, servers: Sequence[Service], pause: Callable[[float], None]) -> list[str]:
    """End what an earlier life left, before any worker runs. Where that cannot be done, it is said, and the start goes on.

    Raises:
        ServiceError: a server has ended.
    """
    try:
        return ask_until_answered(partial(end_lost_runs, running, workers_stopped=True), servers, pause)
    except ServiceError as error:
        for server in servers:
            server.require_alive()
        return [f"{error}. They are looked for every minute; until then they may hold their places."]


def lost_runs(
    running: RunningServices, services: Sequence[Supervised], failed: list[str], orphaned: MutableMapping[str, Orphaned]
) -> list[str]:
    """End the runs that nothing works on any more, where the servers answer; a sentence for each.

    `failed` keeps the errors since it last worked: of a server that ended just now it is no news, the second in a row is told.
    `orphaned` keeps which slots had no lease, as long as the server answers: one that starts gives back slots, too.
    """
    if not servers_answer(services):
        orphaned.clear()
        return []
    try:
        ended = end_lost_runs(running, orphaned=orphaned)
    except ServiceError as error:
        failed.append(str(error))
        return [f"{error}. They are looked for again every minute."] if len(failed) == 2 else []
    failed.clear()
    return ended


def answers_at(url: str) -> Callable[[Supervised], bool]:
    """Whether a server answers, as supervision asks it: five seconds are slow, even for a busy one. One that starts lets wait."""
    return lambda one: is_healthy(url, timeout=5.0 if one.answered else 2.0, direct=True)


def is_not_stopped(service: Service) -> bool:
    """Whether a worker is anything but stopped by a signal."""
    import psutil

    try:
        return bool(psutil.Process(service.process.pid).status() != psutil.STATUS_STOPPED)
    except psutil.NoSuchProcess:
        return True  # it has ended, which is noticed by its exit code
