"""Writing files and folders so that a crash leaves the old content or the new one, and locks between processes."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finsent.errors import CheckFailed, FinsentError, InputError


def atomic_write(path: Path, content: str | bytes) -> None:
    """Replace the file's content: a temporary file in the same folder is written, synced and renamed over `path`.

    Makes the folder if it is missing. Text is written as UTF-8.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def is_read_only(folder: Path) -> bool:
    """Whether the folder is there and nothing can be written to it: a mount for reading, or another user's."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def sync_folder(folder: Path) -> None:
    """Flush the folder itself: a new or renamed file's name must survive a power cut as well as its content."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Flush what a library wrote to the file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def locked(path: Path, timeout: float, message: str, error: type[FinsentError] = CheckFailed) -> Iterator[None]:
    """Hold the lock file `path`, exclusive between processes; it is freed when its process ends, however that happens.

    Args:
        path: The lock file; its folder is made if missing.
        timeout: Seconds to wait for another process; -1 waits without limit.
        message: What to tell the user when it is not obtained.
        error: What is raised then.
    """
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=timeout)
    except Timeout as timed_out:
        raise error(message) from timed_out
    try:
        yield
    finally:
        lock.release()


def require_empty_dir(folder: Path) -> None:
    """Refuse a target that holds anything.

    Raises:
        InputError: it exists and is not an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{str(folder)!r} exists and is not an empty folder. Name a new one.")


def move_into_place(made: Path, folder: Path) -> None:
    """Move what was made to its place in one rename; see `require_empty_dir`."""
    if folder.exists():
        folder.rmdir()
    made.rename(folder)
