"""Reads the rows of a source file in any format, and fingerprints what was read.

A bad row is passed on with its fault; only a bad file raises.
"""

import hashlib
import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from itertools import chain, count, islice
from pathlib import PurePath
from typing import Any, Final, TypeVar

from finsent.config import Source
from finsent.data.sources import database, decode, s3
from finsent.data.sources.csv_layout import (
    LOOKED_AT,
    TITLE_ROWS,
    column_names,
    find_delimiter,
    pass_titles,
    require_table,
    split_lines,
)
from finsent.data.sources.csv_reader import MAY_BE_CUT, MalformedLine, parse_records
from finsent.data.sources.decode import byte_lines, open_text, text_lines
from finsent.data.sources.encodings import decodable_lines, explain_document
from finsent.data.sources.json_document import is_document, nested_paths, read_values, value_at
from finsent.data.sources.parquet import BATCH_ROWS, arrow_rows, read_parquet, usable_names, with_label_name
from finsent.data.sources.records import TEXT_COLUMN, RawRow, RequestedColumns, SourceFile, absent_column
from finsent.data.sources.resolve import HUB
from finsent.data.sources.workbook import read_sheet
from finsent.data.validation.dates import is_missing
from finsent.data.validation.row_validation import Rejection
from finsent.errors import InputError, ServiceError, escape_invalid, preview_hint, quoted, shorten

_BATCH_CHARS: Final = 16 * 1024 * 1024
_OF_TABLES: Final = ("skip_rows", "header", "columns")
_OPTIONS: Final = {
    "csv": ("delimiter", "encoding", *_OF_TABLES),
    "tsv": ("delimiter", "encoding", *_OF_TABLES),
    "jsonl": ("encoding", "records"),
    "json": ("encoding", "records"),
    "text": ("encoding", "skip_rows"),
    "excel": ("sheet", *_OF_TABLES),
}
"""Options of a source that its format has a use for."""
_LOOKED_AT: Final = 200
_SHOWN: Final = 3
_SEPARATOR_LINE: Final = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)

T = TypeVar("T")
MakeRow = Callable[..., RawRow]


