"""Readers of the formats that sources come in. A bad row is passed on with its fault; only a bad file raises."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from finsent.data.contract import Rejection, shorten
from finsent.data.delimited import Torn, records
from finsent.data.sources import HUB, RawRow, SourceFile, Wanted
from finsent.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH: Final = 4096
_HEAD: Final = 8192
_MAGIC: Final = {
    b"PAR1": "Parquet",
    b"PK\x03\x04": "ZIP (or Excel)",
    b"\x89PNG": "PNG",
    b"%PDF": "PDF",
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "Zstandard",
    b"SQLite format 3": "SQLite",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"ARROW1": "Arrow",
    b"\xd0\xcf\x11\xe0": "Excel",
}
_CONTROL: Final = bytes(code for code in range(32) if code not in b"\t\n\r\f\x1b")


def read(file: SourceFile, wanted: Wanted) -> Iterator[list[RawRow]]:
    """Rows of a file, in batches.

    Raises:
        InputError: the file is empty, binary, cut short, or lacks a column. Raised at the first batch where that shows there;
            a damage further in shows when it is reached, so read everything before writing anything.
    """
    rows = 0
    for batch in _READERS[file.format](file, wanted):
        rows += len(batch)
        yield batch
    if not rows:
        raise InputError(f"{file.uri!r} has no rows. Give a file with at least one row under its columns.")


def _read_csv(file: SourceFile, wanted: Wanted) -> Iterator[list[RawRow]]:
    delimiter = "\t" if file.format == "tsv" else ","
    with _opened(file) as stream:
        # bytes that are not UTF-8 become lone surrogates, which the contract then finds in their row
        lines = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        found = records(lines, delimiter, file.uri)
        first = next(found, [])
        header = [name.strip() for name in first] if isinstance(first, list) else []
        columns = wanted.choose(header, file.uri)
        places = {role: header.index(column) for role, column in columns.items()}
        rows = (
            RawRow(number, record.text, fault=Rejection("malformed row", record.why))
            if isinstance(record, Torn)
            else _csv_row(record, number, len(header), places)
            for number, record in enumerate((record for record in found if record), start=1)
        )
        while batch := list(islice(rows, BATCH)):
            yield batch


def _csv_row(record: list[str], number: int, width: int, places: Mapping[str, int]) -> RawRow:
    if len(record) < width or any(record[width:]):
        found = " | ".join(record)
        fault = Rejection(
            "malformed row", f"{len(record)} fields under {width} columns (an unquoted delimiter?): {shorten(found)!r}"
        )
        return RawRow(number, text=found, fault=fault)
    values = {role: record[place] for role, place in places.items()}
    return _row(number, values)


def _read_jsonl(file: SourceFile, wanted: Wanted) -> Iterator[list[RawRow]]:
    with _opened(file) as stream:
        lines = (line for line in stream if line.strip())
        # column names come from the first batch: JSON lines have no header
        first = [_parse_line(line) for line in islice(lines, BATCH)]
        found = list(dict.fromkeys(key for value in first if isinstance(value, dict) for key in value))
        if first and not found:
            raise InputError(
                f'{file.uri!r} is not JSON lines: none of its first {len(first)} lines is an object like {{"text": ...}}.'
            )
        if not first:
            return
        columns = wanted.choose(found, file.uri)
        number = 0
        parsed = chain(first, (_parse_line(line) for line in lines))
        while values := list(islice(parsed, BATCH)):
            yield [_json_row(value, number + index, columns) for index, value in enumerate(values, start=1)]
            number += len(values)


def _parse_line(line: bytes) -> Any:
    """The line's JSON value, or what is wrong with the line."""
    try:
        value = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError as error:
        return Rejection("bad encoding", f"byte {error.object[error.start]:#04x} is not UTF-8, in {shorten(repr(line))}")
    except (ValueError, RecursionError) as error:
        return Rejection("malformed row", f"not JSON ({error}): {shorten(repr(line))}")
    if not isinstance(value, dict):
        return Rejection("malformed row", f"not an object but {type(value).__name__}: {shorten(repr(line))}")
    return value


def _json_row(value: Any, number: int, columns: Mapping[str, str]) -> RawRow:
    if isinstance(value, Rejection):
        return RawRow(number, fault=value)
    return _row(number, {role: value.get(column) for role, column in columns.items()})


