"""What every command shares: the global options, where the state lives, and how a result is shown."""

import functools
import getpass
import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import click

from finsent.cli.output import plain
from finsent.cli.services_file import mlflow_answers, read_services
from finsent.config import DEFAULT_PROFILE, Config, load_config
from finsent.errors import InputError
from finsent.home import Home, resolve_home
from finsent.training.distributed import launched

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class Settings:
    """The global options of one invocation, given before or after the command's name."""

    profile: str = field(default_factory=lambda: os.environ.get("FINSENT_PROFILE") or DEFAULT_PROFILE)
    config_file: Path | None = field(default_factory=lambda: _path(os.environ.get("FINSENT_CONFIG")))
    overrides: tuple[str, ...] = ()
    home_dir: Path | None = None
    json: bool = False
    verbose: bool = False
    traceback: bool = False

    def config(self) -> Config:
        """The configuration that the options describe."""
        config = load_config(self.profile, self.config_file, self.overrides)
        if config.model.embedded is not None:
            # Before torch is imported. Matrices this small lose by threads: on two busy cores one thread trains nano at
            # 600 rows a second, two at 90.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
        return config

    def home(self) -> Home:
        """The home, with the MLflow server of a running `finsent up` where MLFLOW_TRACKING_URI says nothing."""
        environ = dict(os.environ)
        if self.home_dir:
            environ["FINSENT_HOME"] = str(self.home_dir)
        home = resolve_home(environ)
        running = read_services(home.root)
        if environ.get("MLFLOW_TRACKING_URI") or not running:
            return home
        if mlflow_answers(running.mlflow):
            click.echo(f"using the MLflow server of this home's `finsent up`: {running.mlflow}", err=True)
            return replace(home, tracking_uri=running.mlflow)
        click.echo(
            f"services.json names an MLflow server at {running.mlflow} that does not answer; "
            f"reading the same store without it: {home.tracking_uri}",
            err=True,
        )
        return home


@dataclass(frozen=True)
class CommandResult:
    """What a command has to say: an object for --json, text for people, an exit code."""

    result: Any
    text: str
    code: int = 0
    afterwards: Callable[[], None] | None = None
    """Runs once the result is on the screen: `finsent up` waits there."""
    silent: bool = False
    """Another process of this launch says it."""


def suggest_command(line: str, *, configuration: bool = True) -> str:
    """A command to type next, with the options of this invocation that say where and, with `configuration`, under which one."""
    context = click.get_current_context(silent=True)
    given, usual = (context.find_object(Settings) if context else None) or Settings(), Settings()
    settings = [
        *(("--profile", given.profile) if given.profile != usual.profile else ()),
        *(("--config", str(given.config_file)) if given.config_file not in {None, usual.config_file} else ()),
        *(part for override in given.overrides for part in ("--set", override)),
    ]
    home = ("--home", str(given.home_dir)) if given.home_dir else ()
    return " ".join([line, *map(shlex.quote, (*(settings if configuration else ()), *home))])


def _path(value: str | None) -> Path | None:
    return Path(value) if value else None


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep an option that was given; the same one given again after the command's name wins (--set adds up)."""
    settings = context.ensure_object(Settings)
    name = str(parameter.name)
    if value in (None, (), False):
        return
    setattr(settings, name, settings.overrides + tuple(value) if name == "overrides" else value)


def _option(*names: str, **attributes: Any) -> Callable[[F], F]:
    return click.option(*names, expose_value=False, callback=_remember, **attributes)


def global_options(function: F) -> F:
    """Accept the options that every command has."""
    options = (
        _option("--profile", metavar="NAME", help="Shipped profile. Default: $FINSENT_PROFILE or nano."),
        _option(
            "--config", "config_file", type=Path, metavar="FILE", help="YAML file on top of the profile. Default: $FINSENT_CONFIG"
        ),
        _option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. recipe.epochs=1. Repeatable."),
        _option("--home", "home_dir", type=Path, metavar="DIR", help="Where state lives. Default: $FINSENT_HOME or .finsent"),
        _option("--json", is_flag=True, help="Print exactly one JSON object on stdout."),
        _option("--verbose", is_flag=True, help="Show every log line and warning, third-party ones too."),
        _option("--traceback", is_flag=True, help="Show where an unexpected error came from."),
    )
    for option in reversed(options):
        function = option(function)
    return function


def login() -> str:
    """Name to record a decision under where --who gives none.

    Raises:
        InputError: the system does not say who is logged in.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise InputError("cannot tell who you are. Say it with --who.") from error


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def command(
    group: click.Group, name: str, summary: str, *, epilog: str, options: Sequence[Callable[[F], F]] = ()
) -> Callable[[Callable[..., CommandResult]], click.Command]:
    """Register a function `(settings, **arguments) -> Outcome` as a command with its own `options` above the global ones.

    `summary` is its line in the list of commands.

    While it works, stdout is stderr: whatever a library prints cannot get between a script and the result.
    """

    def register(function: Callable[..., CommandResult]) -> click.Command:
        @functools.wraps(function)
        def run(**arguments: Any) -> int:
            settings = click.get_current_context().ensure_object(Settings)
            if launched().size > 1 and name != "train":
                raise InputError(
                    f"`finsent {name}` was started in {launched().size} processes (WORLD_SIZE), and only `finsent train` is "
                    "shared between several. Start it once, without a launcher."
                )
            with redirect_stdout(sys.stderr):
                outcome = function(settings, **arguments)
            if outcome.silent:
                return outcome.code
            click.echo(json.dumps(plain(outcome.result), ensure_ascii=False) if settings.json else outcome.text)
            if outcome.afterwards:
                sys.stdout.flush()
                with redirect_stdout(sys.stderr):
                    outcome.afterwards()
            return outcome.code

        decorated = global_options(run)
        for option in reversed(options):
            decorated = option(decorated)
        return group.command(name, short_help=summary, epilog=epilog)(decorated)

    return register
