"""Errors that are the machine's: what the operating system refused, told as that and not as a bug of finsent."""

import errno
import os
import re
import resource
import sqlite3
import sys
from contextlib import suppress
from typing import Final

from finsent.errors import causes, one_line

NO_HOME_FOLDER: Final = (
    "this user has no home folder: HOME is not set, and the system's list of users does not know the user's number. "
    "Set HOME to a folder that can be written."
)

STARTUP_TIMEOUT: Final = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
"""Prefect's variable: seconds that a temporary server may take to start."""

_REMEDIES: Final = {
    errno.ENOSPC: "Make room on that disk.",
    errno.EDQUOT: "This user's quota is used up: make room, or have it raised.",
    errno.EROFS: "It is mounted read only. Choose another home with --home or FINSENT_HOME, or mount it for writing.",
    errno.EACCES: "Check its owner and permissions, and which user runs finsent.",
    errno.EPERM: "Check its owner and permissions, and which user runs finsent.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`).",
    errno.ENFILE: "Raise the system's limit of open files.",
    errno.ENOMEM: "Free memory, or give the container more.",
    errno.EIO: "The disk or the network share behind it fails: look at the system's log.",
    errno.ESTALE: "The network share was mounted anew: change into the folder again.",
    errno.EADDRINUSE: "Another program listens on that port: choose another.",
}

_LIBRARIES: Final = (
    *("ACCELERATE_", "AWS_", "BNB_", "CUDA_", "DATASETS_", "HF_", "MLFLOW_", "MPL", "NCCL_", "OMP_", "OPTUNA_", "PREFECT_"),
    *("PYTORCH_", "RAY_", "SOURCE_DATE_EPOCH", "TOKENIZERS_", "TORCH", "TQDM_", "TRANSFORMERS_"),
)
"""Beginnings of the names of variables that libraries read, some of them when they are imported."""

_SECRET: Final = re.compile("AUTH|KEY|LOGIN|PASSWORD|SECRET|TOKEN(?!IZERS)|URL|URI")
"""In the names of variables whose values no message shows."""
_OS_ERROR: Final = re.compile(r"\(os error (\d+)\)")
"""How libraries in Rust (safetensors, tokenizers, Delta) say what the system refused: their errors are no OSError."""

_SERVICES: Final = {
    **dict.fromkeys(("httpx", "httpcore", "requests", "urllib3"), "a server (PREFECT_API_URL, MLFLOW_TRACKING_URI)"),
    "prefect": "the Prefect server (PREFECT_API_URL)",
    "mlflow": "MLflow (MLFLOW_TRACKING_URI)",
}
"""Libraries that speak to servers: what they raise past finsent's own translation comes of those."""


def describe(error: BaseException) -> str | None:
    """What the machine refused and what to do, where `error` comes of that; None where it does not."""
    for cause in causes(error):
        library = type(cause).__module__.partition(".")[0]
        # torch's are no MemoryError, and its CPU's has not even a name of its own
        if isinstance(cause, MemoryError) or type(cause).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in str(cause):
            return "memory is used up. Free some, give the container more, or use smaller batches (see `finsent doctor`)."
        if refused := _refused_by_the_system(cause):
            return refused
        if isinstance(cause, RuntimeError | KeyError) and (known := _known_by_its_words(str(cause))):
            return known
        if isinstance(cause, sqlite3.DatabaseError) and not isinstance(cause, sqlite3.IntegrityError | sqlite3.ProgrammingError):
            return (
                f"a database in the home cannot be used ({one_line(cause)}). Check the disk's space, the permissions and the "
                "mount; put a backup in place of a damaged one."
            )
        if isinstance(cause, RuntimeError) and "Failed to reach API at" in str(cause):
            library = "prefect"  # which raises it bare
        if library in _SERVICES or (isinstance(cause, ConnectionError | TimeoutError) and cause.errno is None):
            said = one_line(cause)
            what = _SERVICES.get(library, "a server")
            return f"{what} does not answer, or not as it should ({said}). Look at it and its log, then try again."
    return _unloaded_library(error) if isinstance(error, ImportError) else _unread_variable(error)


def _unloaded_library(error: ImportError) -> str | None:
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit == resource.RLIM_INFINITY:
        return None
    return (
        f"a library could not be loaded ({one_line(error)}): this process may map {limit / 2**30:.1f} GiB (`ulimit -v`), and "
        "libraries map far more than they use. Lift that limit; to limit memory use a container's."
    )


def _refused_by_the_system(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno is not None:
        number, said = error.errno, str(error.strerror)
        if isinstance(error.filename, str | bytes):
            said = f"{os.fsdecode(error.filename)!r}: {said}"
    elif found := _OS_ERROR.search(str(error)):
        number, said = int(found[1]), one_line(error)
    else:
        return None
    return f"{said}. {_REMEDIES.get(number, 'See `finsent doctor`.')}"


def _unread_variable(error: BaseException) -> str | None:
    """Which variable a library failed to read, as far as its message quotes the value; and Python without docstrings."""
    if not isinstance(error, ValueError | TypeError):
        return None
    message = str(error)
    if sys.flags.optimize > 1:
        return "Python runs without docstrings (-OO, PYTHONOPTIMIZE=2), which transformers reads. Use -O, or unset the variable."
    for name, value in os.environ.items():
        if value and name.startswith(_LIBRARIES) and not _SECRET.search(name) and f"'{value}'".casefold() in message.casefold():
            return f"{name} = {value!r} in the environment is nothing that its library understands. Correct or unset it."
    return None


def _known_by_its_words(text: str) -> str | None:
    if "determine home directory" in text or "getpwuid" in text:
        return NO_HOME_FOLDER
    if "connect to ephemeral Prefect" in text:
        waited = os.environ.get(STARTUP_TIMEOUT, "20")
        return (
            f"a temporary Prefect server did not start within {waited} s: the machine is too busy, or it cannot start. See "
            f"`finsent doctor`, and try again when less runs here; {STARTUP_TIMEOUT} sets how long is waited."
        )
    return None


def open_standard_streams() -> None:
    """Give stdin, stdout and stderr a place where the caller closed them, and let none fail over a character.

    A file that is opened while one is closed would get its number, and what a library prints would go into that file.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            while os.open(os.devnull, os.O_RDWR) < number:
                pass
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - open for good
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not a text file, as under a test
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
