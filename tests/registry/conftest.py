"""Versions in a real registry."""

from collections.abc import Callable
from pathlib import Path

import pytest

from finsent.config import Config
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.workspace import Workspace


@pytest.fixture
def new_version(mlflow_home: Workspace, tiny_config: Config, make_adapter: Callable[[int], Path]) -> Callable[..., str]:
    """`new_version(seed)`: register an adapter as a run of its own; returns the version."""

    def register(seed: int = 0) -> str:
        with tracking.start_run(tiny_config, mlflow_home, kind="train") as run_id:
            return Registry(mlflow_home, "finsent").register(make_adapter(seed), run_id=run_id, profile=tiny_config.profile)

    return register


@pytest.fixture
def bare_version(mlflow_home: Workspace) -> Callable[[], str]:
    """`bare_version()`: a version without an artifact, for what looks at names alone."""
    client = tracking.connect(mlflow_home)
    client.create_registered_model("finsent")

    def create() -> str:
        return str(client.create_model_version("finsent", source="file:///nowhere", tags={"stage": "None"}).version)

    return create
