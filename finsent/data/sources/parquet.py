"""Reads Parquet files and Arrow batches. A bad value costs its row only; memory is bounded by the largest values."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from finsent.data.sources import s3
from finsent.data.sources.arrow_paths import column_at, nested_fields, require_no_list, require_values
from finsent.data.sources.decode import read_error
from finsent.data.sources.records import RawRow, RequestedColumns, SourceFile
from finsent.data.validation.row_validation import Rejection
from finsent.errors import InputError, shorten

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 4096
_BATCH_BYTES: Final = 32 * 1024 * 1024
_MAX_ROW_BYTES: Final = 64 * 1024 * 1024
_DICTIONARY_GROUP_BYTES: Final = 64 * 1024 * 1024
_BUFFER_BYTES: Final = 1024 * 1024
_UNREADABLE: Final = (ValueError, OverflowError, LookupError)
"""What pyarrow raises for a value that Python cannot hold: a time outside its calendar, an unknown time zone."""


def read_parquet(file: SourceFile, wanted: RequestedColumns) -> Iterator[list[RawRow]]:
    """Rows of a Parquet file, in batches.

    Raises:
        InputError: not Parquet, damaged, or a column is missing.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file.seen.clear()
    try:
        with _open_input(file) as source:
            metadata = pq.read_metadata(source)
            schema = metadata.schema.to_arrow_schema()
            columns = _select(schema, wanted, file.uri)
            names = list(dict.fromkeys(columns.values()))
            classes = usable_names(class_names(schema.metadata, columns.get("label", "")), file.source.labels)
            # dictionary columns hold a long repeated value once, but pyarrow then holds all values of a row group
            small = _largest_group(metadata, lambda group: group.total_byte_size) < _DICTIONARY_GROUP_BYTES
            texts = [name for name in names if small and name in schema.names and _is_text(schema.field(name).type)]
            options = {"buffer_size": _BUFFER_BYTES, "read_dictionary": texts, "page_checksum_verification": True}
            with pq.ParquetFile(source, metadata=metadata, **options) as parquet:
                number = 0
                for batch in parquet.iter_batches(_batch_size(metadata, file.uri), columns=names):
                    rows = arrow_rows(batch, columns, number, wanted.make_row)
                    yield [with_label_name(row, classes) for row in rows] if classes else rows
                    number += batch.num_rows
        _check_complete(file, number, metadata.num_rows)
    except InputError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = f"cannot be read as Parquet: {shorten(str(error), 200)}. Write it again, or correct its name."
        raise read_error(file.uri, error, problem) from error


def _select(schema: "pa.Schema", wanted: RequestedColumns, where: str) -> dict[str, str]:
    """Role to column, or to the path of a field of one: paths are listed where all are asked for, or one that is not a column.

    Raises:
        InputError: one is missing, occurs twice, or holds objects or lists.
    """
    plain = not wanted.every and set(wanted.required.values()) <= set(schema.names)
    nested = {} if plain else nested_fields(schema)
    if not plain:
        require_no_list(wanted.required, schema, where)
    columns = wanted.select([*schema.names, *(path for path in nested if path not in schema.names)], where)
    if not wanted.every:
        kinds = nested | {name: schema.field(name).type for name in columns.values() if name in schema.names}
        require_values(columns, kinds, where)
    return columns


def class_names(metadata: Mapping[bytes, bytes] | None, column: str) -> list[str] | None:
    """Names of a column's class ids, which `datasets` writes into the Parquet files of the Hub; None without them."""
    try:
        found = json.loads((metadata or {})[b"huggingface"])["info"]["features"][column]["names"]
    except (LookupError, TypeError, ValueError):
        return None
    return found if isinstance(found, list) and all(isinstance(name, str) for name in found) else None


def usable_names(names: list[str] | None, labels: Mapping[str, str] | None) -> list[str] | None:
    """The names, unless a label map is given that is none of names: then it is one of the ids."""
    return names if names is not None and (labels is None or not labels.keys().isdisjoint(names)) else None


def with_label_name(row: RawRow, names: Sequence[str]) -> RawRow:
    """The row with the name of its class id."""
    if isinstance(row.label, int) and 0 <= row.label < len(names):
        return dataclasses.replace(row, label=names[row.label])
    return row


def _check_complete(file: SourceFile, found: int, stated: int) -> None:
    if found != stated:
        raise InputError(f"{file.uri!r} is damaged: it states {stated} rows and has {found}. Get the file again.")
    if "etag" in file.seen:
        s3.check_unchanged(file.uri, str(file.seen["etag"]))


@contextmanager
def _open_input(file: SourceFile) -> Iterator[Any]:
    import pyarrow as pa

    if file.uri.startswith(s3.S3):
        source, file.seen["etag"] = s3.open_object(file.uri, random_access=True)
    else:
        source = pa.OSFile(file.uri)
    with source:
        yield source


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _batch_size(metadata: Any, uri: str) -> int:
    """Rows that take about `_BATCH_BYTES`, by the sizes that the file states of its row groups.

    Not by those of its columns: with a damaged footer, asking for them crashes the process (pyarrow 25).
    """
    largest = _largest_group(metadata, lambda group: group.total_byte_size / max(1, group.num_rows))
    if largest > _MAX_ROW_BYTES:
        raise InputError(
            f"{uri!r}: a row takes {largest / 2**20:.0f} MiB on average, more than {_MAX_ROW_BYTES >> 20}. Give one tweet a row."
        )
    return int(max(1, min(BATCH_ROWS, _BATCH_BYTES / max(1.0, largest))))


def _largest_group(metadata: Any, size: Callable[[Any], float]) -> float:
    return max((size(metadata.row_group(index)) for index in range(metadata.num_row_groups)), default=0.0)


def arrow_rows(
    batch: "pa.RecordBatch",
    columns: Mapping[str, str],
    before: int,
    make_row: Callable[[int, Mapping[str, object]], RawRow] = RawRow.from_values,
) -> list[RawRow]:
    """Rows of a batch; the first is number `before` + 1."""
    values = {role: _column_values(column_at(batch, column)) for role, column in columns.items()}
    return [
        make_row(before + index + 1, {role: column[index] for role, column in values.items()}) for index in range(batch.num_rows)
    ]


def _column_values(array: "pa.Array") -> list[object]:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        used = array.indices.unique().drop_null()
        words = dict(zip(used.to_pylist(), _column_values(array.dictionary.take(used)), strict=True))
        return [words.get(index) for index in array.indices.to_pylist()]
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.large_binary())  # decoded below: pyarrow rejects the whole batch for one bad value
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in array.to_pylist()]
    try:
        return cast("list[object]", array.to_pylist())
    except _UNREADABLE:
        return [_cell_value(item) for item in array]


def _cell_value(item: Any) -> object:
    try:
        return item.as_py()
    except _UNREADABLE as error:
        return Rejection("malformed row", f"a value of type {item.type} that cannot be read: {shorten(str(error))}")
