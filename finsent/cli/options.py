"""What every command shares: global options, the settings that they make, how a result is shown, who signs a decision."""

import getpass
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finsent import __version__
from finsent.cli.output import Renderable, note, show, to_json
from finsent.cli.services_file import find_mlflow, read_services
from finsent.config import DEFAULT_PROFILE, Config, load_config
from finsent.environ import absolute_path
from finsent.errors import ConfigError, InputError
from finsent.files import close_to_others
from finsent.proxies import bypass_proxies
from finsent.registry.own_server import LOGIN_VARIABLE, with_login
from finsent.training.distributed import world_from_env
from finsent.workspace import Workspace, resolve_workspace

if TYPE_CHECKING:
    from finsent.steps.context import Context
    from flows.settings import FlowSettings


@dataclass
class Settings:
    """The global options of one invocation, given before or after the command's name."""

    profile: str = field(default_factory=lambda: os.environ.get("FINSENT_PROFILE") or DEFAULT_PROFILE)
    config_file: Path | None = field(
        default_factory=lambda: Path(os.environ["FINSENT_CONFIG"]) if os.environ.get("FINSENT_CONFIG") else None
    )
    overrides: tuple[str, ...] = ()
    home_dir: Path | None = None
    json: bool = False
    verbose: bool = False
    traceback: bool = False

    def config(self) -> Config:
        """The configuration that the options describe."""
        config = load_config(self.profile, self.config_file, self.overrides)
        if config.model.embedded is not None:
            # Read by torch when it is imported. Threads slow matrices this small down: on two busy cores one thread trains
            # nano at 600 rows a second, two at 90.
            os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or "1"
        return config

    def home(self) -> Workspace:
        """The home, with the MLflow server of a running `finsent up` unless MLFLOW_TRACKING_URI names another."""
        environ = dict(os.environ)
        if self.home_dir:
            environ["FINSENT_HOME"] = str(self.home_dir)
        home = resolve_workspace(environ)
        if close_to_others(home.root):
            note(f"the home {str(home.root)!r} was open to every user of this machine; now it is closed to them")
        given, running = environ.get("MLFLOW_TRACKING_URI", "").rstrip("/"), read_services(home.root)
        if running is None or given not in {"", running.mlflow} or (server := find_mlflow(home.root)) is None:
            return home
        if server.auth is not None and server.problem is None:
            os.environ[LOGIN_VARIABLE] = with_login(server.url, server.auth)
        if given:
            return home
        if server.problem is None:
            note(f"using the MLflow server of this home's `finsent up`: {server.url}")
            bypass_proxies(os.environ, server.url)
            return replace(home, tracking_uri=server.url)
        note(
            f"services.json names an MLflow server at {server.url} that {server.problem}; "
            f"reading the same store without it: {home.tracking_uri}"
        )
        return home

    def context(self) -> "Context":
        """Configuration, workspace and registry, as steps take them."""
        from finsent.steps.context import make_context

        return make_context(self.config(), self.home())

    def flow_settings(self) -> "FlowSettings":
        """The same for a Prefect flow that runs in this process.

        Raises:
            InputError: an override holds a password.
        """
        home = self.home()
        # the environment is the flow's too, and an address there may hold a password, which Prefect would store
        return self.flow_settings_in(home, self.overrides, None if os.environ.get("MLFLOW_TRACKING_URI") else home.tracking_uri)

    def flow_settings_in(self, home: Workspace, overrides: tuple[str, ...], tracking_uri: str | None = None) -> "FlowSettings":
        """The same with another home or other overrides; raises what `flow_settings` does."""
        from pydantic import ValidationError

        from flows.settings import FlowSettings

        config_file = str(absolute_path(str(self.config_file), "--config")) if self.config_file else None
        try:
            return FlowSettings(
                profile=self.profile, config_file=config_file, overrides=overrides, home=str(home.root), tracking_uri=tracking_uri
            )
        except ValidationError as error:
            raise InputError("; ".join(item["msg"].removeprefix("Value error, ") for item in error.errors())) from None


class _LocalPath(click.ParamType[Path]):
    """A path on this machine; `--out=~/x` keeps its `~` in most shells."""

    name = "path"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Resolve `~` and `file:` URLs."""
        if isinstance(value, str) and value.startswith(("~", "file:")):
            try:
                return absolute_path(value, "path")
            except ConfigError as error:
                self.fail(str(error), param, ctx)
        return Path(value)


LOCAL_PATH = _LocalPath()
"""Type of options and arguments that are files and folders."""


@dataclass(frozen=True)
class CommandResult:
    """What a command returns: an object for --json, text or rich tables for people, an exit code."""

    result: Any
    text: Renderable
    code: int = 0
    afterwards: Callable[[], None] | None = None
    """Runs once the result is printed: `finsent up` waits there."""


def _remember(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    """Keep a global option that was given; given again after the command's name it wins, and --set adds up."""
    settings = context.ensure_object(Settings)
    name = str(parameter.name)
    if value in (None, (), False):
        return
    setattr(settings, name, settings.overrides + tuple(value) if name == "overrides" else value)


