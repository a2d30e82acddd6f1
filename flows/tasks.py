"""What flows share: tasks that are retried where that can help, and the events that chain deployments.

Tasks are never cached, since each of them changes something outside Prefect. `prefect.yaml` holds the triggers that wait for the
events.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.events import emit_event
from prefect.states import Completed
from prefect.tasks import exponential_backoff

from finsent.errors import DeviceError, FinsentError, NoChampionError, ServiceError
from finsent.machine_faults import describe
from finsent.registry.champion import require_champion
from finsent.registry.mlflow_errors import translate
from finsent.steps.context import Context
from flows.fence import require_own_run

P = ParamSpec("P")
R = TypeVar("R")

PROMOTED = "finsent.model.promoted"
APPROVAL_REQUESTED = "finsent.approval.requested"
RETRAIN_REQUESTED = "finsent.retrain.requested"

_log = logging.getLogger("finsent.flows")


def transient(task_definition: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    """Whether a retry can help: servers and networks come back, wrong input and refusals do not change."""
    return _is_retryable(state.data)


def _is_retryable(error: object) -> bool:
    """By its property where it is finsent's; by its type where Prefect's client or a library raised it past finsent's edges."""
    import httpx

    if isinstance(error, FinsentError):
        return error.retryable
    if isinstance(error, httpx.HTTPStatusError):  # Prefect's own derives from it
        return error.response.status_code == httpx.codes.TOO_MANY_REQUESTS or error.response.is_server_error
    if isinstance(error, ConnectionError | TimeoutError | httpx.TransportError):
        return True
    if isinstance(error, RuntimeError) and error.__cause__:  # Prefect: "Failed to reach API at ..."
        return _is_retryable(error.__cause__)
    found = translate(error, "") if isinstance(error, Exception) else None
    return found is not None and found.retryable


def retrying_task(
    run_name: str | None = None, *, retries: int = 3, first_delay: float = 5.0
) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task, retried `retries` times after `first_delay`, twice, four times ... as many seconds if the error is transient.

    It starts only while its flow run is this process's own. What the machine refused, its state says in words.
    `run_name` is the name of its runs in the UI, a template over the parameters such as `fit data-v{job.data.version}`.
    """

    def decorate(given: Callable[P, R]) -> Task[P, R]:
        @wraps(given)
        def function(*args: P.args, **kwargs: P.kwargs) -> R:
            require_own_run()
            with machine_faults_told():
                return given(*args, **kwargs)

        make: Callable[[Callable[P, R]], Task[P, R]] = task(
            task_run_name=run_name,
            retries=retries,
            retry_delay_seconds=exponential_backoff(first_delay),
            retry_jitter_factor=0.5,
            retry_condition_fn=transient,
            cache_policy=NO_CACHE,
            persist_result=False,
            log_prints=False,
        )
        return make(function)

    return decorate


@contextmanager
def machine_faults_told() -> Iterator[None]:
    """Raise a full disk, a missing permission or a server that is away as what it is, for whoever reads the run's state."""
    try:
        yield
    except FinsentError:
        raise
    except Exception as error:
        if (told := describe(error)) is None:
            raise
        raise (ServiceError if _is_retryable(error) else DeviceError)(told) from error


def show(report: Task[P, Any], *args: P.args, **kwargs: P.kwargs) -> None:
    """Run a task that only shows a result in the UI. Its failure is a warning: the work behind it is done and announced."""
    try:
        _shown: Any = report(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - whatever went wrong in showing it, the result stands
        _log.warning("%s: the result stands, but showing it in the Prefect UI failed: %s", report.name, error)


@retrying_task("look for a champion")
def missing_champion(context: Context) -> str | None:
    """Why there is nobody yet who could score; None once there is a champion. One that was lost is an error of its own."""
    try:
        require_champion(context.registry)
    except NoChampionError as error:
        return str(error)
    return None


def skipped(reason: str, data: R | None = None) -> State[R]:
    """A completed state: there was nothing to do, and why. Failed is for what is broken."""
    return Completed(name="Skipped", message=reason, data=data)


def emit_promoted(model: str, version: str, before: str | None) -> None:
    """Say that `version` now carries the alias champion: scoring starts."""
    _emit(PROMOTED, model, {"version": version, "champion_before": before})


def emit_approval_requested(model: str, version: str, champion: str | None, reasons: list[str]) -> None:
    """Say that `version` passed the gate and waits for a person: the approve deployment asks."""
    _emit(APPROVAL_REQUESTED, model, {"model": model, "version": version, "champion": champion, "reasons": reasons})


def emit_retrain_requested(model: str, reasons: list[str]) -> None:
    """Say that monitoring calls for a new training: the retrain deployment starts."""
    _emit(RETRAIN_REQUESTED, model, {"reasons": reasons})


def _emit(event: str, model: str, payload: dict[str, Any]) -> None:
    resource = {"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model}
    emit_event(event, resource=resource, payload=payload)
