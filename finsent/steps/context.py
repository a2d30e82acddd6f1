"""`Context`: the configuration, the workspace and the registry client that every step takes as its first argument."""

from dataclasses import dataclass

from finsent.config import Config
from finsent.home import Home
from finsent.registry.client import Registry


@dataclass(frozen=True)
class Context:
    """What a step runs with. The registry's client is made at first use, once per context."""

    config: Config
    workspace: Home
    registry: Registry


def make_context(config: Config, workspace: Home) -> Context:
    """Context of a configuration; its registry is the configured `registered_model`. Contacts no server."""
    return Context(config, workspace, Registry(workspace, config.registered_model, config.experiment))
