"""What third-party code may say on a user's terminal. Applied by the command line alone, before anything heavy is imported."""

import logging
import os
import sys
import warnings
from typing import Final

ENVIRONMENT: Final = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "GIT_PYTHON_REFRESH": "quiet",
    # a server that is down is said so within seconds; the library's own default goes on for minutes
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
}
"""Set unless the user has set them: no telemetry, no fork warnings, no endless retries."""

HUSHED: Final = {
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # the console only: the Prefect UI still gets every line
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_VERBOSITY": "error",
}
"""Set besides unless --verbose."""

HEARD_FROM: Final = {
    "prefect": logging.CRITICAL,  # says every error that it raises a second time, with its whole traceback
    **dict.fromkeys(("alembic", "bitsandbytes", "datasets", "git", "huggingface_hub", "mlflow", "transformers"), logging.ERROR),
}
"""Lowest level of each library that is shown without --verbose."""


def prepare_environment(*, verbose: bool) -> None:
    """Give the environment its defaults. A value that the user has set stays."""
    for name, value in (ENVIRONMENT if verbose else {**ENVIRONMENT, **HUSHED}).items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():  # on a terminal the bars show how a base of 16 GB arrives
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def configure_logging(*, verbose: bool) -> None:
    """Log to stderr: finsent's own lines from INFO on, others as in `HEARD_FROM`; with `verbose` everything and all warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("finsent").setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        warnings.simplefilter("default")
        return
    handler.addFilter(_worth_showing)  # at the handler: libraries set their loggers' levels themselves, later
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"finsent(\.|$)")


def _worth_showing(record: logging.LogRecord) -> bool:
    return record.levelno >= HEARD_FROM.get(record.name.partition(".")[0], logging.NOTSET)
