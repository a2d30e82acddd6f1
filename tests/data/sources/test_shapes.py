"""Files that are not plain UTF-8 with commas are read as what they are, or as the options say."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError


def rows_of(source: Source) -> list[RawRow]:
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.parametrize("delimiter", [";", "|", "\t", "\x01"])
def test_the_delimiter_that_gives_the_columns_is_found(tmp_path: Path, delimiter: str) -> None:
    text = f'id{delimiter}text{delimiter}label\n7{delimiter}"up, and{delimiter} up"{delimiter}Bullish\n'
    (tmp_path / "a.csv").write_text(text)
    assert [(row.text, row.label) for row in rows_of(Source(uri=str(tmp_path / "a.csv")))] == [
        (f"up, and{delimiter} up", "Bullish")
    ]


def test_a_delimiter_that_is_given_is_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text~label\nup, up~Bullish\n")
    assert rows_of(Source(uri=str(tmp_path / "a.csv"), delimiter="~"))[0].text == "up, up"


@pytest.mark.parametrize(("name", "encoding"), [("a.csv", "cp1252"), ("a.jsonl", "latin-1"), ("b.csv", "utf-16-le")])
def test_an_encoding_that_is_given_loses_no_accented_row(tmp_path: Path, name: str, encoding: str) -> None:
    text = "text,label\nSociété résiste,Bullish\n"
    if name.endswith("jsonl"):
        text = json.dumps({"text": "Société résiste", "label": "Bullish"}, ensure_ascii=False) + "\n"
    (tmp_path / name).write_bytes(text.encode(encoding))
    assert rows_of(Source(uri=str(tmp_path / name), encoding=encoding))[0].text == "Société résiste"


@pytest.mark.parametrize("encoding", ["cp99999", "base64"])
def test_what_is_no_encoding_is_an_error(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.csv").write_text("text,label\nup,Bullish\n")
    with pytest.raises(InputError, match="is no encoding of text"):
        rows_of(Source(uri=str(tmp_path / "a.csv"), encoding=encoding))


def test_class_names_in_a_parquet_file_of_the_hub_are_used(tmp_path: Path) -> None:
    features = {"label": {"names": ["Bearish", "Bullish", "Neutral"], "_type": "ClassLabel"}}
    table = pa.table({"text": ["up", "down"], "label": [1, 0]})
    told = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    pq.write_table(told, tmp_path / "a.parquet")
    assert [row.label for row in rows_of(Source(uri=str(tmp_path / "a.parquet")))] == ["Bullish", "Bearish"]
    given = Source(uri=str(tmp_path / "a.parquet"), labels={"0": "Neutral"})
    assert [row.label for row in rows_of(given)] == [1, 0]


def test_a_column_after_the_first_twenty_is_listed(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"feature{n}" for n in range(30)) + ",content\n")
    with pytest.raises(InputError, match="'content'"):
        rows_of(Source(uri=str(tmp_path / "a.csv")))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.jsonl", {"delimiter": ";"}, "--delimiter"),
        ("a.csv", {"sheet": "May"}, "--sheet"),
        ("a.csv", {"header": False}, "--no-header"),
        ("a.csv", {"format": "excel"}, "'excel' is not read"),
    ],
)
def test_an_option_without_effect_is_an_error(tmp_path: Path, name: str, options: dict[str, object], message: str) -> None:
    (tmp_path / name).write_text("text,label\nup,Bullish\n")
    with pytest.raises(InputError, match=message):
        rows_of(Source.model_validate({"uri": str(tmp_path / name)} | options))
