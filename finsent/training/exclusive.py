"""One training at a time in a home: a lock that whoever trains holds from the first step to the registered version.

The limit of the Prefect server (flows/gpu.py) keeps machines apart, and is held by a lease: a process that is frozen for longer
than that would wake beside its successor. This lock ends with its process alone, frozen or not (docs/adr/0022).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final

from finsent.errors import CheckFailed
from finsent.files import locked
from finsent.workspace import Workspace

_held: Final[ContextVar[frozenset[Path]]] = ContextVar("held", default=frozenset())


class TrainingBusy(CheckFailed):
    """Another training was at work for as long as this one may wait."""


@contextmanager
def hold_training(
    home: Workspace, purpose: str, *, wait: float = -1.0, while_waiting: Callable[[], None] | None = None
) -> Iterator[None]:
    """Wait for the home's other training, and hold its lock; inside a call that holds it already, nothing is done.

    Args:
        home: The home.
        purpose: What is trained, for whoever waits.
        wait: Seconds to wait; -1 waits for as long as it takes.
        while_waiting: Called every few seconds of it; what it raises ends the waiting.

    Raises:
        TrainingBusy: the other training outlasted `wait`; names its process, run and time.
    """
    path = home.lock("training")
    if path in _held.get():
        yield
        return
    message = "another training is at work in this home."
    with locked(path, wait, message, TrainingBusy, purpose=purpose, while_waiting=while_waiting):
        token = _held.set(_held.get() | {path})
        try:
            yield
        finally:
            _held.reset(token)
