"""A flow run acts only while the Prefect server counts it as this process's own.

A process that is frozen (SIGSTOP, a laptop's sleep, a paused machine) sends no heartbeats, and `automations.yaml` marks its run
Crashed while it lives. When it thaws, others have acted on that: the run was started again, its places were given away. So
each task asks at its start, and a training at its steps and before it registers, whether every run that it is part of is still
running, in the attempt that it began with. Where not, the work ends as by Ctrl-C, checkpoints kept (docs/adr/0022).
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, NoReturn
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from finsent.errors import RunEnded, one_line

SECOND_TRY: Final = "again-"
"""Beginning of the idempotency key of a run that was started since another failed."""
_EVERY: Final = 10.0  # seconds between two questions; a step of a training may take less than one
_AFTER_FAILURE: Final = 60.0  # the same where the server did not answer
_PATIENCE: Final = 5.0  # seconds for an answer; a server that hangs must not hold a training up
_OWN: Final = frozenset({StateType.RUNNING, StateType.CANCELLING})

_log = logging.getLogger("finsent.flows")


def _clock() -> float:
    """Seconds that go on while the machine sleeps, where it has such a clock; `time.monotonic` stands still then."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass
class _Fence:
    runs: Sequence[tuple[str, int | None]]
    """Runs that the work is part of, the outermost first, with the attempt that each began with (None: not known)."""
    due: float = field(default_factory=lambda: _clock() + _EVERY)
    """When the server is asked next."""


_fence: ContextVar[_Fence | None] = ContextVar("fence", default=None)


@contextmanager
def owning() -> Iterator[None]:
    """Watch over the current flow run, and those around it; a process that a worker started ends here when it is not its own."""
    if not flow_run.id:  # called as a plain function
        yield
        return
    outer, run_id = _fence.get(), flow_run.id
    attempt: int | None = None
    try:
        with get_client(sync_client=True) as client:
            attempt = client.read_flow_run(UUID(run_id)).run_count
    except Exception as error:  # noqa: BLE001 - it is asked again later
        _log.warning("the Prefect server does not say which attempt of its run this is (%s)", one_line(error))
    token = _fence.set(_Fence([*(outer.runs if outer else ()), (run_id, attempt)]))
    try:
        yield
    except RunEnded:
        if os.environ.get("PREFECT__FLOW_RUN_ID"):
            _leave()
        raise
    finally:
        _fence.reset(token)


def require_own_run(*, at_once: bool = False) -> None:
    """Ask the server, every `_EVERY` seconds at most, or now; while it does not answer, the work goes on.

    Raises:
        RunEnded: a run that this work is part of was ended, deleted or started again.
    """
    fence = _fence.get()
    if fence is None or (not at_once and _clock() < fence.due):
        return
    try:
        with (
            temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}),
            get_client(sync_client=True, httpx_settings={"timeout": _PATIENCE}) as client,
        ):
            found = [(_read(client, run_id), attempt) for run_id, attempt in fence.runs]
    except Exception as error:  # noqa: BLE001 - a server that is away must not end a training of hours
        _log.warning("the Prefect server does not say whether this run goes on (%s)", one_line(error))
        fence.due = _clock() + _AFTER_FAILURE
        return
    fence.due = _clock() + _EVERY
    for run, attempt in found:
        if problem := _problem(run, attempt):
            raise RunEnded(_said(problem))


def _read(client: SyncPrefectClient, run_id: str) -> FlowRun | None:
    try:
        return client.read_flow_run(UUID(run_id))
    except ObjectNotFound:
        return None


def _problem(run: FlowRun | None, attempt: int | None) -> str | None:
    if run is None or run.state is None:
        return "its flow run was deleted"
    if run.state.type not in _OWN:
        said = f" ({run.state.message})" if run.state.message else ""
        return f"the flow run {run.name!r} is {run.state.name}{said}"
    if attempt not in {None, run.run_count}:
        return f"the flow run {run.name!r} was started again, as attempt {run.run_count}, and this is attempt {attempt}"
    return None


def _said(problem: str) -> str:
    text = f"{problem}: this process, {os.getpid()}, ends what it does. What was committed and its last checkpoint stay."
    _log.error("%s", text)
    return text


def started_by_itself() -> bool:
    """Whether a schedule, an automation or `flows/second_try.py` started the outermost run, not a person."""
    fence = _fence.get()
    if fence is None:
        return False
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(fence.runs[0][0]))
    if (run.idempotency_key or "").startswith(SECOND_TRY):
        return True
    return run.auto_scheduled or (run.created_by is not None and run.created_by.type in {"SCHEDULE", "AUTOMATION"})


def _leave() -> NoReturn:
    """End the process without a word to the server: Prefect's engine would set a state on a run that is another's now."""
    logging.shutdown()
    os._exit(0)
