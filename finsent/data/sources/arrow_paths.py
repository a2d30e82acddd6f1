"""Fields within the columns of Arrow tables, by paths such as `entities.text`."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from finsent.errors import InputError, format_names

if TYPE_CHECKING:
    import pyarrow as pa

_DEPTH: Final = 4
_ONE_VALUE: Final = ("text", "label", "id")
"""Roles whose column must not hold objects; a time may be one (`{"$date": ...}`)."""


def nested_fields(schema: "pa.Schema") -> dict[str, "pa.DataType"]:
    """Paths of the fields within struct columns, to their types."""
    return {path: kind for field in schema for path, kind in _fields_below(field.name, field.type, 0)}


def _fields_below(path: str, kind: Any, depth: int) -> Iterator[tuple[str, Any]]:
    import pyarrow as pa

    if pa.types.is_struct(kind) and depth < _DEPTH:
        for field in kind:
            yield f"{path}.{field.name}", field.type
            yield from _fields_below(f"{path}.{field.name}", field.type, depth + 1)


def require_values(columns: Mapping[str, str], kinds: Mapping[str, "pa.DataType"], where: str) -> None:
    """Check that the columns of text, label and id hold values, and not objects or lists of them.

    Raises:
        InputError: one does.
    """
    import pyarrow as pa

    for role, column in columns.items():
        kind = kinds.get(column)
        if role not in _ONE_VALUE or kind is None:
            continue
        if pa.types.is_struct(kind):
            fields = [f"{column}.{field.name}" for field in kind]
            raise InputError(
                f"{where}: column {column!r} holds objects. Name a field of them for --{role}: {format_names(fields)}."
            )
        if _is_list(kind) and (role == "text" or pa.types.is_struct(kind.value_type)):
            raise list_error(column, where)


def require_no_list(paths: Mapping[str, str], schema: "pa.Schema", where: str) -> None:
    """Check that no path leads into a list: a row has one text and one label.

    Raises:
        InputError: one does.
    """
    kinds = {name: schema.field(name).type for name in schema.names if schema.get_field_index(name) >= 0}
    kinds |= nested_fields(schema)
    for path in paths.values():
        parts = path.split(".")
        above = (".".join(parts[:end]) for end in range(1, len(parts)))
        if path not in kinds and (column := next((name for name in above if name in kinds and _is_list(kinds[name])), None)):
            raise list_error(column, where)


def list_error(column: str, where: str) -> InputError:
    """The error that a column holds lists."""
    return InputError(
        f"{where}: column {column!r} holds lists, and a row has one text and one label. Make a row of each item first: in pandas "
        f"df = df.explode({column!r}); fields of objects become columns by pandas.json_normalize(df[{column!r}])."
    )


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def column_at(batch: "pa.RecordBatch", path: str) -> Any:
    """A column, or the field of a struct column; null where the struct is."""
    import pyarrow.compute as pc

    at = batch.schema.get_field_index(path)
    if at >= 0:
        return batch.column(at)
    name, *fields = path.split(".")
    while batch.schema.get_field_index(name) < 0 and fields:  # the column's own name may have dots
        name = f"{name}.{fields.pop(0)}"
    return pc.struct_field(batch.column(batch.schema.get_field_index(name)), fields)
