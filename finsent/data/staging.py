"""Rows on their way in: written to local disk as they are read, so that memory holds what they are compared by and no text.

A spool is a folder with two Arrow files, readable rows and rejected ones, mapped into memory when they are read back. It lives
for one ingestion. A folder that a killed one left behind is removed by the next: nothing in it is needed again.
"""

import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finsent.config import DataConfig
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import Signatures, concat_signatures, empty_signatures, make_signatures
from finsent.data.rows import Quarantined, Row
from finsent.labels import LABEL2ID

_BATCH: Final = 16_384
_LOCK: Final = "lock"
_TIME: Final = pa.timestamp("us", tz="UTC")
_READABLE: Final = pa.schema(
    [
        ("file", pa.int32()),
        ("source", pa.string()),
        ("place", pa.string()),
        ("number", pa.int64()),
        ("id", pa.string()),
        ("text", pa.string()),
        ("template", pa.string()),
        ("label", pa.string()),
        ("created_at", _TIME),
        ("flags", pa.string()),
    ]
)
_REJECTED: Final = pa.schema(
    [(name, pa.string()) for name in ("source", "place", "text", "reason", "detail", "id", "label")]
    + [("number", pa.int64()), ("file", pa.int32())]
)


@dataclass(frozen=True)
class StagedRows:
    """Readable rows, numbered from 0 in the order that they were read in; what they are compared by, in memory."""

    ids: pa.StringArray
    labels: npt.NDArray[np.int8]
    """Label ids [N]."""
    sources: pa.DictionaryArray
    times: Int64
    """Microseconds since 1970 in UTC [N]; the least number there is where a row has no time."""
    signatures: Signatures
    rows: "pa.ipc.RecordBatchFileReader | None"
    rejected: "pa.ipc.RecordBatchFileReader | None"
    starts: Int64
    """Number of the first row of each batch, and at last how many rows there are."""
    inputs: tuple[str, ...] = ()
    """Identity of each file that rows came from, see `finsent.data.quarantine.input_identity`; empty where nobody asks."""

    def __len__(self) -> int:
        return len(self.ids)


NO_TIME: Final = int(np.iinfo(np.int64).min)


@dataclass
class StagingWriter:
    """Takes rows while they are read."""

    folder: Path
    config: DataConfig
    readable: list[Row] = field(default_factory=list)
    rejected: list[Quarantined] = field(default_factory=list)
    _readable_from: list[int] = field(default_factory=list)
    _rejected_from: list[int] = field(default_factory=list)
    _parts: list[tuple[pa.StringArray, npt.NDArray[np.int8], pa.StringArray, Int64, Signatures]] = field(default_factory=list)
    _files: dict[str, Any] = field(default_factory=dict)

    def add(self, readable: Sequence[Row], rejected: Sequence[Quarantined], file: int = 0) -> None:
        """Take some rows of the file with this number, from 0; they reach the disk in larger batches."""
        self.readable += readable
        self._readable_from += [file] * len(readable)
        self.rejected += rejected
        self._rejected_from += [file] * len(rejected)
        if len(self.readable) >= _BATCH:
            self._write_readable()
        if len(self.rejected) >= _BATCH:
            self._write_rejected()

    def finish(self, inputs: Sequence[str] = ()) -> StagedRows:
        """Everything taken, for reading; `inputs` are the identities of the files, known once they were read to their end."""
        self._write_readable()
        self._write_rejected()
        for stream in self._files.values():
            stream.close()
        files = {name: pa.ipc.open_file(pa.memory_map(str(self.folder / name))) for name in self._files}
        ids, labels, sources, times, signatures = zip(*self._parts, strict=True) if self._parts else ((),) * 5
        return StagedRows(
            ids=pa.concat_arrays([pa.array([], pa.string()), *ids]),
            labels=np.concatenate([np.zeros(0, np.int8), *labels]),
            sources=pa.concat_arrays([pa.array([], pa.string()), *sources]).dictionary_encode(),
            times=np.concatenate([np.zeros(0, np.int64), *times]),
            signatures=concat_signatures([empty_signatures(self.config), *signatures]),
            rows=files.get("readable"),
            rejected=files.get("rejected"),
            starts=np.cumsum([0, *(len(part) for part in ids)]),
            inputs=tuple(inputs),
        )

    def _write_readable(self) -> None:
        rows = self.readable
        if not rows:
            return
        ids, sources = pa.array([row.id for row in rows], pa.string()), pa.array([row.source for row in rows], pa.string())
        created_at = pa.array([row.created_at for row in rows], _TIME)
        columns = [
            self._readable_from,
            sources,
            [row.place for row in rows],
            [row.number for row in rows],
            ids,
            [row.text for row in rows],
            [row.forms.template for row in rows],
            [row.label for row in rows],
            created_at,
            [row.flags for row in rows],
        ]
        self._write("readable", columns, _READABLE)
        labels = np.fromiter((LABEL2ID[row.label] for row in rows), np.int8, len(rows))
        times = created_at.cast(pa.int64()).fill_null(NO_TIME).to_numpy()
        self._parts.append((ids, labels, sources, times, make_signatures([row.forms for row in rows], self.config)))
        self.readable.clear()
        self._readable_from.clear()

    def _write_rejected(self) -> None:
        if self.rejected:
            columns = [[getattr(row, name) for row in self.rejected] for name in _REJECTED.names if name != "file"]
            self._write("rejected", [*columns, self._rejected_from], _REJECTED)
            self.rejected.clear()
            self._rejected_from.clear()

    def _write(self, name: str, columns: Sequence[Any], schema: pa.Schema) -> None:
        if name not in self._files:
            self._files[name] = pa.ipc.new_file(str(self.folder / name), schema)
        self._files[name].write_batch(pa.record_batch(columns, schema=schema))


