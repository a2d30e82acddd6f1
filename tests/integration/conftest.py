"""Servers that the tests of a file share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from finsent.workspace import resolve_workspace
from tests.integration.prefect_servers import ROOT, Server, serving


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


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder of a copy of `prefect.yaml` and `automations.yaml`."""
    for name in ("prefect.yaml", "automations.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    return tmp_path
