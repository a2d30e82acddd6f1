"""Result files: Parquet, CSV or JSON Lines by their ending, written table by table, and there once they are whole."""

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from finsent.errors import InputError, did_you_mean
from finsent.files import sync

if TYPE_CHECKING:
    import pyarrow as pa

ENDINGS: Final = (".parquet", ".csv", ".jsonl", ".ndjson")


def require_new_output(path: Path) -> None:
    """Check where results are to go, before any work is done for them.

    Raises:
        InputError: it is there already, its folder is not, or its ending is another one.
    """
    shown = repr(str(path))
    if path.suffix.lower() not in ENDINGS:
        raise InputError(
            f"--out {shown}: the ending {path.suffix!r} is none that is written. Name a file that ends in {', '.join(ENDINGS)}."
        )
    if path.exists() or path.is_symlink():
        raise InputError(f"--out {shown} is there already. Name another file, or remove it.")
    if not path.parent.is_dir():
        near = [item.name for item in path.parent.parent.iterdir()] if path.parent.parent.is_dir() else []
        hint = did_you_mean(path.parent.name, near)
        raise InputError(f"--out {shown}: there is no folder {str(path.parent)!r}. Make it, or name another.{hint}")


def write_output(path: Path, schema: "pa.Schema", parts: Iterable["pa.Table"]) -> int:
    """Write the rows of some tables of this schema into a new file, one table in memory at a time; returns their number.

    Written is a hidden file beside it, `.NAME.part`, which gets its name once it is on the disk: killed at any moment and run
    again, the file is whole or not there.

    Raises:
        InputError: see `require_new_output`; or it cannot be written, or another process is writing it.
    """
    require_new_output(path)
    part, count = path.with_name(f".{path.name}.part"), 0
    try:
        with _exclusive(part, path) as file:
            for table in _written(file, path.suffix.lower(), schema, parts):
                count += len(table)
            file.flush()
            os.fsync(file.fileno())
            require_new_output(path)
            part.rename(path)
        sync(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}. Nothing is there.") from error
    return count


@contextmanager
def _exclusive(part: Path, path: Path) -> Iterator[IO[bytes]]:
    """The file to write to, empty, and locked against others who would write the same; removed if that fails."""
    with part.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as taken:
            raise InputError(f"another process is writing {str(path)!r}. Wait for it, or name another file.") from taken
        file.truncate(0)  # what a killed run left
        try:
            yield file
        except BaseException:
            with suppress(OSError):
                part.unlink()
            raise


def _written(file: IO[bytes], ending: str, schema: "pa.Schema", parts: Iterable["pa.Table"]) -> Iterator["pa.Table"]:
    """Each table once it is written."""
    if ending in (".jsonl", ".ndjson"):
        for table in parts:
            # in ASCII, so that nothing of a text acts on the terminal that shows the file
            lines = (json.dumps(row, default=_iso).replace("\x7f", "\\u007f") for row in table.to_pylist())
            file.writelines(f"{line}\n".encode() for line in lines)
            yield table
        return
    from pyarrow import csv, parquet

    with csv.CSVWriter(file, schema) if ending == ".csv" else parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for table in parts:
            writer.write_table(table.cast(schema))
            yield table


def _iso(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