def _read_parquet(file: SourceFile, wanted: Wanted) -> Iterator[list[RawRow]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.uri) as parquet:
            columns = wanted.choose(parquet.schema_arrow.names, file.uri)
            number = 0
            for batch in parquet.iter_batches(BATCH, columns=list(dict.fromkeys(columns.values()))):
                yield _arrow_rows(batch, columns, number)
                number += batch.num_rows
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.uri!r} cannot be read as Parquet: {shorten(str(error), 200)}. Write it anew, or correct its name."
        ) from error


def _read_hub(file: SourceFile, wanted: Wanted) -> Iterator[list[RawRow]]:
    import datasets

    if file.source is None:
        raise InputError(f"{file.uri!r}: a Hub dataset is read through a configured source.")
    address = file.uri.removeprefix(HUB)
    try:
        loaded = datasets.load_dataset(address, split=file.source.split, revision=file.source.revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise InputError(
            f"the dataset {file.uri!r} (revision {file.source.revision!r}, split {file.source.split!r}) cannot be read: "
            f"{shorten(str(error), 300)}. Check name, revision, split and network; a local folder in the Hub's layout works too."
        ) from error
    columns = wanted.choose(loaded.column_names, file.uri)
    label = loaded.features.get(columns.get("label", ""))
    names = label.names if isinstance(label, datasets.ClassLabel) and file.source.labels is None else None
    number = 0
    for table in loaded.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow").iter(BATCH):
        for batch in table.combine_chunks().to_batches():
            rows = _arrow_rows(batch, columns, number)
            number += batch.num_rows
            # the dataset itself says what its ids mean, so that nothing is guessed
            yield [_named(row, names) for row in rows] if names else rows


def _named(row: RawRow, names: Sequence[str]) -> RawRow:
    known = isinstance(row.label, int) and 0 <= row.label < len(names)
    return RawRow(row.number, row.text, names[cast("int", row.label)] if known else row.label, row.created_at, row.id, row.fault)


def _arrow_rows(batch: "pa.RecordBatch", columns: Mapping[str, str], before: int) -> list[RawRow]:
    values = {role: _arrow_values(batch.column(batch.schema.get_field_index(column))) for role, column in columns.items()}
    return [_row(before + index + 1, {role: column[index] for role, column in values.items()}) for index in range(batch.num_rows)]


def _arrow_values(array: "pa.Array") -> list[object]:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = array.cast(pa.large_binary())  # decoded here: one bad value must not cost its whole batch
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in array.to_pylist()]
    return cast("list[object]", array.to_pylist())


def _row(number: int, values: Mapping[str, object]) -> RawRow:
    return RawRow(number, values.get("text"), values.get("label"), values.get("created_at"), values.get("id"))


@contextmanager
def _opened(file: SourceFile) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked; damage in them and files that are not text become an InputError."""
    import pyarrow as pa

    try:
        with _unpacked(file) as stream:
            _refuse_binary(stream.peek(_HEAD)[:_HEAD], file.uri)
            yield cast("BinaryIO", stream)
    except (EOFError, zlib.error, OSError, pa.ArrowException) as error:
        raise InputError(
            f"{file.uri!r} is damaged or cut short, or not what its name says: {error}. Get the file anew."
        ) from error


@contextmanager
def _unpacked(file: SourceFile) -> "Iterator[io.BufferedReader[Any]]":
    import pyarrow as pa

    with Path(file.uri).open("rb") as plain:
        if file.compression == "gzip":
            with io.BufferedReader(cast("io.RawIOBase", gzip.GzipFile(fileobj=plain)), 1 << 16) as stream:
                yield stream
        elif file.compression == "zstd":
            with io.BufferedReader(
                cast("io.RawIOBase", pa.CompressedInputStream(pa.PythonFile(plain), "zstd")), 1 << 16
            ) as stream:
                yield stream
        else:
            yield plain


def _refuse_binary(head: bytes, uri: str) -> None:
    if not head:
        raise InputError(f"{uri!r} is empty. Give a file with column names and rows.")
    kind = next((name for magic, name in _MAGIC.items() if head.startswith(magic)), None)
    control = len(head) - len(head.translate(None, _CONTROL))
    if kind or control > max(1, len(head) // 100):
        raise InputError(
            f"{uri!r} is not a text file but {kind or 'binary'}. Give UTF-8 text, or a file whose name tells its format."
        )


_READERS: Final[Mapping[str, Callable[[SourceFile, Wanted], Iterator[list[RawRow]]]]] = {
    "csv": _read_csv,
    "tsv": _read_csv,
    "jsonl": _read_jsonl,
    "parquet": _read_parquet,
    "hub": _read_hub,
}
