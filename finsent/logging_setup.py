"""What appears on a user's terminal besides results: log lines, warnings and progress bars, all on stderr.

The command line applies this before anything heavy is imported, and the processes that a command starts take it over. Servers
and workers of `finsent up` do not.
"""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeVar

from finsent.errors import escape_control
from finsent.proxies import bypass_proxies

T = TypeVar("T")

ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # child processes do not take modules from the working folder, where an analyst's random.py or token.py may lie
    "PYTHONSAFEPATH": "1",
}
"""Set unless the user has set them: no telemetry, no fork warnings, no modules from the working folder."""

IGNORED_WARNINGS: Final = (
    # torch/_dynamo/variables/functions.py, where layers are compiled: attention asks a cached function which arguments torch's
    # varlen_attn takes. The answer never changes, so it is right to trace through the cache
    "ignore:Dynamo detected a call to a `functools.lru_cache`:UserWarning",
    # multiprocessing/resource_tracker.py: a model worker that was terminated leaves tqdm's lock, which the tracker then removes
    "ignore:resource_tracker:UserWarning",
)
"""Entries of PYTHONWARNINGS, by which processes started with `spawn` or `python -m` ignore them too."""

QUIET_ENVIRONMENT: Final = {
    "PYTHONWARNINGS": ",".join(IGNORED_WARNINGS),
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the console only: the Prefect UI still gets every line
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # transformers has a handler of its own. Its load report (utils/loading_report.py) lists the head as newly initialised, which
    # is so until the adapter's head is loaded
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    # so has torch: of compiling, autotuning and recompiling
    "TORCH_LOGS": "-all",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
}
"""Set besides without --verbose, unless the user has set them."""

IMPATIENT_ENVIRONMENT: Final = {
    # a server that is down is an error within seconds; the library's own default retries for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Set unless the user has set them: somebody waits for the command, and nobody for a worker."""

QUIETED: Final = "FINSENT_QUIETED"
"""Environment variable with the names of those of `QUIET_ENVIRONMENT` and `IMPATIENT_ENVIRONMENT` that finsent itself has set."""

LOWEST_LEVEL: Final = {
    "prefect": logging.CRITICAL,  # logs every error that it raises, with its traceback
    # backends/cpu/ops.py says at import that the optional package `kernels` is missing; its own kernels are used then
    "bitsandbytes": logging.ERROR,
    **dict.fromkeys(("alembic", "datasets", "git", "huggingface_hub", "mlflow", "transformers"), logging.ERROR),
}
"""Lowest level of each library's log lines that is shown without --verbose."""


def prepare_environment(*, verbose: bool) -> None:
    """Give the environment its defaults. A value that the user has set stays."""
    _set_missing(ENVIRONMENT)
    bypass_proxies()
    own = _set_missing(IMPATIENT_ENVIRONMENT if verbose else {**IMPATIENT_ENVIRONMENT, **QUIET_ENVIRONMENT})
    os.environ[QUIETED] = ",".join([*filter(None, os.environ.get(QUIETED, "").split(",")), *own])
    if not sys.stderr.isatty():  # on a terminal the bars show how a base of 16 GB is downloaded
        _set_missing({"HF_HUB_DISABLE_PROGRESS_BARS": "1"})


def _set_missing(values: Mapping[str, str]) -> list[str]:
    missing = [name for name in values if not os.environ.get(name)]  # set but empty: a launcher's variable without a value
    os.environ.update({name: values[name] for name in missing})
    return missing


def without_quieting(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for servers and workers, whose logs are for operators: without what a command sets for its console."""
    quieted = {QUIETED, *environment.get(QUIETED, "").split(",")}
    return {name: value for name, value in environment.items() if name not in quieted}


def configure_logging(*, verbose: bool) -> None:
    """Log to stderr: finsent from INFO on, libraries as in `LOWEST_LEVEL`; with `verbose` every line and warning."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_TerminalFormatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("finsent").setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        warnings.simplefilter("default")
        return
    handler.addFilter(_is_shown)  # at the handler: libraries set their loggers' levels themselves, later
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"finsent(\.|$)")


class _TerminalFormatter(logging.Formatter):
    """Lines may quote tweets, names and answers from outside."""

    def format(self, record: logging.LogRecord) -> str:
        return escape_control(super().format(record))


def configure_child_logging() -> None:
    """In a process that a command without --verbose has started, show what the command would, of finsent only warnings.

    Elsewhere, as under a worker of Prefect's, nothing changes.
    """
    if QUIET_ENVIRONMENT.keys() & set(os.environ.get(QUIETED, "").split(",")):
        configure_logging(verbose=False)
        logging.getLogger("finsent").setLevel(logging.WARNING)


def _is_shown(record: logging.LogRecord) -> bool:
    return record.levelno >= LOWEST_LEVEL.get(record.name.partition(".")[0], logging.NOTSET)


def track(iterable: Iterable[T], *, description: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yield from `iterable`, with a progress bar on stderr if that is a terminal, and silently in a pipe."""
    from tqdm import tqdm

    yield from tqdm(iterable, total=total, desc=escape_control(description), unit=unit, disable=None, leave=False)
