"""Servers that the tests of a file share."""

from collections.abc import Iterator

import pytest

from finsent.workspace import resolve_workspace
from tests.integration.prefect_servers import Server, serving


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Prefect server with a worker of the pool `cpu`."""
    with serving(resolve_workspace({"FINSENT_HOME": str(tmp_path_factory.mktemp("served"))}), "cpu") as started:
        yield started


@pytest.fixture(scope="module")
def prefect() -> Iterator[None]:
    """A Prefect API with a database of its own, for the tests of a file."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield
