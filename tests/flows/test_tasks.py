"""What is tried again, and what is not."""

from typing import Any

import pytest
from prefect.cache_policies import NO_CACHE
from prefect.states import Failed

from finsent.errors import ArtifactError, BaseModelError, CheckFailed, ConfigError, InputError, NoChampionError, ServiceError
from flows.tasks import retrying_task, transient


@pytest.mark.parametrize(
    ("error", "again"),
    [
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
