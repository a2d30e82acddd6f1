"""Lists what the sources of the inbox hold, and which files nobody is writing any more.

Nobody watches a scheduled run, so that one bad file, folder or link is a fault of its own here and the others go on, where
`resolve` would refuse the whole source.
"""

import glob
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Final, NamedTuple

from finsent.config import Source
from finsent.data.sources import s3
from finsent.data.sources.formats import fingerprint_file
from finsent.data.sources.records import SourceFile, format_suffix
from finsent.data.sources.resolve import file_of, find_paths, glob_paths, holds_files, read_suffixes, resolve
from finsent.environ import absolute_path
from finsent.errors import FinsentError, InputError, ServiceError, causes
from finsent.machine_faults import describe

_TEMPORARY: Final = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")
_OBJECT_SETTLED: Final = 60.0  # seconds; stores give times to the second, and their clocks are not ours

OnFault = Callable[[str, str], None]
"""Is told the address and what is wrong with it."""


class Arrival(NamedTuple):
    """A file, object, query or dataset of a source. A tuple to save memory: a folder may hold 100,000."""

    uri: str
    stamp: str | None
    """Differs whenever the content may have changed, and costs no reading; None where only the content itself can tell."""
    modified: float | None
    """Seconds since 1970, by the clock of its file system; None for what is complete as soon as it can be seen."""


def list_arrivals(source: Source, on_fault: OnFault) -> Iterator[Arrival]:
    """What a source holds now, in order of the addresses; none is no fault of a folder or glob.

    Files being written under a temporary name, hidden ones, and what is no file (a pipe, a folder called x.csv) are passed over.

    Raises:
        InputError: the source itself is wrong or may not be read.
        ServiceError: its store does not answer.
    """
    if not holds_files(source):
        yield Arrival(source.uri, None, None)
    elif source.uri.startswith(s3.S3):
        for item in s3.list_objects(source.uri, allow_none=True):
            if not is_temporary(item.path):
                settled = abs(time.time() - item.mtime_ns / 1e9) > _OBJECT_SETTLED
                yield Arrival(s3.S3 + item.path, f"{item.size}:{item.mtime_ns}" if settled else None, None)
    else:
        try:
            for path in _local_paths(source, on_fault):
                if (found := _look_at(path, on_fault)) is not None:
                    yield found
        except OSError as error:
            raise InputError(f"{source.uri!r} cannot be accessed: {error.strerror}. Check path and permissions.") from error


def is_temporary(path: str) -> bool:
    """Whether the name says that the file is not ready: hidden, or as editors, browsers and copying programs name theirs."""
    name = PurePath(path).name.lower()
    return name.startswith((".", "~")) or name.endswith(_TEMPORARY)


def _local_paths(source: Source, on_fault: OnFault) -> Iterator[str]:
    uri, suffixes = source.uri, read_suffixes(source)
    path = absolute_path(uri, "source") if uri.startswith(("~", "file:")) else Path(uri)
    if path.is_dir():
        yield from (found for found in _walk(path, on_fault) if format_suffix(found) in suffixes and not is_temporary(found))
    elif glob.has_magic(uri) and not path.exists():
        _list_folders(path, on_fault)
        yield from (found for found in glob_paths(path, _telling(on_fault)) if not is_temporary(found))
    else:
        yield from find_paths(uri)


def _list_folders(pattern: Path, on_fault: OnFault) -> None:
    """List what a pattern looks into before a `**`: `glob` takes a folder that is gone or may not be read for an empty one."""
    parts = pattern.parts
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    os.scandir(Path(*parts[:first])).close()
    for end in range(first + 1, len(parts)):
        if parts[end - 1] == "**":
            return
        for folder in glob.glob(str(Path(*parts[:end]))) if glob.has_magic(parts[end]) else ():  # noqa: PTH207
            try:
                os.scandir(folder).close()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                _telling(on_fault)(error)


def _telling(on_fault: OnFault) -> Callable[[OSError], None]:
    def failed(error: OSError) -> None:
        on_fault(str(error.filename), f"the folder cannot be listed: {error.strerror}. Check its permissions.")

    return failed


def _walk(folder: Path, on_fault: OnFault) -> Iterator[str]:
    def failed(error: OSError) -> None:
        if error.filename == str(folder):
            raise error
        _telling(on_fault)(error)

    for root, folders, names in os.walk(folder, onerror=failed):  # enters no folder by a link
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(root, name) for name in sorted(names))  # noqa: PTH118 - 100,000 of them


def _look_at(path: str, on_fault: OnFault) -> Arrival | None:
    """The file there; None if it vanished or is no regular file, which is never opened: reading a pipe would block."""
    try:
        found = os.stat(path)  # noqa: PTH116
    except OSError as error:
        if os.path.lexists(path):
            target = f"a link to {os.readlink(path)!r}" if os.path.islink(path) else "not to be read"  # noqa: PTH114, PTH115
            on_fault(path, f"it is {target}: {error.strerror}. Repair or remove it.")
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    return Arrival(path, f"{found.st_size}:{found.st_mtime_ns}:{found.st_ctime_ns}:{found.st_ino}", found.st_mtime)


def is_unchanged(arrival: Arrival) -> bool:
    """Whether a local file is the one that was listed, by size, times and inode; true of all else, which readers check."""
    if arrival.modified is None:
        return True
    found = _look_at(arrival.uri, lambda *_: None)
    return found is not None and found.stamp == arrival.stamp


def seconds_to_settle(arrivals: Sequence[Arrival], seconds: float, now: float) -> list[float]:
    """For how long each file must still be watched; 0 for those that have rested for `seconds`.

    A time of writing that lies ahead of our clock says nothing: such a file is watched for the whole of `seconds`.
    """
    ages = [seconds if item.modified is None else now - item.modified for item in arrivals]
    return [max(0.0, seconds - max(age, 0.0)) for age in ages]


def arriving_file(source: Source, uri: str) -> SourceFile:
    """The file at an address that was listed, as readers take it: it may have been cut, or have no rows yet.

    Raises:
        InputError: its ending is not understood, or the source is wrong.
    """
    file = file_of(source, uri, several=uri != source.uri) if holds_files(source) else resolve(source)[0]
    return replace(file, arriving=True)


def content_identity(file: SourceFile) -> str | None:
    """What stays the same under another name or time and differs for other content: SHA-256, ETag or commit.

    With the format that a file is read in, since its name decides that: whoever corrects the name has it read again.
    None for a query, whose result is known once it was read, and for a dataset whose commit is not known.

    Raises:
        InputError: it cannot be read.
        ServiceError: the store does not answer.
    """
    if file.format == "sql":
        return None
    if file.format == "hub":
        return None if file.source.revision is None else f"revision:{file.uri}@{file.source.revision}"
    read_as = ".".join(filter(None, (file.format, file.compression)))
    if not file.uri.startswith(s3.S3):
        return f"sha256:{fingerprint_file(file)['sha256']}:{read_as}"
    return f"etag:{s3.find_etag(file.uri)}:{read_as}"


def is_about_content(source: Source, error: Exception) -> bool:
    """Whether an error comes from what a file holds, and will come again; not from access, memory, disk, network or store.

    Of a query or a dataset only a missing column will: their libraries have many ways to say that they found nothing.
    """
    for cause in causes(error):
        is_of_store = isinstance(cause, OSError) and "AWS Error" in str(cause)  # which has no number
        if isinstance(cause, ServiceError) or is_of_store:
            return False
        if not isinstance(cause, FinsentError) and describe(cause) is not None:
            return False
    return holds_files(source) or (isinstance(error, InputError) and error.__cause__ is None)
