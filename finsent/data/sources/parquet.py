"""Rows of Parquet files and Arrow batches. A bad value costs its row; memory is bounded by the largest values, not the file."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, cast

from finsent.data.sources import s3
from finsent.data.sources.resolve import RawRow, RequestedColumns, SourceFile
from finsent.data.validation.row_validation import Rejection, shorten
from finsent.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS: Final = 4096
_BATCH_BYTES: Final = 32 * 1024 * 1024
_MAX_ROW_BYTES: Final = 64 * 1024 * 1024
_DICTIONARY_GROUP_BYTES: Final = 64 * 1024 * 1024
_BUFFER_BYTES: Final = 1024 * 1024


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
            columns = wanted.select(schema.names, file.uri)
            chosen = list(dict.fromkeys(columns.values()))
            # a long value that is repeated a million times is held once; but pyarrow holds all values of a row group so
            small = _largest_group(metadata, lambda group: group.total_byte_size) < _DICTIONARY_GROUP_BYTES
            texts = [name for name in chosen if small and _is_text(schema.field(name).type)]
            options = {"buffer_size": _BUFFER_BYTES, "read_dictionary": texts, "page_checksum_verification": True}
            with pq.ParquetFile(source, metadata=metadata, **options) as parquet:
                number = 0
                for batch in parquet.iter_batches(_batch_size(metadata, file.uri), columns=chosen):
                    yield arrow_rows(batch, columns, number)
                    number += batch.num_rows
            _check_complete(file, number, metadata.num_rows)
    except InputError:
        raise
    except PermissionError as error:
        raise InputError(
            f"{file.uri!r} may not be read: permission denied. Check the rights of the file and its folders."
        ) from error
    except (pa.ArrowException, OSError, ValueError) as error:
        if file.uri.startswith(s3.S3) and "AWS Error" in str(error):
            raise InputError(s3.describe_error(file.uri, error)) from error
        raise InputError(
            f"{file.uri!r} cannot be read as Parquet: {shorten(str(error), 200)}. Write it anew, or correct its name."
        ) from error


def _check_complete(file: SourceFile, found: int, stated: int) -> None:
    if found != stated:
        raise InputError(f"{file.uri!r} is damaged: it says that it has {stated} rows, and has {found}. Get the file anew.")
    if "etag" in file.seen:
        s3.check_unchanged(file.uri, str(file.seen["etag"]))


@contextmanager
def _open_input(file: SourceFile) -> Iterator[Any]:
    import pyarrow as pa

    if file.uri.startswith(s3.S3):
        source, file.seen["etag"] = s3.open_file(file.uri)
    else:
        source = pa.OSFile(file.uri)
    with source:
        yield source


def _is_text(kind: "pa.DataType") -> bool:
    import pyarrow as pa

    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind))


def _batch_size(metadata: Any, uri: str) -> int:
    """Rows that take about `_BYTES_AT_ONCE`, going by the sizes that the file states of its row groups.

    Not by those of its columns: asking for them ends the process where the file's footer is damaged (pyarrow 25).
    """
    largest = _largest_group(metadata, lambda group: group.total_byte_size / max(1, group.num_rows))
    if largest > _MAX_ROW_BYTES:
        raise InputError(f"{uri!r}: a row takes {largest / 2**20:.0f} MiB on average. No tweet does.")
    return int(max(1, min(BATCH_ROWS, _BATCH_BYTES / max(1.0, largest))))


def _largest_group(metadata: Any, size: Callable[[Any], float]) -> float:
    return max((size(metadata.row_group(index)) for index in range(metadata.num_row_groups)), default=0.0)


def arrow_rows(batch: "pa.RecordBatch", columns: Mapping[str, str], before: int) -> list[RawRow]:
    """Rows of a batch; the first has the number `before` + 1."""
    values = {role: _column_values(batch.column(batch.schema.get_field_index(column))) for role, column in columns.items()}
    return [row(before + index + 1, {role: column[index] for role, column in values.items()}) for index in range(batch.num_rows)]


def _column_values(array: "pa.Array") -> list[object]:
    import pyarrow as pa

    if pa.types.is_dictionary(array.type):
        used = array.indices.unique().drop_null()
        words = dict(zip(used.to_pylist(), _column_values(array.dictionary.take(used)), strict=True))
        return [words.get(index) for index in array.indices.to_pylist()]
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type) or pa.types.is_string_view(array.type):
        array = array.cast(pa.large_binary())  # decoded here: one bad value must not cost its whole batch
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        return [value if value is None else value.decode("utf-8", "surrogateescape") for value in array.to_pylist()]
    try:
        return cast("list[object]", array.to_pylist())
    except _UNREADABLE:
        return [_cell_value(item) for item in array]


# what pyarrow raises for a value that Python cannot hold: a time outside its calendar, a time zone that is not known
_UNREADABLE: Final = (ValueError, OverflowError, LookupError)


def _cell_value(item: Any) -> object:
    try:
        return item.as_py()
    except _UNREADABLE as error:
        return Rejection("malformed row", f"a value of type {item.type} that cannot be read: {shorten(str(error))}")


def row(number: int, values: Mapping[str, object]) -> RawRow:
    """A row of these values, or its fault where one of them cannot be used."""
    for value in values.values():
        if value is None or type(value) is str:
            continue
        fault = value if isinstance(value, Rejection) else _nesting_fault(value)
        if fault is not None:
            text = values.get("text")
            return RawRow(number, text if isinstance(text, str) else None, fault=fault)
    name = values.get("id")
    if isinstance(name, str) and not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
        return RawRow(number, values.get("text"), fault=Rejection("bad encoding", f"the id {shorten(ascii(name))} is not UTF-8"))
    return RawRow(number, values.get("text"), values.get("label"), values.get("created_at"), name)


_MAX_NESTING: Final = 20


def _nesting_fault(value: object) -> Rejection | None:
    """Whether a list or mapping is nested so deeply that it cannot even be shown."""
    if not isinstance(value, list | tuple | dict):
        return None
    level: list[object] = [value]
    for _ in range(_MAX_NESTING):
        level = [
            inner
            for item in level
            if isinstance(item, list | tuple | dict)
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, list | tuple | dict)
        ]
        if not level:
            return None
    return Rejection("malformed row", f"a {type(value).__name__} nested more than {_MAX_NESTING} deep where a value should be")