def read_rows(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    """Rows of a file, in batches.

    Raises:
        InputError: the file is empty, binary, cut short, or lacks a column. Damage further into the file raises when it is
            reached, so read everything before writing anything.
    """
    _check_options(file)
    rows = 0
    for batch in _read_explained(file, wanted):
        if file.limit is not None and rows + len(batch) >= file.limit:
            yield batch[: file.limit - rows]
            return
        rows += len(batch)
        yield batch
    if rows or file.arriving:
        return
    if file.format == "sql":
        query = shorten(file.source.query or "", 200)
        raise InputError(f"{file.uri!r}: the query {query!r} has no rows. Check its WHERE and JOIN, and the database.")
    raise InputError(f"{file.uri!r} has no rows. Give a file with at least one row under its columns.")


def _read_explained(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    """Rows of a file; where it lacks a column, the error has some values of those that it has, and how to look at it."""
    try:
        yield from _READERS[file.format](file, wanted)
    except InputError as error:
        if not wanted.absent or file.format in ("sql", "hub"):
            raise
        role, seen = wanted.absent[0], list[str]()
        examples = {} if file.arriving else _examples(file, seen)
        better = absent_column(file.uri, role, wanted.required[role], seen, examples) if examples else error
        raise InputError(f"{better} {preview_hint(file.uri)}") from error


def _examples(file: SourceFile, names: list[str]) -> dict[str, list[object]]:
    """Up to three different values of each column, from the first rows; none where they cannot be read. Fills in the `names`."""
    wanted = RequestedColumns({}, every=True)
    try:
        rows = [row.values or {} for batch in read_rows(replace(file, limit=_LOOKED_AT, seen={}), wanted) for row in batch]
    except InputError:
        return {}
    names[:] = wanted.seen_columns
    return {name: _distinct(row.get(name) for row in rows) for name in names}


def _distinct(values: Iterable[object]) -> list[object]:
    shown = {str(value): value for value in values if not is_missing(value) and not isinstance(value, dict | list | Rejection)}
    return list(shown.values())[:_SHOWN]


def _check_options(file: SourceFile) -> None:
    """Refuse options that say nothing about files of this format: ignored, they would leave the user with other rows."""
    used = _OPTIONS.get(file.format, ())
    for name in ("delimiter", "encoding", "skip_rows", "header", "columns", "records", "sheet"):
        value = getattr(file.source, name)
        if name not in used and value != Source.model_fields[name].default:
            option = "no-header" if name == "header" else name.replace("_", "-")
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
        lines = decodable_lines(text_lines(stream, encoding, file.uri), encoding, file)
        lines = islice(lines, file.source.skip_rows, None)
        start = next(lines, "")
        stated = _SEPARATOR_LINE.fullmatch(start)  # Excel's own way to say what separates
        if stated is not None:
            start = next(lines, "")
        head = [start, *islice(lines, LOOKED_AT if wanted.every or not file.source.header else TITLE_ROWS)]
        delimiter = stated[1] if stated is not None and file.source.delimiter is None else find_delimiter(file, head, wanted)
        wanted.layout.update({"encoding": encoding}, **({} if stated is not None else {"delimiter": delimiter}))
        require_table(head, delimiter, file)
        lines = chain(head[pass_titles(split_lines(head, delimiter), file, wanted) :], lines)
        records = (record for record in parse_records(lines, delimiter, file.uri, may_be_cut=file.arriving) if record)
        first = next(records, [])
        if file.arriving and isinstance(first, MalformedLine):
            raise InputError(f"{file.uri!r} has no line of column names: {first.why}. Get the file again.")
        header = column_names(first if isinstance(first, list) else [], file, wanted)
        if not file.source.header:
            records = (record for record in chain([first], records))
        columns = wanted.select(header, file.uri)
        positions = {role: header.index(column) for role, column in columns.items()}
        make_row = wanted.make_row
        rows = (_csv_row(record, number, header, positions, make_row) for number, record in enumerate(records, start=1))
        yield from _batches((row, len(row.text) if isinstance(row.text, str) else 0) for row in rows)


def _csv_row(
    record: list[str] | MalformedLine, number: int, header: list[str], positions: Mapping[str, int], make_row: MakeRow
) -> RawRow:
    if isinstance(record, MalformedLine):
        return RawRow(number, record.text, fault=Rejection("malformed row", record.why))
    if record[0].strip() == header[0] and [field.strip() for field in record] == header:
        detail = "the column names again, as where files were put together"
        return RawRow(number, " | ".join(record), fault=Rejection("malformed row", detail))
    if len(record) < len(header) or any(record[len(header) :]):
        text = " | ".join(record)
        detail = f"{len(record)} fields under {len(header)} columns (an unquoted delimiter?): {shorten(text)!r}"
        return RawRow(number, text, fault=Rejection("malformed row", detail))
    return make_row(number, {role: record[position] for role, position in positions.items()})


def _read_text(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    if "label" in wanted.required:
        raise InputError(
            f"{file.uri!r}: each of its lines is a tweet, and none has a label. Say the class of all: --label-value CLASS, or "
            "--label CLASS=FILE for each of several files; or, to have them scored: --inbox."
        )
    with open_text(file) as (stream, encoding):
        wanted.layout["encoding"] = encoding
        roles = wanted.select([TEXT_COLUMN], file.uri)
        lines = decodable_lines(text_lines(stream, encoding, file.uri), encoding, file)
        lines = (line for line in islice(lines, file.source.skip_rows, None) if line.strip())
        yield from _batches((_text_row(line, n, file, roles, wanted), len(line)) for n, line in enumerate(lines, start=1))


def _text_row(line: str, number: int, file: SourceFile, roles: Mapping[str, str], wanted: RequestedColumns) -> RawRow:
    if file.arriving and not line.endswith(("\n", "\r")):
        return RawRow(number, line, fault=Rejection("malformed row", f"the last line, without a line end: {MAY_BE_CUT}"))
    return wanted.make_row(number, dict.fromkeys(roles, line.strip()))


def _read_jsonl(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    with open_text(file) as (stream, encoding):
        wanted.layout["encoding"] = encoding
        if file.format == "json" or file.source.records or is_document(_head(stream, encoding)):
            yield from _read_document(file, stream, encoding, wanted)
            return
        lines = (line for line in decodable_lines(byte_lines(stream, encoding, file.uri), encoding, file) if line.strip())
        batches = _batches((_parse_line(line), len(line)) for line in lines)
        first = next(batches, [])
        if not first:
            return
        # JSON lines have no header: column names come from the first batch
        found = _json_columns(first, wanted)
        if not found:
            arrays = all(isinstance(value, Rejection) and "but list:" in value.detail for value in first)
            hint = " Its lines are arrays; of such of objects `jq -c '.[]' FILE` makes JSON lines." if arrays else ""
            if any(isinstance(value, Rejection) and "b\"{'" in value.detail for value in first):
                code = "import ast, json, sys; [print(json.dumps(ast.literal_eval(line))) for line in sys.stdin if line.strip()]"
                hint = (
                    f" Its lines are Python's dictionaries: python -c {shlex.quote(code)} < FILE > FILE.jsonl makes JSON lines."
                )
            raise InputError(
                f'{file.uri!r} is not JSON lines: none of its first {len(first)} lines is an object like {{"text": ...}}.{hint}'
            )
        columns, numbers = wanted.select(found, file.uri), count(1)
        for batch in chain([first], batches):
            yield [_json_row(value, next(numbers), columns, wanted.make_row) for value in batch]


def _json_columns(rows: Sequence[Any], wanted: RequestedColumns) -> list[str]:
    """Keys of the first rows, and paths below them where a column that is asked for is not among the keys, or all are."""
    found = list(dict.fromkeys(key for value in rows if isinstance(value, dict) for key in value))
    missing = set(wanted.required.values()) - set(found)
    if not missing and not wanted.every:
        return found
    # a path may lead through a list, too: `labels.0.name`
    reached = (path for path in missing if any(isinstance(row, dict) and value_at(row, path) is not None for row in rows))
    return list(dict.fromkeys([*found, *nested_paths(rows), *reached]))


def _head(stream: Any, encoding: str) -> bytes:
    """The first bytes, as UTF-8."""
    head: bytes = stream.peek(1 << 16)[: 1 << 16]
    return head if encoding == "utf-8" else head.decode(encoding, "ignore").encode("utf-8", "ignore")


def _read_document(file: SourceFile, stream: Any, encoding: str, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    head = _head(stream, encoding)
    if file.format == "json" and not file.source.records and not is_document(head) and b"\n" in head.strip():
        lines = decodable_lines(byte_lines(stream, encoding, file.uri), encoding, file)
        values = ((_parse_line(line), len(line)) for line in lines if line.strip())
        yield from _read_values(values, file, wanted)
        return
    rows = read_values(stream, encoding, file.uri, file.source.records, list(wanted.required.values()))
    try:
        yield from _read_values(rows, file, wanted)
    except InputError as error:
        why = explain_document(file.uri, head, error.__cause__) if encoding == "utf-8" and file.source.encoding is None else None
        if why is not None:
            raise why from error
        raise


def _read_values(values: Iterable[tuple[Any, int]], file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    batches = _batches(values)
    first = next(batches, [])
    if not first:
        return
    if not (found := _json_columns(first, wanted)):
        shown = first[0].detail if isinstance(first[0], Rejection) else quoted(first[0])
        raise InputError(f"{file.uri!r}: its rows are no objects with columns, but such as {shown}. Give a list of objects.")
    columns, numbers = wanted.select(found, file.uri), count(1)
    for batch in chain([first], batches):
        yield [_json_row(value, next(numbers), columns, wanted.make_row) for value in batch]


def _read_workbook(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    rows = read_sheet(file, wanted.layout)
    head = list(islice(rows, TITLE_ROWS))
    records: Iterator[list[Any]] = chain(head[pass_titles(head, file, wanted) :], rows)
    first = next(records, [])
    header = column_names(first, file, wanted)
    columns = wanted.select(header, file.uri)
    positions = {role: header.index(column) for role, column in columns.items()}
    numbered = enumerate(records if file.source.header else chain([first], records), start=1)
    yield from _batches(
        (wanted.make_row(number, {role: row[at] if at < len(row) else None for role, at in positions.items()}), 1000)
        for number, row in numbered
    )


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


def _json_row(value: Any, number: int, columns: Mapping[str, str], make_row: MakeRow) -> RawRow:
    if isinstance(value, Rejection):
        return RawRow(number, fault=value)
    if not isinstance(value, dict):
        fault = Rejection("malformed row", f"not an object but {type(value).__name__}: {quoted(value)}")
        return RawRow(number, fault=fault)
    values = {role: value_at(value, column) for role, column in columns.items()}
    return make_row(number, values, *_tweet_of(value, columns.get("text", "")))


def _tweet_of(value: Mapping[str, Any], column: str) -> list[Mapping[str, Any]]:
    """The objects that the text of a row is of: the one within it that has the text, and the row itself."""
    parent = "" if column in value else column.rpartition(".")[0]
    inner = value_at(value, parent) if parent else None
    return [inner, value] if isinstance(inner, Mapping) else [value]


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
    names = usable_names(label.names if isinstance(label, datasets.ClassLabel) else None, file.source.labels)
    number = 0
    for table in loaded.select_columns(list(dict.fromkeys(columns.values()))).with_format("arrow").iter(BATCH_ROWS):
        for batch in table.combine_chunks().to_batches():
            rows = arrow_rows(batch, columns, number, wanted.make_row)
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
            batch.append(wanted.make_row(digest.rows, values))
        if batch:
            yield batch
    file.seen.update(rows=digest.rows, sha256=digest.hexdigest())


_READERS: Final[Mapping[str, Callable[[SourceFile, RequestedColumns], Iterator[list[RawRow]]]]] = {
    "csv": _read_csv,
    "tsv": _read_csv,
    "jsonl": _read_jsonl,
    "json": _read_jsonl,
    "text": _read_text,
    "excel": _read_workbook,
    "parquet": read_parquet,
    "hub": _read_hub,
    "sql": _read_database,
}
