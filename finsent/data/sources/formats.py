"""Readers of the formats that sources come in. A bad row is passed on with its fault; only a bad file raises."""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, cast

from finsent.data.sources import database
from finsent.data.sources.csv_reader import MalformedLine, parse_records
from finsent.data.sources.decode import byte_lines, open_text, text_lines
from finsent.data.sources.parquet import BATCH_ROWS, arrow_rows, read_parquet, row
from finsent.data.sources.resolve import HUB, RawRow, RequestedColumns, SourceFile
from finsent.data.validation.row_validation import Rejection, shorten
from finsent.errors import InputError

_BATCH_CHARS: Final = 16 * 1024 * 1024


def read_rows(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    """Rows of a file, in batches.

    Raises:
        InputError: the file is empty, binary, cut short, or lacks a column. Raised at the first batch where that shows there;
            a damage further in shows when it is reached, so read everything before writing anything.
    """
    rows = 0
    for batch in _READERS[file.format](file, wanted):
        rows += len(batch)
        yield batch
    if not rows and file.source is not None and file.format == "sql":
        query = shorten(file.source.query or "", 200)
        raise InputError(f"{file.uri!r}: the query {query!r} has no rows. Look at its WHERE and JOIN, and at the database.")
    if not rows:
        raise InputError(f"{file.uri!r} has no rows. Give a file with at least one row under its columns.")


def _read_csv(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    delimiter = "\t" if file.format == "tsv" else ","
    with open_text(file) as (stream, encoding):
        found = parse_records(text_lines(stream, encoding, file.uri), delimiter, file.uri)
        first = next((record for record in found if record), [])
        header = [name.strip() for name in first] if isinstance(first, list) else []
        columns = wanted.select(header, file.uri)
        places = {role: header.index(column) for role, column in columns.items()}
        rows = (
            RawRow(number, record.text, fault=Rejection("malformed row", record.why))
            if isinstance(record, MalformedLine)
            else _csv_row(record, number, len(header), places)
            for number, record in enumerate((record for record in found if record), start=1)
        )
        yield from _batches((found, len(found.text) if isinstance(found.text, str) else 0) for found in rows)


def _batches(rows: Iterable[tuple[RawRow, int]]) -> Iterator[list[RawRow]]:
    """Rows, given with the characters that each was read from: so many that they stay small."""
    batch: list[RawRow] = []
    characters = 0
    for found, size in rows:
        batch.append(found)
        characters += size
        if len(batch) == BATCH_ROWS or characters > _BATCH_CHARS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _csv_row(record: list[str], number: int, width: int, places: Mapping[str, int]) -> RawRow:
    if len(record) < width or any(record[width:]):
        found = " | ".join(record)
        fault = Rejection(
            "malformed row", f"{len(record)} fields under {width} columns (an unquoted delimiter?): {shorten(found)!r}"
        )
        return RawRow(number, text=found, fault=fault)
    values = {role: record[place] for role, place in places.items()}
    return row(number, values)


def _read_jsonl(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    with open_text(file) as (stream, encoding):
        lines = (line for line in byte_lines(stream, encoding, file.uri) if line.strip())
        # column names come from the first lines: JSON lines have no header
        first, size = [], 0
        for line in islice(lines, BATCH_ROWS):
            first.append((_parse_line(line), len(line)))
            size += len(line)
            if size > _BATCH_CHARS:
                break
        found = list(dict.fromkeys(key for value, _ in first if isinstance(value, dict) for key in value))
        if first and not found:
            raise InputError(
                f'{file.uri!r} is not JSON lines: none of its first {len(first)} lines is an object like {{"text": ...}}.'
            )
        if not first:
            return
        columns = wanted.select(found, file.uri)
        parsed = chain(first, ((_parse_line(line), len(line)) for line in lines))
        yield from _batches((_json_row(value, number, columns), size) for number, (value, size) in enumerate(parsed, start=1))


def _parse_line(line: bytes) -> Any:
    """The line's JSON value, or what is wrong with the line."""
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
    return row(number, {role: value.get(column) for role, column in columns.items()})


def _read_hub(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
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
    columns = wanted.select(loaded.column_names, file.uri)
    label = loaded.features.get(columns.get("label", ""))
    names = label.names if isinstance(label, datasets.ClassLabel) and file.source.labels is None else None
    number = 0
    for table in loaded.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow").iter(BATCH_ROWS):
        for batch in table.combine_chunks().to_batches():
            rows = arrow_rows(batch, columns, number)
            number += batch.num_rows
            # the dataset itself says what its ids mean, so that nothing is guessed
            yield [_with_label_name(row, names) for row in rows] if names else rows


def _with_label_name(row: RawRow, names: Sequence[str]) -> RawRow:
    known = isinstance(row.label, int) and 0 <= row.label < len(names)
    return RawRow(row.number, row.text, names[cast("int", row.label)] if known else row.label, row.created_at, row.id, row.fault)


def _read_database(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    if file.source is None:
        raise InputError(f"{file.uri!r}: a database is read through a configured source.")
    file.seen.clear()
    digest = database.RowDigest()
    places: dict[str, int] = {}
    for names, part in database.stream_rows(file.source):
        if not places:
            places = {role: names.index(column) for role, column in wanted.select(names, file.uri).items()}
        batch = []
        for record in part:
            values = {role: record[place] for role, place in places.items()}
            digest.add(tuple(values.values()))
            batch.append(row(digest.rows, values))
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
