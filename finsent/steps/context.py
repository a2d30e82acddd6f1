"""`Context`: the configuration, the workspace and the registry client that every step takes as its first argument."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from finsent.config import Config
from finsent.registry.client import Registry
from finsent.registry.tracking import RunTag
from finsent.workspace import Workspace


@dataclass(frozen=True)
class Context:
    """What a step runs with. The registry's client is made at first use, once per context."""

    config: Config
    workspace: Workspace
    registry: Registry
    run_tags: Mapping[RunTag, str] = field(default_factory=dict)
    """Tags of every MLflow run that a step opens, such as the Prefect flow run that it belongs to."""
    require_own_run: Callable[..., None] = lambda **_: None
    """Asks every few seconds at most, or with `at_once=True` now.

    Raises `RunEnded` where this work is not to go on: its flow run was ended, or is another process's now (flows/fence.py).
    """


def make_context(config: Config, workspace: Workspace) -> Context:
    """Context of a configuration; its registry is the configured `registered_model`. Contacts no server."""
    return Context(config, workspace, Registry(workspace, config.registered_model, config.experiment))
