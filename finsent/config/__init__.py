"""Configuration: a shipped profile (`profiles/*.yaml`), a user's YAML file on top, then `key=value` overrides.

Frozen, unknown keys refused, every field documented. Imports neither torch, Prefect nor MLflow.
"""

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from finsent.config.loader import anchor_paths, explain, merge, parse_overrides, read_file, read_yaml
from finsent.config.model_schema import (
    EmbeddedBase,
    EngineConfig,
    LoraConfig,
    ModelConfig,
    Quantization,
    RayConfig,
    Recipe,
    Section,
)
from finsent.config.schema import (
    Config,
    DataConfig,
    EvaluationConfig,
    GateConfig,
    InboxSource,
    MonitorConfig,
    ScoringConfig,
    Source,
)
from finsent.environ import absolute_path
from finsent.errors import ConfigError

DEFAULT_PROFILE = "nano"
_PROFILES = files("finsent.config") / "profiles"

__all__ = [
    "DEFAULT_PROFILE",
    "Config",
    "DataConfig",
    "EmbeddedBase",
    "EngineConfig",
    "EvaluationConfig",
    "GateConfig",
    "InboxSource",
    "LoraConfig",
    "ModelConfig",
    "MonitorConfig",
    "Quantization",
    "RayConfig",
    "Recipe",
    "ScoringConfig",
    "Section",
    "Source",
    "load_config",
    "profiles",
]


def profiles() -> tuple[str, ...]:
    """Names of the shipped profiles."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _PROFILES.iterdir() if file.name.endswith(".yaml")))


def load_config(
    profile: str = DEFAULT_PROFILE, path: Path | None = None, overrides: Iterable[str] = (), folder: Path | None = Path()
) -> Config:
    """A profile, a YAML file on top, `section.key=value` overrides on top of that.

    A file may name its own `profile`, which then wins over the argument. Relative paths in the file count from the file's
    folder, `path` itself and those in overrides from `folder`; see `absolute_path`.

    Raises:
        ConfigError: unknown profile, unreadable file, unknown key or a value out of range.
    """
    path = absolute_path(str(path), "configuration file (--config, FINSENT_CONFIG)", folder) if path else None
    on_top = anchor_paths(read_file(path), path.parent) if path else {}
    profile = str(on_top.pop("profile", profile))
    if profile not in profiles():
        raise ConfigError(f"unknown profile {profile!r}. Shipped profiles: {', '.join(profiles())}.")
    shipped = read_yaml((_PROFILES / f"{profile}.yaml").read_text(encoding="utf-8"), profile)
    given = anchor_paths(parse_overrides(overrides), folder)
    if "profile" in given:  # it would change the name alone, not what the profile says
        raise ConfigError(f"override 'profile={given['profile']}': a profile is chosen with --profile or in the file.")
    merged = merge(merge({**shipped, "profile": profile}, on_top), given)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, str(path or f"profile {profile!r}"))) from error
