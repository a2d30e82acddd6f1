"""Entry point: runs one invocation, and is the one place that turns errors into messages and exit codes."""

import atexit
import gc
import itertools
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn

import click

from finsent import machine_faults
from finsent.cli import (  # noqa: F401 - add their commands
    config,
    data,
    demo,
    doctor,
    home,
    maintain,
    models,
    predictions,
    preview,
    promote,
    review,
    review_decide,
    score,
    status,
    up,
)
from finsent.cli.options import Settings, cli
from finsent.cli.output import to_json
from finsent.config.loader import mask_passwords
from finsent.errors import CheckFailed, FinsentError, escape_control
from finsent.logging_setup import configure_logging, prepare_environment
from finsent.training.distributed import world_from_env

DONE, REFUSED, WRONG, INTERRUPTED = 0, 1, 2, 130


def run(arguments: Sequence[str]) -> int:
    """Run one invocation and return its exit code. With --json an error is one JSON object on stdout, too."""
    options = [*itertools.takewhile(lambda argument: argument != "--", arguments)]
    verbose = "--verbose" in options
    show_traceback = "--traceback" in options or os.environ.get("FINSENT_TRACEBACK", "") not in ("", "0")
    settings, is_main = Settings(), True
    prepare_environment(verbose=verbose)
    configure_logging(verbose=verbose)
    try:
        is_main = world_from_env().is_main  # one object from all processes of a launch
        if not (verbose or is_main):
            logging.getLogger("finsent").setLevel(logging.WARNING)
        code = cli.main(args=list(arguments), prog_name="finsent", standalone_mode=False, obj=settings)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"{context.get_usage()}\nSee `{context.command_path} --help`." if context else ""
        # options behind the one that is wrong were not read
        as_json = is_main and (settings.json or "--json" in options)
        return _fail(error.format_message(), type(error).__name__, WRONG, as_json=as_json, hint=hint)
    except (click.Abort, KeyboardInterrupt):
        message = "interrupted. What was committed stays; run the same command again to go on."
        return _fail(message, "Interrupted", INTERRUPTED, as_json=is_main and settings.json)
    except Exception as error:  # noqa: BLE001 - every error ends as one message
        if show_traceback:
            click.echo(escape_control(mask_passwords(traceback.format_exc())), err=True)
        return _fail_with(error, as_json=is_main and settings.json, show_traceback=show_traceback)
    return code if isinstance(code, int) else DONE


def _fail_with(error: Exception, *, as_json: bool, show_traceback: bool) -> int:
    """Tell an error of the work: finsent's own, the machine's, or one that nobody expected."""
    kind = type(error).__name__
    if isinstance(error, FinsentError):
        return _fail(str(error), kind, REFUSED if isinstance(error, CheckFailed) else WRONG, as_json=as_json)
    if message := machine_faults.describe(error):
        return _fail(message, kind, WRONG, as_json=as_json)
    message = f"unexpected {kind}: {_one_line(error).rstrip('.')}. This is a bug or a broken set-up: see `finsent doctor`"
    hint = "" if show_traceback else "Run the same command with --traceback to see where it came from."
    return _fail(message, kind, WRONG, as_json=as_json, hint=hint)


def main() -> None:
    """What the installed `finsent` command runs."""
    machine_faults.open_standard_streams()
    # a command's libraries make many objects that stay: collections would take a fifth of the time in which they load
    gc.set_threshold(50_000, 10, 10)
    if os.environ.get("RANK", "0").strip() in {"", "0"}:  # other processes of a launch record nothing, and just end
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is signal.SIG_DFL:  # else left out on purpose, as by `nohup`
                signal.signal(number, _interrupt)
    leave(run(sys.argv[1:]))


def _interrupt(_number: int, _frame: object) -> None:
    """End as Ctrl-C does, once: runs are recorded as killed, locks released, children stopped."""
    if not isinstance(sys.exc_info()[1], KeyboardInterrupt):
        raise KeyboardInterrupt


def leave(code: int) -> NoReturn:
    """End the process as Python does, but without the C++ runtime's static destructors where Arrow is loaded.

    Arrow's threads may outlive what those destructors free, and a finished command then aborts with exit code 134 now and
    then (apache/arrow issue 39862).
    """
    _flush()
    if "pyarrow" not in sys.modules:
        sys.exit(code)
    # what Python calls at exit: the first wakes idle thread pools, which would wait for ever, and joins threads
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001
    atexit._run_exitfuncs()  # noqa: SLF001
    _flush()
    os._exit(code)


def _flush() -> None:
    """Write what is left; a reader who has closed the pipe, as `head` does, or a full disk is no new error."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # Python tries again at its end


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or "no message"


def _fail(message: str, kind: str, code: int, *, as_json: bool, hint: str = "") -> int:
    told = [(to_json({"error": {"type": kind, "message": message}}), False)] if as_json else []
    told.append((escape_control(f"{'refused' if code == REFUSED else 'error'}: {message}"), True))
    told += [(escape_control(hint), True)] if hint else []
    for text, to_stderr in told:
        with suppress(OSError):  # nobody can be told on an output that is full; the exit code says it
            click.echo(text, err=to_stderr)
    return code
