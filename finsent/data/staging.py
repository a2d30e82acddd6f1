"""Staging area of an ingestion: rows are written to local disk as they are read, so that memory holds no text.

A staging area is a folder. Each source that is read gets a subfolder with two Arrow files, readable and rejected rows, which are
mapped into memory when they are read back. The folder lives for one ingestion; the next one removes what a killed run left.
"""

import shutil
import time
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
from finsent.data.sources.records import QuarantinedRow, Row
from finsent.files import locked, make_folder
from finsent.labels import LABEL2ID

NO_TIME: Final = int(np.iinfo(np.int64).min)
_BATCH: Final = 16_384
_LOCK: Final = "lock"
_TIME: Final = pa.timestamp("us", tz="UTC")
_READABLE: Final = pa.schema(
    [(name, pa.string()) for name in ("source", "place", "id", "text", "template", "label", "flags", "source_id")]
    + [("number", pa.int64()), ("created_at", _TIME), ("file", pa.int32())]
)
_REJECTED: Final = pa.schema(
    [(name, pa.string()) for name in ("source", "place", "text", "reason", "detail", "id", "label")]
    + [("number", pa.int64()), ("file", pa.int32())]
)


@dataclass(frozen=True)
class StagedRows:
    """Readable rows, numbered from 0 in reading order; in memory is only what they are compared by."""

    ids: pa.StringArray
    labels: npt.NDArray[np.int8]
    """Label ids [N]."""
    sources: pa.DictionaryArray
    times: Int64
    """Microseconds since 1970 in UTC [N]; NO_TIME where a row has none."""
    signatures: Signatures
    batches: tuple[pa.RecordBatch, ...]
    """The readable rows, mapped from disk. The column `input` is the identity of the file that a row came from, see
    `finsent.data.quarantine.input_identity`."""
    rejected: tuple[pa.RecordBatch, ...]
    """Rows that could not be read, likewise."""

    def __len__(self) -> int:
        return len(self.ids)

    def numbered_batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches of readable rows, each with the number of its first row."""
        start = 0
        for batch in self.batches:
            yield start, batch
            start += batch.num_rows

    def column(self, name: str, rows: Int64) -> list[Any]:
        """Values of one column for the given rows, in their order."""
        order = np.argsort(rows, kind="stable")
        values: list[Any] = []
        for start, batch in self.numbered_batches():
            first, last = np.searchsorted(rows, (start, start + batch.num_rows), sorter=order)
            if last > first:
                values += batch.column(name).take(pa.array(rows[order[first:last]] - start)).to_pylist()
        return [values[place] for place in np.argsort(order, kind="stable")]

    def rejected_rows(self) -> Iterator[QuarantinedRow]:
        """Rows that could not be read, in reading order."""
        for batch in self.rejected:
            for row in batch.to_pylist():
                yield QuarantinedRow(**row)


def concat_staged(parts: Sequence[StagedRows], config: DataConfig) -> StagedRows:
    """The rows of several sources, in order."""
    return StagedRows(
        ids=pa.concat_arrays([pa.array([], pa.string()), *(part.ids for part in parts)]),
        labels=np.concatenate([np.zeros(0, np.int8), *(part.labels for part in parts)]),
        sources=pa.concat_arrays(
            [pa.array([], pa.string()), *(part.sources.cast(pa.string()) for part in parts)]
        ).dictionary_encode(),
        times=np.concatenate([np.zeros(0, np.int64), *(part.times for part in parts)]),
        signatures=concat_signatures([empty_signatures(config), *(part.signatures for part in parts)]),
        batches=tuple(batch for part in parts for batch in part.batches),
        rejected=tuple(batch for part in parts for batch in part.rejected),
    )


@dataclass
class StagingWriter:
    """Takes the rows of one source while it is read."""

    folder: Path
    config: DataConfig
    _readable: list[tuple[Row, int]] = field(default_factory=list)
    _rejected: list[tuple[QuarantinedRow, int]] = field(default_factory=list)
    _parts: list[StagedRows] = field(default_factory=list)
    _files: dict[str, Any] = field(default_factory=dict)

    def add(self, readable: Sequence[Row], rejected: Sequence[QuarantinedRow], file: int = 0) -> None:
        """Take some rows of the file with this number, from 0; they reach the disk in larger batches."""
        self._readable += ((row, file) for row in readable)
        self._rejected += ((row, file) for row in rejected)
        if len(self._readable) >= _BATCH:
            self._write_readable()
        if len(self._rejected) >= _BATCH:
            self._write_rejected()

    def finish(self, inputs: Sequence[str | None] = (None,)) -> StagedRows:
        """All rows taken, for reading; `inputs` are the identities of the files by number, known once they were read whole."""
        self._write_readable()
        self._write_rejected()
        identities = pa.array(inputs, pa.string())

        def mapped(name: str) -> tuple[pa.RecordBatch, ...]:
            if name not in self._files:
                return ()
            self._files[name].close()
            reader = pa.ipc.open_file(pa.memory_map(str(self.folder / name)))
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            return tuple(
                batch.drop_columns("file").append_column("input", pa.DictionaryArray.from_arrays(batch["file"], identities))
                for batch in batches
            )

        rows = concat_staged(self._parts, self.config)
        return StagedRows(
            rows.ids, rows.labels, rows.sources, rows.times, rows.signatures, mapped("readable"), mapped("rejected")
        )

    def _write_readable(self) -> None:
        if not self._readable:
            return
        rows = [row for row, _ in self._readable]
        columns = {name: [getattr(row, name) for row in rows] for name in _READABLE.names if name not in {"template", "file"}}
        columns |= {"template": [row.forms.template for row in rows], "file": [file for _, file in self._readable]}
        batch = pa.record_batch(columns, schema=_READABLE)
        self._write("readable", batch)
        labels = np.fromiter((LABEL2ID[row.label] for row in rows), np.int8, len(rows))
        times = batch["created_at"].cast(pa.int64()).fill_null(NO_TIME).to_numpy()
        signatures = make_signatures([row.forms for row in rows], self.config)
        self._parts.append(StagedRows(batch["id"], labels, batch["source"].dictionary_encode(), times, signatures, (), ()))
        self._readable.clear()

    def _write_rejected(self) -> None:
        if not self._rejected:
            return
        columns = {name: [getattr(row, name) for row, _ in self._rejected] for name in _REJECTED.names if name != "file"}
        columns["file"] = [file for _, file in self._rejected]
        self._write("rejected", pa.record_batch(columns, schema=_REJECTED))
        self._rejected.clear()

    def _write(self, name: str, batch: pa.RecordBatch) -> None:
        if name not in self._files:
            self._files[name] = pa.ipc.new_file(str(self.folder / name), batch.schema)
        self._files[name].write_batch(batch)


@dataclass(frozen=True)
class Staging:
    """The staging area of one ingestion."""

    folder: Path
    config: DataConfig
    started: float
    """`time.monotonic()` when it was opened."""

    @contextmanager
    def writer(self) -> Iterator[StagingWriter]:
        """A writer for one source. What it wrote is removed if reading fails, so that reading can be tried again."""
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        try:
            yield StagingWriter(folder, self.config)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


@contextmanager
def open_staging(parent: Path, config: DataConfig) -> Iterator[Staging]:
    """A staging area in a new folder under `parent`, removed at the end, together with those that killed runs left.

    Parent folders that had to be created are removed too if they are empty: a mistyped path leaves nothing behind.
    """
    started = time.monotonic()
    created = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    make_folder(parent)
    remove_abandoned(parent)
    # locked before it gets its visible name, so that no other run takes it for an abandoned one
    hidden, folder = parent / f".{uuid.uuid4().hex}", parent / uuid.uuid4().hex
    hidden.mkdir()
    try:
        with locked(hidden / _LOCK, -1, "another ingestion holds the staging folder"):
            hidden.rename(folder)
            try:
                yield Staging(folder, config, started)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
    finally:
        for empty_folder in created:
            if empty_folder.exists() and not any(empty_folder.iterdir()):
                with suppress(OSError):  # another run just put something in
                    empty_folder.rmdir()


def remove_abandoned(parent: Path) -> None:
    """Remove the staging areas of killed runs; one that is in use is locked."""
    from filelock import FileLock, Timeout

    for folder in parent.glob("[!.]*"):
        try:
            with FileLock(folder / _LOCK, timeout=0):
                shutil.rmtree(folder, ignore_errors=True)
        except (Timeout, OSError):
            continue  # its run is alive, or has just removed it
