"""`finsent config`: the configuration in force, and every key that can be set."""

from collections.abc import Iterator
from typing import Any

import click

from finsent.cli.options import CommandResult, Settings, cli, examples
from finsent.cli.output import shorten, table
from finsent.config import Config, profiles
from finsent.config.loader import write_yaml


@cli.group("config", epilog=examples("finsent config show --profile llama-3.1-8b", "finsent config schema"))
def config_group() -> None:
    """Show what is set, or all that can be."""


@config_group.command(
    "show",
    epilog=examples("finsent config show --profile llama-3.1-8b > mine.yaml", "finsent config show --set recipe.epochs=1 --json"),
)
@click.pass_obj
def show_command(settings: Settings) -> CommandResult:
    """Print the configuration in force, as YAML. That is the profile with your file and overrides on top; --config reads it."""
    values = settings.config().model_dump(mode="json")
    head = f"# Shipped profiles: {', '.join(profiles())}. Every key is explained by `finsent config schema`.\n"
    return CommandResult(values, head + write_yaml(values))


@config_group.command("schema", epilog=examples("finsent config schema", "finsent config schema --json > finsent.schema.json"))
def schema_command() -> CommandResult:
    """Print every key with default and meaning. With --json, a JSON schema for editors and checks."""
    schema = Config.model_json_schema()
    rows = [(key, shorten(str(default), 24), text) for key, default, text in schema_keys(schema)]
    return CommandResult(schema, table(("key", "default", "meaning"), rows, indent=0))


def schema_keys(schema: dict[str, Any]) -> Iterator[tuple[str, object, str]]:
    """(dotted key, default or `required`, description) of every setting of a JSON schema with $defs."""
    yield from _walk(schema, schema.get("$defs", {}), "")


def _walk(node: dict[str, Any], definitions: dict[str, Any], prefix: str) -> Iterator[tuple[str, object, str]]:
    for name, item in node.get("properties", {}).items():
        section = _section(item, definitions)
        if section is None:
            default = item["default"] if "default" in item else ("required" if name in node.get("required", ()) else None)
            yield prefix + name, "-" if default is None else default, item.get("description", "")
        else:
            yield from _walk(section, definitions, f"{prefix}{name}.")


def _section(item: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    """The section that a key holds, or None for a plain value (lists of sections count as values)."""
    for option in [item, *item.get("anyOf", [])]:
        reference = option.get("$ref", "")
        if reference:
            found: dict[str, Any] = definitions[reference.rpartition("/")[2]]
            return found
    return None