def _global_options() -> list[click.Parameter]:
    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_remember, **attributes)

    return [
        option("--profile", metavar="NAME", help="Shipped profile. Default: $FINSENT_PROFILE or nano."),
        option(
            "--config",
            "config_file",
            type=LOCAL_PATH,
            metavar="FILE",
            help="YAML on top of the profile. Default: $FINSENT_CONFIG",
        ),
        option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. recipe.epochs=1. Repeatable."),
        option(
            "--home", "home_dir", type=LOCAL_PATH, metavar="DIR", help="Where state is kept. Default: $FINSENT_HOME or .finsent"
        ),
        option("--json", is_flag=True, help="Print exactly one JSON object on stdout."),
        option("--verbose", is_flag=True, help="Show every log line and warning, those of libraries too."),
        option("--traceback", is_flag=True, help="Show where an unexpected error came from."),
    ]


class Command(click.Command):
    """A command with the global options below its own, whose function returns a `CommandResult`, or None to print nothing.

    While the function runs, stdout is stderr: whatever a library prints, a script reads the result alone.
    """

    def __init__(self, *arguments: Any, **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.params += _global_options()

    def invoke(self, ctx: click.Context) -> int:
        """Run the function, print what it returns, return the exit code."""
        settings = ctx.ensure_object(Settings)
        if world_from_env().size > 1 and self.name != "train":
            raise InputError(
                f"`finsent {self.name}` was started in {world_from_env().size} processes (WORLD_SIZE); only `finsent train` is "
                "shared between several. Start it once, without a launcher."
            )
        with redirect_stdout(sys.stderr):
            done: CommandResult | None = super().invoke(ctx)
        if done is None:  # another process of this launch prints the result
            return 0
        try:
            click.echo(to_json(done.result)) if settings.json else show(done.text)
        except BrokenPipeError:
            raise  # the reader has read enough, as `head` does
        except OSError as error:
            raise InputError(f"the work is done, but its result cannot be written to stdout: {error.strerror}.") from error
        if done.afterwards:
            sys.stdout.flush()
            with redirect_stdout(sys.stderr):
                done.afterwards()
        return done.code


class OrderedGroup(click.Group):
    """A group that lists its commands in the order of the work, with the global options before their names as well."""

    command_class = Command
    group_class = type

    def __init__(self, *arguments: Any, order: Sequence[str] = (), **attributes: Any) -> None:
        """`order` names the commands; without it they are listed as they were added."""
        super().__init__(*arguments, **attributes)
        self.params += _global_options()
        self.order = order

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in order."""
        return list(self.order or self.commands)


_HELP = """Keeps a financial-tweet sentiment model alive in production.

\b
Everything at work on the bundled sample, offline, in a few minutes:
  finsent demo

\b
The chain, step by step:
  finsent ingest tweets.csv --text tweet --label sentiment --label-map 0=Bearish,1=Bullish,2=Neutral
  finsent train                    QLoRA on the training split, logged to MLflow, registered
  finsent evaluate                 the version's evidence on the held-out test split
  finsent promote                  the gate decides; `finsent approve` where a human must agree
  finsent ingest --inbox new.csv   unlabelled tweets
  finsent score                    the champion scores what it has not scored yet

Exit codes: 0 done, 1 refused by the gate or a check, 2 wrong use or bad input.
"""

_ORDER = (
    *("demo", "up", "doctor", "status", "ingest", "data", "review", "train", "tune", "evaluate"),
    *("promote", "approve", "reject", "rollback", "adopt", "history", "ledger"),
    *("score", "predictions", "predict", "serve", "monitor", "retrain", "maintain", "export", "import", "home", "config"),
)


@click.group(
    cls=OrderedGroup, order=_ORDER, help=_HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, "--version")
def cli() -> None:
    """Root of all commands, which the modules of this package add to it."""


def suggest_command(line: str, *, configuration: bool = True) -> str:
    """A command to type next, with this invocation's --home and, with `configuration`, its --profile, --config and --set."""
    context = click.get_current_context(silent=True)
    given, usual = (context.find_object(Settings) if context else None) or Settings(), Settings()
    settings = [
        *(("--profile", given.profile) if given.profile != usual.profile else ()),
        *(("--config", str(given.config_file)) if given.config_file not in {None, usual.config_file} else ()),
        *(part for override in given.overrides for part in ("--set", override)),
    ]
    home = ("--home", str(given.home_dir)) if given.home_dir else ()
    return " ".join([line, *map(shlex.quote, (*(settings if configuration else ()), *home))])


def login() -> str:
    """Name to record a decision under when --who is not given.

    Raises:
        InputError: the system does not know who is logged in.
    """
    try:
        return getpass.getuser()
    except (OSError, KeyError) as error:
        raise InputError("cannot tell who you are. Say it with --who.") from error


def examples(*lines: str) -> str:
    """The end of a help text: commands to copy, one a line."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
