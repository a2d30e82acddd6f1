"""Reads JSON documents: arrays of objects, lists within an envelope, objects keyed by id, and the forms that pandas writes.

An array, and a list whose path is given (`records`), is read as a stream. A document of another shape is looked at whole, up to
`MAX_DOCUMENT` bytes. A Twitter archive's `window.YTD.tweets.part0 =` before the document is passed over.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, BinaryIO, Final

from finsent.errors import InputError, UnclearSourceError, one_line, shorten

MAX_DOCUMENT: Final = 256 * 1024 * 1024
"""Bytes of a document that is no array."""
_DEPTH: Final = 4
_ARRAY: Final = re.compile(rb"\[\s*(?:[\[{]|$)")
"""The first line of an array of rows."""
_ASSIGNMENT: Final = re.compile(rb"\s*(?:window|var|let|const)[\w.\s]*=\s*")


def is_document(head: bytes) -> bool:
    """Whether bytes begin a document, and not JSON lines: an array, or an object over several lines.

    A first line that is a value by itself, or of no JSON, has lines after it that are rows of their own.
    """
    text = _ASSIGNMENT.sub(b"", head, count=1).lstrip() if _ASSIGNMENT.match(head) else head.lstrip()
    first, ended, rest = text.partition(b"\n")
    is_value = _is_json(first)
    if text.startswith(b"["):
        return not ((is_value and rest.strip()) or (rest.lstrip().startswith(b"{") and not _ARRAY.match(first)))
    if not text.startswith(b"{") or is_value:
        return False
    return (bool(ended) and first.rstrip() in (b"{", b'{"data":', b"{ ")) or bool(
        re.fullmatch(rb"\{\s*(?:\"[^\"]*\"\s*:\s*[\[{]?\s*)?", first.rstrip())
    )


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_values(stream: BinaryIO, uri: str, records: str | None, wanted: Sequence[str]) -> Iterator[Any]:
    """The rows of a document in UTF-8, as JSON values.

    Args:
        stream: Its bytes, with `peek`.
        uri: Its address, for messages.
        records: Path of the list of rows; None finds it.
        wanted: Columns that are asked for: of several lists the one whose rows have them is taken. None where all are.

    Raises:
        InputError: not JSON, cut short, or its rows are not found.
    """
    import ijson

    head = stream.peek(1 << 16)[: 1 << 16]  # type: ignore[attr-defined]
    if (match := _ASSIGNMENT.match(head)) is not None:
        stream.read(match.end())
        head = head[match.end() :]
    try:
        if records is not None or head.lstrip().startswith(b"["):
            found = False
            prefix = f"{records}.item" if records else "item"
            for value in ijson.items(stream, prefix, use_float=True):
                found = True
                yield value
            if not found and records:
                raise InputError(f"{uri!r}: there is no list of rows at {records!r} (--records).")
            return
        text = stream.read(MAX_DOCUMENT + 1)
        if len(text) > MAX_DOCUMENT:
            raise InputError(
                f"{uri!r}: the document is no array, and too large to be searched. Say where its rows are: --records."
            )
        yield from _find_rows(json.loads(text), uri, wanted)
    except (ijson.JSONError, ValueError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{uri!r} is no JSON document, or cut short: {one_line(error)}. Get the file again.") from error


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """The value of a key, or at a path of nested keys (`entities.sentiment.basic`); None where something on the way is absent."""
    if path in row:
        return row[path]
    value: Any = row
    for key in path.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        elif isinstance(value, Mapping):
            value = value.get(key)
        else:
            return None
    return value


def nested_paths(rows: Sequence[Any]) -> list[str]:
    """Paths of the values within objects, of some rows; each once, in their order."""
    found: dict[str, None] = {}

    def add(value: Mapping[str, Any], before: str, depth: int) -> None:
        for key, inner in value.items():
            if before:
                found.setdefault(f"{before}{key}")
            if isinstance(inner, Mapping) and depth < _DEPTH:
                add(inner, f"{before}{key}.", depth + 1)

    for row in rows:
        if isinstance(row, Mapping):
            add(row, "", 0)
    return list(found)


def _find_rows(document: Any, uri: str, wanted: Sequence[str]) -> list[Any]:
    if not isinstance(document, dict):
        raise InputError(f"{uri!r} holds no rows but {shorten(repr(document))}. Give a list of objects.")
    lists = dict(_lists(document, "", 0))
    if _have([document], wanted) if wanted else not lists and any(isinstance(value, str) for value in document.values()):
        return [document]
    fitting = [path for path, rows in lists.items() if wanted and _have(rows, wanted)]
    if len(fitting) == 1 or len(lists) == 1:
        return lists[(fitting or list(lists))[0]]
    if len(fitting) > 1 or lists:
        shown = ", ".join(f"{path} ({len(rows)} rows)" for path, rows in list(lists.items())[:20])
        choices = [{"records": path} for path in lists]
        raise UnclearSourceError(f"{uri!r} holds several lists: {shown}. Say which with --records PATH.", choices)
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):  # pandas, orient="split"
        return [dict(zip(document["columns"], row, strict=False)) for row in document["data"] if isinstance(row, list)]
    values = list(document.values())
    if values and all(isinstance(value, dict) for value in values):
        numbered = not wanted and all(key.isdecimal() for value in values for key in value)
        if numbered or set(wanted) & set(document):  # pandas, orient="columns": each column an object by row
            order = dict.fromkeys(key for value in values for key in value)
            return [{name: value.get(key) for name, value in document.items()} for key in order]
        return values
    if values and all(isinstance(value, list) for value in values) and len({len(value) for value in values}) == 1:
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    raise InputError(f"{uri!r}: no list of rows is found in the document; its keys are {shorten(repr(list(document)), 200)}.")


def _lists(value: Mapping[str, Any], before: str, depth: int) -> Iterator[tuple[str, list[Any]]]:
    for key, inner in value.items():
        if isinstance(inner, list) and inner and all(isinstance(row, dict) for row in islice(inner, 10)):
            yield f"{before}{key}", inner
        elif isinstance(inner, Mapping) and depth < _DEPTH and len(value) <= 20:
            yield from _lists(inner, f"{before}{key}.", depth + 1)


def _have(rows: Sequence[Any], wanted: Sequence[str]) -> bool:
    """Whether a row has a value, and not a list or an object, for each column that is asked for."""

    def has_all(row: Any) -> bool:
        return isinstance(row, Mapping) and all(
            value is not None and not isinstance(value, list | Mapping) for value in (value_at(row, column) for column in wanted)
        )

    return any(has_all(row) for row in islice(rows, 100))
