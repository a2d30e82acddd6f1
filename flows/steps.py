"""How tasks behave: retried when a retry can help, never cached, since every step changes something outside Prefect."""

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import exponential_backoff

from finsent.errors import BaseModelError, FinsentError, ServiceError

P = ParamSpec("P")
R = TypeVar("R")


def transient(task_definition: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - Prefect's signature
    """Whether trying again can help: servers and networks come back, wrong input and refusals do not."""
    error = state.data
    if isinstance(error, FinsentError):
        return isinstance(error, ServiceError | BaseModelError)
    return isinstance(error, ConnectionError | TimeoutError)


def step(*, retries: int = 3, first_delay: float = 5.0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """Make a task: `retries` times after `first_delay`, twice that, four times that ... seconds, when the error is transient."""

    def decorate(function: Callable[P, R]) -> Task[P, R]:
        make: Callable[[Callable[P, R]], Task[P, R]] = task(
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
