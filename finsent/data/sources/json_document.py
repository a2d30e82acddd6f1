"""Reads JSON documents: arrays of objects, lists within an envelope, objects keyed by id, and the forms that pandas writes.

An array, and a list whose path is given (`records`), is read as a stream. Documents of another shape, of which a file may hold
several, are looked at whole, up to `MAX_DOCUMENT` characters. A Twitter archive's `window.YTD.tweets.part0 =` is passed over.
"""

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, BinaryIO, Final, TextIO

from finsent.errors import InputError, UnclearSourceError, one_line, shorten

MAX_DOCUMENT: Final = 256 * 1024 * 1024
"""Characters of documents that are no array."""
_MAX_ELEMENT: Final = 16 * 1024 * 1024
"""Characters of an element of an array, as of a line (`decode.MAX_LINE_CHARS`)."""
_DEPTH: Final = 4
_CHUNK: Final = 1 << 16
_ARRAY: Final = re.compile(rb"\[\s*(?:[\[{]|$)")
"""The first line of an array of rows."""
_ASSIGNMENT: Final = re.compile(r"\s*(?:window|var|let|const)[\w.\s]*=\s*")
_GAP: Final = re.compile(r"[\s,]*")


def is_document(head: bytes) -> bool:
    """Whether bytes begin a document, and not JSON lines: an array, or an object over several lines.

    JSON lines may be broken here and there, and a document may have an object on a line of its own.
    """
    text = head.lstrip()
    if match := re.match(_ASSIGNMENT.pattern.encode(), text):
        text = text[match.end() :]
    first, _, rest = text.partition(b"\n")
    is_value = _is_json(first)
    if text.startswith(b"["):
        return not ((is_value and rest.strip()) or (rest.lstrip().startswith(b"{") and not _ARRAY.match(first)))
    if not text.startswith(b"{") or is_value or not rest.strip():
        return False
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    lines = lines[:-1] if len(head) >= _CHUNK else lines  # the last one may go on
    objects = sum(line.startswith(b"{") and _is_json(line) for line in lines)
    return 2 * objects < len(lines) and not all(line.startswith(b"{") and line.endswith(b"}") for line in lines)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_values(
    stream: BinaryIO, encoding: str, uri: str, records: str | None, wanted: Sequence[str]
) -> Iterator[tuple[Any, int]]:
    """The rows of a document, as JSON values, each with the characters that it may have taken.

    Args:
        stream: Its bytes.
        encoding: Their encoding.
        uri: Its address, for messages.
        records: Path of the list of rows; None finds it.
        wanted: Columns that are asked for: of several lists the one whose rows have them is taken. None where all are.

    Raises:
        InputError: not JSON, cut short, or its rows are not found.
    """
    import ijson

    text = io.TextIOWrapper(stream, encoding)
    try:
        head = text.read(_CHUNK)
        if (match := _ASSIGNMENT.match(head)) is not None:
            head = head[match.end() :]
        if records is not None:
            rest = (chunk.encode() for chunk in chain([head], iter(lambda: text.read(_CHUNK), "")))
            yield from _at_path(ijson.items(ijson.from_iter(rest), f"{records}.item", use_float=True), uri, records)
        elif head.lstrip().startswith("["):
            yield from _elements(head, text)
        else:
            document = head + text.read(MAX_DOCUMENT + 1 - len(head))
            if len(document) > MAX_DOCUMENT:
                raise InputError(
                    f"{uri!r}: the document is no array, and too large to be searched. Say where its rows are: --records."
                )
            for value, _ in _elements(f"[{document}]" if document.strip() else "", io.StringIO()):
                yield from ((row, _CHUNK // 64) for row in _find_rows(value, uri, wanted))
    except (ijson.JSONError, ValueError, RecursionError) as error:
        if isinstance(error, InputError) or (isinstance(error, UnicodeDecodeError) and encoding != "utf-8"):
            raise
        raise InputError(
            f"{uri!r} is no JSON document, or cut short: {one_line(error)}. Get the file again"
            + (", or leave --records out where it is JSON lines." if records else ".")
        ) from error


def _at_path(values: Iterator[Any], uri: str, records: str) -> Iterator[tuple[Any, int]]:
    found = False
    for value in values:
        found = True
        yield value, _CHUNK // 64
    if not found:
        raise InputError(f"{uri!r}: there is no list of rows at {records!r} (--records).")


def _elements(buffer: str, rest: TextIO) -> Iterator[tuple[Any, int]]:
    """Elements of an array and the characters of each, one at a time. Commas between may be missing: documents follow each other.

    By Python's decoder, for what it reads and ijson does not: NaN, which Python's own writers make of missing values, and
    whole numbers of any length.
    """
    decoder, at, ended = json.JSONDecoder(), buffer.find("[") + 1, False
    while True:
        at = _GAP.match(buffer, at).end()  # type: ignore[union-attr]  # matches always
        if buffer.startswith("]", at):
            _require_end(buffer[at + 1 :], rest)
            return
        try:
            value, end = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            if not ended and len(buffer) - at > _MAX_ELEMENT:
                raise ValueError(f"an element of more than {_MAX_ELEMENT >> 20} Mi characters, or a quote not closed") from error
            if ended:
                raise ValueError(f"{error.msg} at {shorten(error.doc[error.pos :], 40)!r}") from error
            value, end = None, len(buffer)
        if end < len(buffer):
            yield value, end - at
            at = end
            continue
        if ended:
            raise ValueError("the array does not end")
        more = rest.read(max(_CHUNK, end - at))  # the element may go on; of a long one as much again, so that work is linear
        buffer, at, ended = buffer[at:] + more, 0, not more


def _require_end(tail: str, rest: TextIO) -> None:
    """Read to the end, since what was read is what is fingerprinted."""
    while tail or (tail := rest.read(_CHUNK)):
        if tail.strip():
            raise ValueError(f"the array ends, and something follows: {shorten(tail.strip(), 40)!r}")
        tail = ""


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
        numbers = list(document) == [str(number) for number in range(len(document))]  # pandas, orient="index"
        return values if numbers else [{"id": key, **value} for key, value in document.items()]
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
