"""Reads the rows of a source file in any format, and fingerprints what was read.

A bad row is passed on with its fault; only a bad file raises.
"""

import csv
import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from http import HTTPStatus
from itertools import chain, count
from pathlib import PurePath
from typing import Any, Final, TypeVar

from finsent.config import Source
from finsent.data.sources import database, decode, s3
from finsent.data.sources.csv_reader import MalformedLine, parse_records
from finsent.data.sources.decode import byte_lines, open_text, text_lines
from finsent.data.sources.parquet import BATCH_ROWS, arrow_rows, read_parquet, with_label_name
from finsent.data.sources.records import RawRow, RequestedColumns, SourceFile
from finsent.data.sources.resolve import HUB
from finsent.data.validation.row_validation import Rejection
from finsent.errors import InputError, ServiceError, escape_invalid, shorten

_log = logging.getLogger(__name__)

_BATCH_CHARS: Final = 16 * 1024 * 1024
_FILE_FORMATS: Final = ("csv", "tsv", "jsonl", "parquet")
_OPTIONS: Final = {"csv": ("delimiter", "encoding"), "tsv": ("delimiter", "encoding"), "jsonl": ("encoding",)}
"""Options of a source that its format has a use for."""
_DELIMITERS: Final = (",", "\t", ";", "|", "\x01")
"""Tried where the usual one does not give the columns asked for: spreadsheets, databases and Hive write these."""

T = TypeVar("T")


