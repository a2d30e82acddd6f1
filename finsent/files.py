"""Writing files and folders so that a crash leaves the old content or the new one, and locks between processes."""

import errno
import json
import logging
import math
import os
import socket
import stat
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from finsent.errors import CheckFailed, FinsentError, InputError

_log = logging.getLogger(__name__)

_SILENT_SECONDS = 10.0


def atomic_write(path: Path, content: str | bytes, mode: int = 0o666) -> None:
    """Replace the file's content: a temporary file in the same folder is written, synced and renamed over `path`.

    Makes the folder if it is missing. Text is written as UTF-8. The umask takes from `mode`, the file's permissions.
    """
    make_folder(path.parent)
    data = content.encode("utf-8") if isinstance(content, str) else content
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with open(temporary, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync(path.parent)


def make_folder(folder: Path) -> None:
    """Make the folder and what is missing above it, none of it open to every user of the machine.

    Where all may enter the folder above, the topmost new one, such as a home, is this user's alone, or its group's where the
    folder above hands its group down (setgid). Elsewhere the umask decides: that is a home, closed or shared on purpose.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    if missing:
        above = missing[-1].parent.stat().st_mode
        private = 0o770 if above & stat.S_ISGID else 0o700
        missing[-1].mkdir(mode=private if above & stat.S_IXOTH else 0o777, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)


def close_to_others(home: Path) -> bool:
    """Take a home of ours that all users of the machine may enter away from them; whether there was one to close.

    Its group stays where it is another than this user's own: then somebody shares it on purpose. A folder that holds more than a
    home, such as the working folder, is left as it is.
    """
    with suppress(OSError):  # the working folder was deleted
        if home in (Path.cwd(), *Path.cwd().parents):
            return False
    if not (home / "locks").is_dir():
        return False
    found = home.stat()
    if found.st_uid != os.geteuid() or not found.st_mode & stat.S_IRWXO:
        return False
    shared = found.st_mode & stat.S_ISGID or found.st_gid != os.getegid()
    try:
        home.chmod(stat.S_IMODE(found.st_mode) & (0o7770 if shared else 0o7700))
    except OSError:  # mounted read only, or a network share with rules of its own: `finsent doctor` reports it
        return False
    return True


def share_with_group(file: Path) -> None:
    """Let the group of a folder that is shared with it (setgid, see `make_folder`) write the file: SQLite makes its own 0644."""
    shared, wanted = stat.S_ISGID | stat.S_IWGRP, stat.S_IRGRP | stat.S_IWGRP
    with suppress(OSError):  # not there, or another user's, whose next use does it
        if file.parent.stat().st_mode & shared == shared and file.stat().st_mode & wanted != wanted:
            file.chmod(stat.S_IMODE(file.stat().st_mode) | wanted)


def is_read_only(folder: Path) -> bool:
    """Whether the folder is there and nothing can be written to it: a mount for reading, or another user's."""
    return folder.is_dir() and not os.access(folder, os.W_OK)


def sync(path: Path) -> None:
    """Flush what was written to a file, or a folder itself: a new or renamed file's name must survive a power cut as well.

    Network shares (CIFS, FUSE) that cannot flush a folder say EINVAL or ENOTSUP: their names are the server's to keep.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP} or not path.is_dir():
            raise
    finally:
        os.close(handle)


@contextmanager
def locked(
    path: Path,
    timeout: float,
    message: str,
    error: type[FinsentError] = CheckFailed,
    *,
    purpose: str = "",
    while_waiting: Callable[[], None] | None = None,
) -> Iterator[None]:
    """Hold the lock file `path`, exclusive between processes; it is freed when its process ends, however that happens.

    A process that is frozen (SIGSTOP) holds it on. Who holds it is written into the file, for the message of whoever waits.

    Args:
        path: The lock file; its folder is made if missing.
        timeout: Seconds to wait for another process, which is said after `_SILENT_SECONDS`; -1 waits without limit.
        message: What to tell the user when it is not obtained; who holds it is added.
        error: What is raised then.
        purpose: What it is held for; left out, this process's command or flow run.
        while_waiting: Called every `_SILENT_SECONDS` of waiting; what it raises ends that.
    """
    from filelock import FileLock, Timeout

    make_folder(path.parent)
    lock, deadline, said = FileLock(path), time.monotonic() + timeout if timeout >= 0 else math.inf, False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=min(max(deadline - time.monotonic(), 0.0), _SILENT_SECONDS))
        except Timeout as timed_out:
            holder = lock_holder(path) or ""
            if time.monotonic() >= deadline:
                raise error(f"{message} {holder}".strip()) from timed_out
            if not said:
                _log.warning("waiting for the lock %s. %s", path, holder or "Another process holds it.")
            said = True
            if while_waiting is not None:
                while_waiting()
    with suppress(OSError):  # a full disk: it is held all the same, by nobody in particular
        path.write_text(json.dumps(asdict(_this_process(purpose))), encoding="utf-8")
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock."""

    pid: int
    host: str
    since: str
    """UTC."""
    purpose: str

    @property
    def is_stopped(self) -> bool:
        """Whether it is a process of this machine that is frozen by a signal (SIGSTOP, Ctrl-Z) or a debugger."""
        import psutil

        try:
            stopped = psutil.Process(self.pid).status() in {psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP}
        except psutil.Error:
            return False
        return stopped and self.host == socket.gethostname()

    def __str__(self) -> str:
        """A sentence for messages."""
        there = "" if self.host == socket.gethostname() else f" on {self.host}"
        said = f"Process {self.pid}{there} ({self.purpose}) has held it since {self.since}"
        if self.is_stopped:
            return f"{said} and is stopped: `kill -CONT {self.pid}` lets it go on, `kill -KILL {self.pid}` ends it."
        return f"{said}."


def lock_holder(path: Path) -> LockHolder | None:
    """Who holds a lock that is held; None where that is not known."""
    try:
        return LockHolder(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _this_process(purpose: str) -> LockHolder:
    run = os.environ.get("PREFECT__FLOW_RUN_ID")
    command = " ".join([Path(sys.argv[0]).name, *(part for part in sys.argv[1:2] if part.isalpha())])
    what = ", ".join(filter(None, (purpose or (command if not run else ""), f"flow run {run}" if run else "")))
    return LockHolder(os.getpid(), socket.gethostname(), datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC"), what)


def disk_use(path: Path) -> int:
    """Bytes that a file, or the files of a folder, take; a file with several names counts once."""
    seen: dict[tuple[int, int], int] = {}
    inside = (Path(folder, name) for folder, folders, files in os.walk(path) for name in (*folders, *files))
    for file in (path, *inside):
        with suppress(FileNotFoundError):  # removed meanwhile; `rglob` would raise for a folder
            found = file.lstat()
            seen[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(seen.values())


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
