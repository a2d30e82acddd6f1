"""Commands that messages and help advise, in backticks: each can be typed."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click

from finsent.cli.main import cli

SOURCES = Path(__file__).parents[2] / "finsent"


def advised() -> Iterator[str]:
    """Those without a value that is filled in when they are shown."""
    for source in SOURCES.rglob("*.py"):
        yield from re.findall(r"`finsent ([a-z][^`{}\"\n]+)`", source.read_text(encoding="utf-8"))


def fault(advice: str) -> str | None:
    command: click.Command = cli
    context, words = click.Context(cli), shlex.split(advice)
    try:
        while isinstance(command, click.Group) and words:
            _, found, words = command.resolve_command(context, words)
            assert found is not None
            command, context = found, click.Context(found, parent=context)
        command.make_parser(context).parse_args(words)
    except click.UsageError as error:
        return error.format_message()
    return None


def test_advised_commands_can_be_typed() -> None:
    assert "requires an argument" in (fault("score --backfill") or "")
    commands = set(advised())
    assert len(commands) > 30
    assert {command: said for command in commands if (said := fault(command))} == {}
