"""What is tried again, and what is not."""

from typing import Any

import httpx
import pytest
import requests
import urllib3
from mlflow.exceptions import INVALID_PARAMETER_VALUE, MlflowException
from prefect.cache_policies import NO_CACHE
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Failed

from finsent.errors import ArtifactError, BaseModelError, CheckFailed, ConfigError, InputError, NoChampionError, ServiceError
from flows.tasks import retrying_task, transient


def answered(status: int) -> httpx.HTTPStatusError:
    """What Prefect's client raises for a response."""
    request = httpx.Request("POST", "http://127.0.0.1:4200/api/artifacts/")
    return PrefectHTTPStatusError("it answered", request=request, response=httpx.Response(status, request=request))


def unreachable() -> RuntimeError:
    """As Prefect's client raises it where nobody listens."""
    error = RuntimeError("Failed to reach API at http://127.0.0.1:4200/api/")
    error.__cause__ = httpx.ConnectError("All connection attempts failed")
    return error


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (httpx.ConnectError("All connection attempts failed"), True),
        (httpx.ReadTimeout("timed out"), True),
        (httpx.RemoteProtocolError("server disconnected"), True),
        (answered(503), True),
        (answered(429), True),
        (answered(404), False),
        (unreachable(), True),
        (RuntimeError("a bug"), False),
        (requests.exceptions.ConnectionError("refused"), True),
        (requests.exceptions.ReadTimeout("timed out"), True),
        (urllib3.exceptions.MaxRetryError(None, "/", "refused"), True),
        (MlflowException("API request failed with error code 503 != 200"), True),
        (MlflowException("no such value", error_code=INVALID_PARAMETER_VALUE), False),
        (ServiceError("MLflow does not answer"), True),
        (BaseModelError("gated, or missing"), False),
        (ConnectionResetError("reset"), True),
        (TimeoutError("too slow"), True),
        (InputError("no such file"), False),
        (ConfigError("unknown key"), False),
        (NoChampionError("none yet"), False),
        (CheckFailed("the gate said no"), False),
        (ArtifactError("a digest differs"), False),
        (FileNotFoundError("gone"), False),
        (ZeroDivisionError("a bug"), False),
    ],
)
def test_servers_come_back_and_refusals_do_not_change(error: Exception, again: bool) -> None:
    nothing: Any = None
    assert transient(nothing, nothing, Failed(data=error)) is again


def test_tasks_keep_the_functions_name_and_are_never_cached() -> None:
    @retrying_task(retries=2, first_delay=5)
    def read_sources() -> int:
        """Read."""
        return 1

    assert read_sources.name == "read_sources"
    assert read_sources.cache_policy == NO_CACHE
    assert (read_sources.retries, read_sources.retry_delay_seconds) == (2, [5, 10])
    assert read_sources.persist_result is False
    assert read_sources.fn() == 1
