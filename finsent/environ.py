"""What people and launchers give in words: paths, made absolute where they are given, and numbers in the environment."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from finsent.errors import ConfigError, shorten

_FILE_URL: Final = re.compile(r"file:(?://(?:localhost)?(?=/))?(?=[^/]|/(?!/))", re.IGNORECASE)

_LONGEST_NAME: Final = 255  # bytes
_LONGEST_PATH: Final = 4000  # of 4,095, since something follows

SQLITE_FILE: Final = re.compile(r"(sqlite(?:\+\w+)?:///)(?!/|:memory:|file:)([^?]+)(.*)")
"""The URL of an SQLite file by a relative path: what stands before it, the path, and the rest."""


def working_folder() -> Path:
    """The folder that relative paths count from.

    Raises:
        ConfigError: it was deleted, or may not be entered.
    """
    try:
        return Path.cwd()
    except OSError as error:
        raise ConfigError(
            f"the working folder cannot be found ({error.strerror}): it was deleted or moved. Change into one that exists."
        ) from error


def absolute_path(text: str, what: str, folder: Path | None = Path()) -> Path:
    """The path in full, `~` and `file:` URLs resolved; a relative one counts from `folder`, itself from the working folder.

    Args:
        text: The path as it was given.
        what: What it is and where it was given, for messages.
        folder: None where nobody can know it: under a worker, whose working folder is made for one run and deleted.

    Raises:
        ConfigError: it is relative and `folder` is None, starts with the home of an unknown user, or is no path.
    """
    local = unquote(_FILE_URL.sub("", text)) if _FILE_URL.match(text) else text
    if "\0" in local:
        raise ConfigError(f"{what} = {text!r} holds a NUL character. Correct it.")
    if is_too_long(local):
        raise ConfigError(f"{what} = {shorten(text)!r} is longer than the path of a file can be. Correct it.")
    try:
        path = Path(local).expanduser()
    except RuntimeError as error:
        raise ConfigError(
            f"{what} = {text!r}: {local.split('/')[0]!r} has no known home folder. Set HOME, or write the path in full."
        ) from error
    if path.is_absolute():
        return path
    if folder is None:
        raise ConfigError(
            f"{what} = {text!r} is relative, and a Prefect worker runs in a temporary folder, which is deleted afterwards. "
            "Give the absolute path, in the worker's environment or the run's parameters."
        )
    base = folder if folder.is_absolute() else working_folder() / folder
    return base / path


def is_too_long(path: str) -> bool:
    """Whether no file can have this path, so that looking for it would be an error of the file system."""
    raw = path.encode("utf-8", "surrogateescape")
    return len(raw) > _LONGEST_PATH or any(len(part) > _LONGEST_NAME for part in raw.split(b"/"))


def is_url(text: str) -> bool:
    """Whether it names a place other than a local path; `file:` URLs are local paths."""
    return "://" in text and not _FILE_URL.match(text)


def check_addresses(environ: Mapping[str, str]) -> None:
    """Refuse addresses of servers that nothing could read.

    Raises:
        ConfigError: a bracket or port in one is wrong.
    """
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        given = environ.get(name, "")
        try:
            _ = urlsplit(given).port
        except ValueError as error:
            shown = re.sub(r"//.*@", "//", given)  # without a password
            raise ConfigError(f"{name} = {shown!r} is no address ({error}). Correct it, or unset it.") from error


def whole_number(name: str, default: int) -> int:
    """A launcher's environment variable; one without a value counts as not set.

    Raises:
        ConfigError: it is no whole number from 0 on.
    """
    given = os.environ.get(name, "").strip()
    if not given:
        return default
    if not given.isascii() or not given.isdigit():
        raise ConfigError(
            f"{name} = {given!r} is no whole number. `torchrun` and `accelerate launch` set it: start finsent by one of them, or "
            "unset it."
        )
    return int(given)