def read_rows(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    """Rows of a file, in batches.

    Raises:
        InputError: the file is empty, binary, cut short, or lacks a column. Damage further into the file raises when it is
            reached, so read everything before writing anything.
    """
    _check_options(file)
    rows = 0
    for batch in _READERS[file.format](file, wanted):
        rows += len(batch)
        yield batch
    if rows or file.arriving:
        return
    if file.format == "sql":
        query = shorten(file.source.query or "", 200)
        raise InputError(f"{file.uri!r}: the query {query!r} has no rows. Check its WHERE and JOIN, and the database.")
    raise InputError(f"{file.uri!r} has no rows. Give a file with at least one row under its columns.")


def _check_options(file: SourceFile) -> None:
    """Refuse options that say nothing about files of this format: ignored, they would leave the user with other rows."""
    if file.format not in _READERS:
        raise InputError(f"{file.uri!r}: the format {file.format!r} is not read. Give {', '.join(_FILE_FORMATS)}.")
    used = _OPTIONS.get(file.format, ())
    for name in ("delimiter", "encoding", "header", "columns", "records", "sheet"):
        value = getattr(file.source, name)
        if name not in used and value != Source.model_fields[name].default:
            option = "no-header" if name == "header" else name
            raise InputError(
                f"{file.uri!r}: `{name}` (--{option}) is given and has no effect on the format {file.format}. Leave it out."
            )


def fingerprint_file(file: SourceFile) -> dict[str, str | int]:
    """What was read, for the record of the ingestion. Call it once the file has been read to its end.

    Of a file: name, size, SHA-256 and, of text, encoding; of an S3 object also its ETag; of a Hub dataset: its commit; of a
    database: hash of the query, number of rows and a hash of them that does not depend on their order.

    Raises:
        InputError: it can no longer be read, or the query has not been read to its end.
    """
    if file.format == "hub":
        return {"name": file.name, "uri": file.uri, "revision": file.source.revision or "not known"}
    if file.format == "sql":
        if "sha256" not in file.seen:
            raise InputError(f"{file.uri!r}: the query has not been read to its end, so its rows have no fingerprint.")
        query = hashlib.sha256((file.source.query or "").encode("utf-8", "backslashreplace")).hexdigest()
        return {"name": file.name, "uri": file.uri, "query_sha256": query, **file.seen}
    uri = file.uri if file.uri.startswith(s3.S3) else escape_invalid(PurePath(file.uri).name)
    return {"name": file.name, "uri": uri, **decode.fingerprint(file)}


def _batches(items: Iterable[tuple[T, int]]) -> Iterator[list[T]]:
    """Items, given with the characters that each was read from, in batches of bounded size."""
    batch: list[T] = []
    characters = 0
    for item, size in items:
        batch.append(item)
        characters += size
        if len(batch) == BATCH_ROWS or characters > _BATCH_CHARS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _read_csv(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    with open_text(file) as (stream, encoding):
        lines = text_lines(stream, encoding, file.uri)
        start = next(lines, "")
        delimiter, lines = _find_delimiter(file, start, wanted), chain([start], lines)
        records = (record for record in parse_records(lines, delimiter, file.uri, may_be_cut=file.arriving) if record)
        first = next(records, [])
        if file.arriving and isinstance(first, MalformedLine):
            raise InputError(f"{file.uri!r} has no line of column names: {first.why}. Get the file again.")
        header = [name.strip() for name in first] if isinstance(first, list) else []
        columns = wanted.select(header, file.uri)
        positions = {role: header.index(column) for role, column in columns.items()}
        rows = (_csv_row(record, number, len(header), positions) for number, record in enumerate(records, start=1))
        yield from _batches((row, len(row.text) if isinstance(row.text, str) else 0) for row in rows)


def _find_delimiter(file: SourceFile, header: str, wanted: RequestedColumns) -> str:
    """The delimiter that was given; else the one by the file's ending, unless only another gives the columns asked for."""
    if file.source.delimiter is not None:
        return file.source.delimiter
    usual = "\t" if file.format == "tsv" else ","
    if file.source.format != "auto":
        return usual
    for delimiter in (usual, *(mark for mark in _DELIMITERS if mark != usual)):
        try:
            names = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error:
            continue
        if names and set(wanted.required.values()) <= set(names):
            if delimiter != usual:
                _log.warning("%r is separated by %r: read as that (--delimiter)", file.uri, delimiter)
            return delimiter
    return usual


def _csv_row(record: list[str] | MalformedLine, number: int, width: int, positions: Mapping[str, int]) -> RawRow:
    if isinstance(record, MalformedLine):
        return RawRow(number, record.text, fault=Rejection("malformed row", record.why))
    if len(record) < width or any(record[width:]):
        text = " | ".join(record)
        detail = f"{len(record)} fields under {width} columns (an unquoted delimiter?): {shorten(text)!r}"
        return RawRow(number, text, fault=Rejection("malformed row", detail))
    return RawRow.from_values(number, {role: record[position] for role, position in positions.items()})


def _read_jsonl(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    with open_text(file) as (stream, encoding):
        lines = (line for line in byte_lines(stream, encoding, file.uri) if line.strip())
        batches = _batches((_parse_line(line), len(line)) for line in lines)
        first = next(batches, [])
        if not first:
            return
        # JSON lines have no header: column names come from the first batch
        found = list(dict.fromkeys(key for value in first if isinstance(value, dict) for key in value))
        if not found:
            raise InputError(
                f'{file.uri!r} is not JSON lines: none of its first {len(first)} lines is an object like {{"text": ...}}.'
            )
        columns, numbers = wanted.select(found, file.uri), count(1)
        for batch in chain([first], batches):
            yield [_json_row(value, next(numbers), columns) for value in batch]


def _parse_line(line: bytes) -> Any:
    """The line's JSON object, or a `Rejection`."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        return Rejection("bad encoding", f"byte {error.object[error.start]:#04x} is not UTF-8, in {shorten(repr(line[:200]))}")
    except (ValueError, RecursionError) as error:
        return Rejection("malformed row", f"not JSON ({error}): {shorten(repr(line[:200]))}")
    if not isinstance(value, dict):
        return Rejection("malformed row", f"not an object but {type(value).__name__}: {shorten(repr(line[:200]))}")
    return value


def _json_row(value: Any, number: int, columns: Mapping[str, str]) -> RawRow:
    if isinstance(value, Rejection):
        return RawRow(number, fault=value)
    return RawRow.from_values(number, {role: value.get(column) for role, column in columns.items()})


def _read_hub(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    import datasets
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # see `resolve`

    address = file.uri.removeprefix(HUB)
    try:
        loaded = datasets.load_dataset(address, split=file.source.split, revision=file.source.revision)
    except (OSError, ValueError, RuntimeError, HTTPError, datasets.exceptions.DatasetsError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        lost = isinstance(error, ConnectionError | TimeoutError | HTTPError) and "OfflineMode" not in str(error)
        outage = lost and (status is None or status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR)
        raise (ServiceError if outage else InputError)(
            f"the dataset {file.uri!r} (revision {file.source.revision!r}, split {file.source.split!r}) cannot be read: "
            f"{shorten(str(error), 300)}. Check name, revision, split and network; a local folder in the Hub's layout works too."
        ) from error
    columns = wanted.select(loaded.column_names, file.uri)
    label = loaded.features.get(columns.get("label", ""))
    # a ClassLabel column names its own ids, so that nothing is guessed
    names = label.names if isinstance(label, datasets.ClassLabel) and file.source.labels is None else None
    number = 0
    for table in loaded.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow").iter(BATCH_ROWS):
        for batch in table.combine_chunks().to_batches():
            rows = arrow_rows(batch, columns, number)
            number += batch.num_rows
            yield [with_label_name(row, names) for row in rows] if names else rows


def _read_database(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    file.seen.clear()
    digest = database.RowDigest()
    positions: dict[str, int] = {}
    for names, records in database.stream_rows(file.source):
        if not positions:
            positions = {role: names.index(column) for role, column in wanted.select(names, file.uri).items()}
        batch = []
        for record in records:
            values = {role: record[position] for role, position in positions.items()}
            digest.add(tuple(values.values()))
            batch.append(RawRow.from_values(digest.rows, values))
        if batch:
            yield batch
    file.seen.update(rows=digest.rows, sha256=digest.hexdigest())


_READERS: Final[Mapping[str, Callable[[SourceFile, RequestedColumns], Iterator[list[RawRow]]]]] = {
    "csv": _read_csv,
    "tsv": _read_csv,
    "jsonl": _read_jsonl,
    "parquet": read_parquet,
    "hub": _read_hub,
    "sql": _read_database,
}
