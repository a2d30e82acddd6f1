"""The GPU's one place for training: `train`, `tune` and `retrain` wait for each other, scoring and evaluation do not.

Two things keep it. A lock in the home, which ends with its process alone (`finsent.training.exclusive`); and a limit of the
Prefect server, which every worker and command that knows the server asks, so that it counts for all machines. The limit is held
by a lease: a process that is killed, or frozen, gives its place back when the lease ends.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from finsent.errors import CheckFailed
from finsent.training.exclusive import hold_training
from finsent.workspace import Workspace
from flows.fence import require_own_run, started_by_itself

TRAINING_LIMIT: Final = "finsent-training"
"""Created with one place by `finsent.cli.provision`, which never changes it: raise it for more machines with a GPU."""
_LEASE: Final = 120.0  # seconds, renewed by a thread while the training runs
_LONGEST_WAIT: Final = 12 * 3600.0  # a search of a night is waited for; what never ends must not hold up all later runs

_log = logging.getLogger("finsent.flows")


@contextmanager
def training_place(home: Workspace, purpose: str, *, wait: float | None = None) -> Iterator[None]:
    """Wait for the place and hold it: first the home's lock, then the server's limit, in this order everywhere.

    What a person started waits for as long as it takes; what a schedule or an automation started, for twelve hours. `wait` says
    otherwise, for the home's lock.

    Raises:
        TrainingBusy: another training of this home took longer than that.
    """
    if wait is None:
        wait = _LONGEST_WAIT if started_by_itself() else -1.0
    with hold_training(home, purpose, wait=wait, while_waiting=require_own_run), _limit_of_server():
        yield


@contextmanager
def _limit_of_server() -> Iterator[None]:
    """Hold the limit. On a server that does not have it, such as a temporary one, nothing is held."""
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(TRAINING_LIMIT)
        except ObjectNotFound:
            limit = None
    if limit is None:
        yield
        return
    if limit.active_slots >= limit.limit:
        _log.warning("another training holds the GPU (limit %r of the Prefect server): waiting for it", TRAINING_LIMIT)
    # a server that is away for a while must not end a training of hours
    place = concurrency(TRAINING_LIMIT, lease_duration=_LEASE, strict=True, raise_on_lease_renewal_failure=False)
    place.__enter__()
    try:
        yield
    finally:
        try:
            place.__exit__(None, None, None)
        except Exception as error:  # noqa: BLE001 - the work is done; the lease ends by itself
            _log.warning("the GPU's place for training was not given back (%s): it is free in %.0f s", error, _LEASE)


def require_free_place() -> None:
    """Refuse what cannot wait for the place, such as one of several processes that a launcher has started.

    Raises:
        CheckFailed: another training holds it.
    """
    with get_client(sync_client=True) as client:
        try:
            limit = client.read_global_concurrency_limit_by_name(TRAINING_LIMIT)
        except ObjectNotFound:
            return
    if limit.active_slots >= limit.limit:
        raise CheckFailed(
            f"another training holds the GPU (limit {TRAINING_LIMIT!r} of the Prefect server), and a launch of several processes "
            f"cannot wait for it. Start it again when that has ended; of one that was killed the place is free in {_LEASE:.0f} s."
        )
