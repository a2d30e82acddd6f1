"""JSON documents as programs write them: what is no strict JSON, several in a file, streams of any length."""

import io
import json
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.json_document import is_document, read_values
from finsent.data.sources.records import RawRow, inbox_columns, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError

ROWS: Final = [{"text": "gold up", "label": "Bullish"}, {"text": "oil — down", "label": "Bearish"}]
TEXTS: Final = [row["text"] for row in ROWS]


def values(document: str | bytes, records: str | None = None, encoding: str = "utf-8") -> list[Any]:
    raw = document.encode(encoding) if isinstance(document, str) else document
    return [value for value, _ in read_values(io.BytesIO(raw), encoding, "a.json", records, ["text"])]


def rows_of(path: Path, **options: object) -> list[RawRow]:
    source = Source.model_validate({"uri": str(path)} | options)
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.parametrize(
    "document",
    [
        '{"meta": {"n": 2},\n"data": [\n' + ",\n".join(map(json.dumps, ROWS)) + "\n]}",
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        "\n".join(json.dumps({"data": [row]}, indent=1) for row in ROWS),
        json.dumps([{**row, "score": float("nan"), "user": 10**30} for row in ROWS]),
        json.dumps(ROWS)[:-1] + ",]",
    ],
)
def test_documents_of_programs_are_read(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    assert [row.text for row in rows_of(tmp_path / "a.json")] == TEXTS


@pytest.mark.parametrize(
    ("head", "is_one"),
    [
        ('{"text": "a"}\n{"text": "b"}\n', False),
        ('{"text": "a\n{"text": "b"}\n{"text": "c"}\n', False),
        ("{'text': 'a'}\n{'text': 'b'}\n", False),
        ('{"a": 1,\n"b": [\n{"text": "a"}\n]}\n', True),
    ],
)
def test_json_lines_with_broken_ones_are_no_document(head: str, is_one: bool) -> None:
    assert is_document(head.encode()) is is_one


def test_a_stream_ends_with_its_array(tmp_path: Path) -> None:
    for wrong in (json.dumps(ROWS)[:-1], json.dumps(ROWS)[:-9], json.dumps(ROWS) + json.dumps(ROWS), "[1 2] x", "[{'a': 1}]"):
        with pytest.raises(InputError, match="is no JSON document, or cut short"):
            values(wrong)
    with pytest.raises(InputError, match="leave --records out"):
        values("\n".join(map(json.dumps, ROWS)), records="data")
    (tmp_path / "a.json").write_text("[1, 2, 3]")
    with pytest.raises(InputError, match="no objects with columns, but such as 1"):
        rows_of(tmp_path / "a.json")


def test_an_array_is_read_as_it_comes() -> None:
    stream = io.BytesIO(json.dumps(ROWS * 20_000).encode())
    found = read_values(stream, "utf-8", "a.json", None, ["text"])
    assert next(found)[0] == ROWS[0]
    assert stream.tell() < 1 << 18
    with pytest.raises(InputError, match="an element of more than 16 Mi characters"):
        values('[{"text": "' + "x" * (17 << 20))


def test_keys_of_objects_are_their_ids(tmp_path: Path) -> None:
    def ids(document: object) -> list[object]:
        (tmp_path / "a.json").write_text(json.dumps(document))
        (file,) = resolve(source := Source(uri=str(tmp_path / "a.json")))
        return [row.id for batch in read_rows(file, inbox_columns(source)) for row in batch]

    assert ids({"1460323737035677698": ROWS[0], "1460323737035677699": ROWS[1]}) == ["1460323737035677698", "1460323737035677699"]
    assert ids({"x": {**ROWS[0], "id": 7}, "y": {**ROWS[1], "id": 8}}) == [7, 8]
    assert ids({"0": ROWS[0], "1": ROWS[1]}) == [None, None]


def test_a_path_leads_through_lists(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps([{"text": row["text"], "tags": [{"name": row["label"]}]} for row in ROWS]))
    assert [row.label for row in rows_of(tmp_path / "a.json", label="tags.0.name")] == ["Bullish", "Bearish"]


@settings(max_examples=25)
@given(st.lists(st.dictionaries(st.sampled_from("ab"), st.text(max_size=20) | st.integers() | st.none()), min_size=1))
def test_elements_are_what_json_reads(rows: list[dict[str, Any]]) -> None:
    written = json.dumps([*rows, {"a": "x" * 70_000}])
    assert values(written) == [*rows, {"a": "x" * 70_000}]
