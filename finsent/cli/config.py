"""`finsent config`: what is set, and what can be."""

from collections.abc import Iterator
from typing import Any

import click
import yaml

from finsent.cli.options import CommandResult, Settings, command, examples
from finsent.cli.output import shorten, table
from finsent.config import Config, profiles


def register(group: click.Group) -> None:
    """Add `config show` and `config schema`."""

    @group.group(
        "config",
        short_help="Show what is set, or all that can be.",
        epilog=examples("finsent config show --profile llama-3.1-8b", "finsent config schema"),
    )
    def configuration() -> None:
        """Show the configuration in force, or everything that can be set."""

    @command(
        configuration,
        "show",
        "The configuration in force, as YAML.",
        epilog=examples(
            "finsent config show --profile llama-3.1-8b > mine.yaml", "finsent config show --set recipe.epochs=1 --json"
        ),
    )
    def show(settings: Settings) -> CommandResult:
        """Print the profile with your file and overrides on top, as YAML that --config takes back."""
        values = settings.config().model_dump(mode="json")
        head = f"# Shipped profiles: {', '.join(profiles())}. Every key is explained by `finsent config schema`.\n"
        return CommandResult(values, head + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110).rstrip())

    @command(
        configuration,
        "schema",
        "Every key with default and meaning.",
        epilog=examples("finsent config schema", "finsent config schema --json > finsent.schema.json"),
    )
    def schema(settings: Settings) -> CommandResult:  # noqa: ARG001 - every command takes the settings
        """Print every key with its meaning; with --json as a JSON schema for editors and checks."""
        described = Config.model_json_schema()
        rows = [(key, shorten(str(default), 24), text) for key, default, text in keys(described)]
        return CommandResult(described, table(("key", "default", "meaning"), rows, indent=0))


def keys(schema: dict[str, Any]) -> Iterator[tuple[str, object, str]]:
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
