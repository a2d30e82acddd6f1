"""Entry point: runs one invocation, and is the one place that turns errors into messages and exit codes."""

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

from finsent.cli import config, data, demo, doctor, models, promote, review, score, status, up  # noqa: F401 - add their commands
from finsent.cli.options import cli
from finsent.errors import CheckFailed, FinsentError
from finsent.logging_setup import configure_logging, prepare_environment
from finsent.training.distributed import world_from_env

DONE, REFUSED, WRONG, INTERRUPTED = 0, 1, 2, 130


def run(arguments: Sequence[str]) -> int:
    """Run one invocation and return its exit code. With --json an error is one JSON object on stdout, too."""
    verbose = "--verbose" in arguments
    as_json = "--json" in arguments and world_from_env().is_main  # one object from all processes of a launch
    show_traceback = "--traceback" in arguments or os.environ.get("FINSENT_TRACEBACK", "") not in ("", "0")
    prepare_environment(verbose=verbose)
    configure_logging(verbose=verbose)
    if not (verbose or world_from_env().is_main):
        logging.getLogger("finsent").setLevel(logging.WARNING)
    try:
        code = cli.main(args=list(arguments), prog_name="finsent", standalone_mode=False)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.get_usage()}\nSee `{context.command_path} --help`." if context else ""
        return _fail(error.format_message(), type(error).__name__, WRONG, as_json=as_json, hint=hint)
    except (click.Abort, KeyboardInterrupt):
        message = "interrupted. What was committed stays; run the same command again to go on."
        return _fail(message, "Interrupted", INTERRUPTED, as_json=as_json)
    except Exception as error:  # noqa: BLE001 - every error ends as one message
        if show_traceback:
            traceback.print_exc()
        if isinstance(error, FinsentError):
            return _fail(str(error), type(error).__name__, REFUSED if isinstance(error, CheckFailed) else WRONG, as_json=as_json)
        message = f"unexpected {type(error).__name__}: {_one_line(error)}. This is a bug or a broken set-up: see `finsent doctor`"
        hint = "" if show_traceback else "Run the same command with --traceback to see where it came from."
        return _fail(message, type(error).__name__, WRONG, as_json=as_json, hint=hint)
    return code if isinstance(code, int) else DONE


def main() -> None:
    """What the installed `finsent` command runs."""
    leave(run(sys.argv[1:]))


def leave(code: int) -> NoReturn:
    """End the process as Python does, but without the C++ runtime's static destructors where Arrow is loaded.

    Arrow's threads may outlive what those destructors free, and a finished command then aborts with exit code 134 now and
    then (apache/arrow issue 39862).
    """
    if "pyarrow" not in sys.modules:
        sys.exit(code)
    # what Python calls at exit: the first wakes idle thread pools, which would wait for ever, and joins threads
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    with suppress(BrokenPipeError):  # the reader has closed the pipe, as `head` does
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
