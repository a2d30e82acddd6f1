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

NOISY: Final = (
    "alembic",
    "bitsandbytes",
    "mlflow",
    "huggingface_hub",
    "datasets",
    "transformers",
    "git",
    "matplotlib",
    "fontTools",
)


def prepare_environment(*, verbose: bool) -> None:
    """Give the environment its defaults. A value that the user has set stays."""
    for name, value in (ENVIRONMENT if verbose else {**ENVIRONMENT, **HUSHED}).items():
        os.environ.setdefault(name, value)


def configure_logging(*, verbose: bool) -> None:
    """Log to stderr: finsent's own lines from INFO on, everybody else's errors; with `verbose` everything and all warnings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbose else "%(message)s"))
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, handlers=[handler], force=True)
    logging.getLogger("finsent").setLevel(logging.DEBUG if verbose else logging.INFO)
    if verbose:
        warnings.simplefilter("default")
        return
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    warnings.filterwarnings("default", module=r"finsent(\.|$)")
