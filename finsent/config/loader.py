"""Configuration files, profiles and overrides: read and merged, their errors explained."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from finsent.errors import ConfigError


def mask_passwords(text: str) -> str:
    """The text with `***` for the password of every URL in it."""
    masked = re.sub(r"(://[^:@/\s]*):\S*@", r"\1:***@", text)
    return re.sub(r"([?&][^=&\s]*(?:pass|pwd|secret|token)[^=&\s]*=)[^&\s]+", r"\1***", masked, flags=re.IGNORECASE)


def read_file(path: Path) -> dict[str, Any]:
    """Read a user's YAML file.

    Raises:
        ConfigError: it is not there, cannot be read, or holds no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"no configuration file {str(path)!r}. Give a YAML file, or leave the option out.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{str(path)!r} is not UTF-8 text: byte {error.object[error.start]:#04x} at place {error.start}. Save it as UTF-8."
        ) from error
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}. Check its permissions.") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, where: str) -> dict[str, Any]:
    """Parse a mapping of sections; `where` names its place in messages.

    Raises:
        ConfigError: it is not YAML, or no mapping.
    """
    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not YAML: {error}") from error
    if loaded is not None and not isinstance(loaded, dict):
        raise ConfigError(f"{where} must hold a mapping of sections, and holds {type(loaded).__name__}.")
    return loaded or {}


def parse_overrides(items: Iterable[str]) -> dict[str, Any]:
    """`section.key=value` items as nested mappings.

    Raises:
        ConfigError: an item is not of that form.
    """
    tree: dict[str, Any] = {}
    for item in items:
        key, found, value = item.partition("=")
        if not found or not key:
            raise ConfigError(f"override {item!r} is not of the form section.key=value, e.g. recipe.epochs=1.")
        try:
            leaf: Any = yaml.safe_load(value)
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error)
            raise ConfigError(
                f"override {item!r}: the value is not YAML ({problem}). Put it in quotes of its own: \"{key}='{value}'\"."
            ) from error
        for part in reversed(key.split(".")):
            leaf = {part: leaf}
        tree = merge(tree, leaf)
    return tree


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """`above` on top of `below`, section by section."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def explain(error: ValidationError, where: str) -> str:
    """Say what is wrong with a configuration: key, value and problem of each error."""
    problems = []
    for item in error.errors():
        key = ".".join(str(part) for part in item["loc"])
        if item["type"] == "extra_forbidden":
            problems.append(f"unknown key {key!r} (see `finsent config schema`)")
        else:
            problems.append(f"{key} = {item['input']!r}: {item['msg']}")
    return mask_passwords(f"{where}: " + "; ".join(problems))
