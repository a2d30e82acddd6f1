"""Entry point: parse, run, and turn whatever happens into one message and an exit code."""

import atexit
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from finsent import __version__
from finsent.cli import config, data, dataset, models, promote, review, run, tune
from finsent.cli.options import global_options
from finsent.errors import FinsentError, Refused
from finsent.logging_setup import configure_logging, prepare_environment
from finsent.training.distributed import launched

DONE, REFUSED, WRONG, INTERRUPTED = 0, 1, 2, 130


class OrderedGroup(click.Group):
    """Lists commands in the order of the work, which is the order they were registered in."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names as registered."""
        return list(self.commands)


HELP = """Keeps a financial-tweet sentiment model alive in production.

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


@click.group(cls=OrderedGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@global_options
@click.version_option(__version__, "--version")
def cli() -> None:
    """Root of all commands."""


run.register_demo_and_up(cli)
data.register(cli)
dataset.register(cli)
review.register(cli)
tune.register(cli)
models.register(cli)
promote.register(cli)
run.register(cli)
config.register(cli)


def run(arguments: Sequence[str]) -> int:
    """One invocation; returns the exit code.

    With --json an error, too, is one JSON object on stdout.
    """
    verbose = "--verbose" in arguments
    as_json = "--json" in arguments and launched().is_main  # one object from all processes of a launch
    show_traceback = "--traceback" in arguments or os.environ.get("FINSENT_TRACEBACK", "") not in ("", "0")
    prepare_environment(verbose=verbose)
    configure_logging(verbose=verbose)
    if not (verbose or launched().is_main):
        logging.getLogger("finsent").setLevel(logging.WARNING)
    try:
        code = cli.main(args=list(arguments), prog_name="finsent", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.get_usage()}\nSee `{context.command_path} --help`." if context else ""
        return _fail(error.format_message(), type(error).__name__, WRONG, as_json=as_json, hint=hint)
    except (click.Abort, KeyboardInterrupt):
        message = "interrupted. What was committed stays; the same command again takes up the rest."
        return _fail(message, "Interrupted", INTERRUPTED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - the last line of defence: every error leaves as one message
        if show_traceback:
            traceback.print_exc()
        if isinstance(error, FinsentError):
            return _fail(str(error), type(error).__name__, REFUSED if isinstance(error, Refused) else WRONG, as_json=as_json)
        message = f"unexpected {type(error).__name__}: {_one_line(error)}. This is a bug or a broken set-up: see `finsent doctor`"
        hint = "" if show_traceback else "Run the same command with --traceback to see where it came from."
        return _fail(message, type(error).__name__, WRONG, as_json=as_json, hint=hint)
    return code if isinstance(code, int) else DONE


def main() -> None:
    """What the installed `finsent` command runs."""
    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End the process as Python does, but for the C++ runtime's own end.

    Arrow's threads may still be there when that destroys what they use, and then a finished command aborts with exit code 134
    now and then (apache/arrow issue 39862). Where nothing loaded Arrow, the usual way is taken.
    """
    if "pyarrow" not in sys.modules:
        sys.exit(code)
    # what Python calls itself at this place: the first wakes idle pools, which wait for work for ever, and joins threads
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    with suppress(BrokenPipeError):  # whoever read the output has gone, as `head` does
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _fail(message: str, kind: str, code: int, *, as_json: bool, hint: str = "") -> int:
    if as_json:
        click.echo(json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False))
    click.echo(f"{'refused' if code == REFUSED else 'error'}: {message}", err=True)
    if hint:
        click.echo(hint, err=True)
    return code