@contextmanager
def open_staging(parent: Path, config: DataConfig) -> Iterator[StagingWriter]:
    """A spool in a new folder under `parent`, removed at the end, together with those that killed runs left.

    Folders that were made for it go too, if they are empty: a mistyped path leaves nothing behind.
    """
    from filelock import FileLock

    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    parent.mkdir(parents=True, exist_ok=True)
    _remove_left(parent)
    # locked before it gets the name under which others may find it, so that nobody takes it for one that was left
    hidden, folder = parent / f".{uuid.uuid4().hex}", parent / uuid.uuid4().hex
    hidden.mkdir()
    held = FileLock(hidden / _LOCK)
    held.acquire()
    hidden.rename(folder)
    try:
        yield StagingWriter(folder, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        held.release()
        for empty_folder in made:
            if empty_folder.exists() and not any(empty_folder.iterdir()):
                with suppress(OSError):  # somebody else just put something in
                    empty_folder.rmdir()


def _remove_left(parent: Path) -> None:
    from filelock import FileLock, Timeout

    for left in parent.glob("[!.]*"):
        try:
            with FileLock(left / _LOCK, timeout=0):
                shutil.rmtree(left, ignore_errors=True)
        except (Timeout, OSError):
            continue  # its run is alive, or has just removed it


def column(spooled: StagedRows, name: str, rows: Int64) -> list[Any]:
    """Values of one column for the given rows, in their order."""
    if spooled.rows is None or not len(rows):
        return []
    order = np.argsort(rows, kind="stable")
    wanted = rows[order]
    batch_of = np.searchsorted(spooled.starts, wanted, side="right") - 1
    parts = []
    for batch in np.unique(batch_of):
        places = wanted[batch_of == batch] - spooled.starts[batch]
        parts.append(spooled.rows.get_batch(int(batch)).column(name).take(pa.array(places)))
    values = pa.concat_arrays(parts).to_pylist()
    inverse = np.empty(len(order), np.int64)
    inverse[order] = np.arange(len(order))
    return [values[place] for place in inverse]


def rejected_rows(spooled: StagedRows) -> Iterator[Quarantined]:
    """Rows that could not be read, in the order that they were met in."""
    for batch in range(spooled.rejected.num_record_batches if spooled.rejected is not None else 0):
        for row in spooled.rejected.get_batch(batch).to_pylist():  # type: ignore[union-attr]  # the range is empty without it
            file = row.pop("file")
            yield Quarantined(**row, input=input_of(spooled, file))


def input_of(spooled: StagedRows, file: int) -> str | None:
    """Identity of the file with this number, as far as `Spool.finish` was told."""
    return spooled.inputs[file] if spooled.inputs else None


def readable_batches(spooled: StagedRows) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches of readable rows, each with the number of its first row."""
    for batch in range(spooled.rows.num_record_batches if spooled.rows is not None else 0):
        yield int(spooled.starts[batch]), spooled.rows.get_batch(batch)  # type: ignore[union-attr]  # as above
