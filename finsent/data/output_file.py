"""Result files: Parquet, CSV or JSON Lines by their ending, written table by table, and there once they are whole."""

import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from finsent.errors import InputError, did_you_mean, escape_control
from finsent.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS: Final = (".parquet", ".csv", ".jsonl", ".ndjson")
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n")  # what spreadsheets take for the start of a formula and may run
_NO_LINKS: Final = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}  # of FAT, and of some network and FUSE folders


def require_new_output(path: Path) -> None:
    """Check where results are to go, before any work is done for them.

    Raises:
        InputError: it is there already, its folder is not, its ending is another one, it cannot be written, or another process
            is writing it.
    """
    with _told(path):
        _require_free(path)
        with _part_file(path):
            pass


def write_output(path: Path, schema: "pa.Schema", parts: Iterable["pa.Table"]) -> int:
    """Write the rows of some tables of this schema into a new file, one table in memory at a time; returns their number.

    Written is a hidden file beside it, which gets its name once it is on the disk: killed at any moment and run again, the file
    is whole or not there. What somebody else gave that name meanwhile stays.

    Raises:
        InputError: see `require_new_output`.
    """
    count = 0
    with _told(path):
        _require_free(path)
    with new_file(path) as file:
        for table in _written(file, path.suffix.lower(), schema, parts):
            count += len(table)
    return count


@contextmanager
def new_file(path: Path) -> Iterator[IO[bytes]]:
    """A file to write to that is at `path` once it is whole and on the disk; never over another one.

    Raises:
        InputError: it is there already, it cannot be written, or another process is writing it.
    """
    with _told(path):
        with _part_file(path) as (part, file):
            yield file
            file.flush()
            os.fsync(file.fileno())
            _give_name(part, path)
        sync(path.parent)


def csv_cell(value: str) -> str:
    """The value as spreadsheets and terminals may show it.

    What a spreadsheet would run as a formula gets a leading apostrophe, and what would act on a terminal is escaped.
    """
    shown = escape_control(value)
    return "'" + shown if shown.startswith(_FORMULA) else shown


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except FileExistsError as error:
        raise InputError(f"--out {str(path)!r} is there already. Name another file, or remove it.") from error
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}. Nothing is there.") from error


def _require_free(path: Path) -> None:
    shown = repr(str(path))
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"--out {shown}: the ending {path.suffix!r} is none that is written. Name a file that ends in {', '.join(ENDINGS)}."
        )
    if not path.parent.is_dir():
        near = [item.name for item in path.parent.parent.iterdir()] if path.parent.parent.is_dir() else []
        hint = did_you_mean(path.parent.name, near)
        raise InputError(f"--out {shown}: there is no folder {str(path.parent)!r}. Make it, or name another.{hint}")
    _require_absent(path)


def _require_absent(path: Path) -> None:
    with suppress(FileNotFoundError):
        path.lstat()  # a name that is too long for the folder fails here
        raise FileExistsError(path)


@contextmanager
def _part_file(path: Path) -> Iterator[tuple[Path, IO[bytes]]]:
    """A new file in the folder of `path` to write to, locked as long as it is written; removed at the end.

    Its name is of one length, whatever that of `path`, and cannot be foreseen: nobody's link, pipe or file is opened.
    """
    start = f".finsent-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"
    _clear(path, re.compile(re.escape(start) + r"[0-9a-f]{16}\.part"))
    while True:
        part = path.with_name(f"{start}{secrets.token_hex(8)}.part")
        with part.open("x+b") as file:
            try:
                if not _lock(file) or os.fstat(file.fileno()).st_nlink == 0:
                    continue  # another process took it for a leftover before it was locked
                yield part, file
            finally:
                with suppress(OSError):
                    part.unlink()
        return


def _clear(path: Path, pattern: re.Pattern[str]) -> None:
    """Remove what killed runs of this user left of `path`; see `_part_file`."""
    for part in [item for item in path.parent.iterdir() if pattern.fullmatch(item.name)]:
        with suppress(FileNotFoundError, PermissionError):
            found = part.lstat()
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid():
                continue
            with os.fdopen(os.open(part, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK), "r+b") as file:
                if not _lock(file):
                    raise InputError(f"another process is writing {str(path)!r}. Wait for it, or name another file.")
                part.unlink()


def _lock(file: IO[bytes]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give_name(part: Path, path: Path) -> None:
    """Name the finished file, not over another one."""
    try:
        path.hardlink_to(part)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _require_absent(path)
        part.rename(path)


def _written(file: IO[bytes], ending: str, schema: "pa.Schema", parts: Iterable["pa.Table"]) -> Iterator["pa.Table"]:
    """Each table once it is written."""
    if ending in (".jsonl", ".ndjson"):
        for table in parts:
            # in ASCII, so that nothing of a text acts on the terminal that shows the file
            lines = (json.dumps(row, default=_iso).replace("\x7f", "\\u007f") for row in table.to_pylist())
            file.writelines(f"{line}\n".encode() for line in lines)
            yield table
        return
    import pyarrow as pa
    from pyarrow import csv, parquet

    if ending == ".csv":
        marked = pa.schema([field.with_name(csv_cell(field.name)) for field in schema])
        with csv.CSVWriter(file, marked) as lines:
            for table in parts:
                lines.write_table(pa.Table.from_arrays([_marked(column) for column in table.cast(schema).columns], schema=marked))
                yield table
        return
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in parts:
            writer.write_table(table.cast(schema))
            yield table


def _marked(column: "pa.ChunkedArray") -> "pa.ChunkedArray":
    import pyarrow as pa

    if not pa.types.is_string(column.type):
        return column
    values = column.to_pylist()
    cells = {value: csv_cell(value) for value in set(values) - {None}}
    return pa.chunked_array([pa.array(map(cells.get, values), column.type)])


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
