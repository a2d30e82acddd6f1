"""Files that are not plain UTF-8 with commas are read as what they are, or as the options say."""

import bz2
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError
from tests.workbooks import write_workbook


def rows_of(source: Source) -> list[RawRow]:
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.parametrize("delimiter", [";", "|", "\t", "\x01"])
def test_the_delimiter_that_gives_the_columns_is_found(tmp_path: Path, delimiter: str) -> None:
    text = f'id{delimiter}text{delimiter}label\n7{delimiter}"up, and{delimiter} up"{delimiter}Bullish\n'
    (tmp_path / "a.csv").write_text(text)
    assert [(row.text, row.label) for row in rows_of(Source(uri=str(tmp_path / "a.csv")))] == [
        (f"up, and{delimiter} up", "Bullish")
    ]


def test_a_heart_is_no_html(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("<3 $AAPL today,Bullish\n")
    assert rows_of(Source(uri=str(tmp_path / "a.csv"), header=False, text="1", label="2"))[0].text == "<3 $AAPL today"


def test_column_names_within_a_file_are_no_tweet(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text, label\ngold,Bullish\ntext, label\noil,Bearish\n")
    rows = rows_of(Source(uri=str(tmp_path / "a.csv")))
    assert [row.text for row in rows if row.fault is None] == ["gold", "oil"]
    assert rows[1].fault is not None
    assert "column names again" in rows[1].fault.detail


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
    path = tmp_path / "a.csv"
    path.write_text(",".join(f"feature{n}" for n in range(30)) + ",content\n")
    with pytest.raises(InputError, match="'content'"):
        rows_of(Source(uri=str(path)))
    with path.open("a") as file:
        file.writelines(",".join(["7"] * 30) + f",tweet {number} \n" for number in (1, 1, 2, 3, 4))
    with pytest.raises(InputError, match=r"'feature0' \('7'\), .*'content' \('tweet 1', 'tweet 2', 'tweet 3'\).*data preview"):
        rows_of(Source(uri=str(path)))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.jsonl", {"delimiter": ";"}, "--delimiter"),
        ("a.csv", {"sheet": "May"}, "--sheet"),
        ("a.jsonl", {"header": False}, "--no-header"),
    ],
)
def test_an_option_without_effect_is_an_error(tmp_path: Path, name: str, options: dict[str, object], message: str) -> None:
    (tmp_path / name).write_text("text,label\nup,Bullish\n")
    with pytest.raises(InputError, match=message):
        rows_of(Source.model_validate({"uri": str(tmp_path / name)} | options))


def texts_of(path: Path, **options: object) -> list[object]:
    return [raw.text for raw in rows_of(Source.model_validate({"uri": str(path)} | options))]


_TWEETS: Final = [{"text": "gold up", "label": "Bullish"}, {"text": "oil — down", "label": "Bearish"}]


@pytest.mark.parametrize(
    "document",
    [
        json.dumps(_TWEETS),
        "[" + ",\n".join(json.dumps(row) for row in _TWEETS) + "]",
        json.dumps(_TWEETS, indent=2),
        "\n".join(json.dumps(row) for row in _TWEETS),
        "window.YTD.tweets.part0 = " + json.dumps(_TWEETS),
        json.dumps({"meta": {"n": 2}, "data": {"tweets": _TWEETS}}),
        json.dumps({"1": _TWEETS[0], "2": _TWEETS[1]}, indent=1),
        json.dumps({"users": [{"name": "desk"}], "data": _TWEETS}),
        json.dumps({key: {str(n): row[key] for n, row in enumerate(_TWEETS)} for key in ("text", "label")}, indent=1),
        json.dumps({key: [row[key] for row in _TWEETS] for key in ("text", "label")}, indent=1),
        json.dumps({"columns": ["text", "label"], "index": [0, 1], "data": [list(row.values()) for row in _TWEETS]}, indent=1),
    ],
)
def test_json_documents_of_every_shape(tmp_path: Path, document: str) -> None:
    (tmp_path / "a.json").write_text(document, encoding="utf-8")
    assert texts_of(tmp_path / "a.json") == ["gold up", "oil — down"]


def test_an_array_called_json_lines_or_csv_is_read(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.csv", "a.txt"):
        (tmp_path / name).write_text(json.dumps(_TWEETS), encoding="utf-8")
        assert texts_of(tmp_path / name) == ["gold up", "oil — down"]


def test_a_document_that_was_cut_and_one_of_several_lists_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.json").write_text(json.dumps(_TWEETS)[:-9], encoding="utf-8")
    with pytest.raises(InputError, match="cut short"):
        texts_of(tmp_path / "cut.json")
    (tmp_path / "two.json").write_text(json.dumps({"old": _TWEETS, "new": _TWEETS[:1]}, indent=1), encoding="utf-8")
    with pytest.raises(InputError, match=r"old \(2 rows\), new \(1 rows\). Say which with --records"):
        texts_of(tmp_path / "two.json")
    assert texts_of(tmp_path / "two.json", records="new") == ["gold up"]


def test_nested_fields_are_read_by_their_path(tmp_path: Path) -> None:
    rows = [{"body": "up", "entities": {"sentiment": {"basic": "Bullish"}}}, {"body": "flat", "entities": {"sentiment": None}}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = rows_of(Source(uri=str(tmp_path / "a.jsonl"), text="body", label="entities.sentiment.basic"))
    assert [(raw.text, raw.label) for raw in found] == [("up", "Bullish"), ("flat", None)]
    with pytest.raises(InputError, match=r"'entities\.sentiment\.basic'"):
        rows_of(Source(uri=str(tmp_path / "a.jsonl"), text="body", label="entities.mood"))


def test_a_file_without_a_header_says_so_and_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("Bullish,gold is up and goes on and on\nBearish,oil is down\n")
    for options in ({}, {"text": "gold is up and goes on and on", "label": "Bullish"}):
        with pytest.raises(InputError, match="add --no-header"):
            texts_of(path, **options)
    assert texts_of(path, header=False, text="2", label="1") == ["gold is up and goes on and on", "oil is down"]
    assert len(texts_of(path, header=False, columns=["label", "text"])) == 2
    with pytest.raises(InputError, match="1 names are given"):
        texts_of(path, header=False, columns=["text"])


def test_quotes_escaped_by_a_backslash(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        'text,label\n"they call it \\"growth\\", but it sinks",Bearish\n"C:\\new is \\"up\\"",Bullish\n'
    )
    assert texts_of(tmp_path / "a.csv") == ['they call it "growth", but it sinks', 'C:\\new is "up"']


def test_a_cell_far_from_the_others_takes_no_memory(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", {"May": [["text", "label"], ["gold up", "Bullish"]]})
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    far = b'<row r="1048576"><c r="GR1048576" t="inlineStr"><is><t>x</t></is></c></row></sheetData>'
    with zipfile.ZipFile(path, "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(b"</sheetData>", far))
    with pytest.raises(InputError, match=r"to column GR and row 1,048,576, 209,715,200 cells.*save the sheet as CSV"):
        texts_of(path)


def test_a_sheet_of_a_workbook(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    write_workbook(path, {"May": [["text", "label"], ["gold up", "Bullish"], ["oil down", "Bearish"]]})
    assert texts_of(path) == ["gold up", "oil down"]
    path.rename(tmp_path / "b.csv")
    assert texts_of(tmp_path / "b.csv") == ["gold up", "oil down"]
    write_workbook(path, {"May": [["text", "label"], ["a", "b"]], "June": [["text", "label"], ["gold up", "Bullish"]]})
    with pytest.raises(InputError, match="several sheets with rows: 'May', 'June'"):
        texts_of(path)
    assert texts_of(path, sheet="June") == ["gold up"]


_CSV: Final = b"text,label\ngold up,Bullish\noil down,Bearish\n"


@pytest.mark.parametrize(
    ("name", "packed"),
    [("a.csv.bz2", bz2.compress(_CSV)), ("a.csv.xz", lzma.compress(_CSV)), ("a.csv", gzip.compress(_CSV)), ("a.txt", _CSV)],
    ids=["bz2", "xz", "gzip called csv", "txt"],
)
def test_compressed_and_misnamed_files(tmp_path: Path, name: str, packed: bytes) -> None:
    (tmp_path / name).write_bytes(packed)
    assert texts_of(tmp_path / name) == ["gold up", "oil down"]


def test_the_only_file_of_an_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "archive.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("in/tweets.csv", _CSV)
        archive.writestr("__MACOSX/in/._tweets.csv", b"\0")
    assert texts_of(path) == ["gold up", "oil down"]
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("in/more.csv", _CSV)
    with pytest.raises(InputError, match="a ZIP archive of 2 files"):
        texts_of(path)


def test_a_kind_that_is_not_read_says_how_to_convert_it(tmp_path: Path) -> None:
    (tmp_path / "desk.csv").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(InputError, match=r"an SQLite database.*sqlite:////\S+/desk\.csv --query 'SELECT \* FROM tweets'"):
        texts_of(tmp_path / "desk.csv")


def test_a_line_that_names_the_separator(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sep=;\ntext;label\ngold, up;Bullish\n")
    assert texts_of(tmp_path / "a.csv") == ["gold, up"]


def test_text_in_utf_16_is_known_by_its_mark_whatever_its_ending(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("text\tlabel\ngold up\tBullish\n", encoding="utf-16")
    assert texts_of(tmp_path / "a.txt") == ["gold up"]


def test_names_that_only_look_like_something_else_are_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("ORCL,text,label\n1,gold up,Bullish\n")
    assert texts_of(tmp_path / "a.csv") == ["gold up"]
    (tmp_path / "b.csv").write_text("text,positive,negative,neutral\ngold up,0.9,0.05,0.05\n")
    with pytest.raises(InputError, match="there is no column 'label'"):
        texts_of(tmp_path / "b.csv")


def test_a_few_broken_lines_of_many_are_rows_of_their_own(tmp_path: Path) -> None:
    lines = [b"text,label", *(b"gold up %d,Bullish" % n for n in range(3000)), b"caf\xe9,Neutral", b"na\xefve,Neutral"]
    (tmp_path / "a.csv").write_bytes(b"\n".join(lines) + b"\n")
    assert len(texts_of(tmp_path / "a.csv")) == 3002


def test_an_encoding_that_the_byte_order_mark_denies(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\ngold up,Bullish\n", encoding="utf-16")
    assert texts_of(tmp_path / "a.csv", encoding="utf-16") == ["gold up"]
    with pytest.raises(InputError, match="by its byte order mark, and not 'cp1252'"):
        texts_of(tmp_path / "a.csv", encoding="cp1252")


def test_a_delimiter_is_one_character(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text\tlabel\ngold up\tBullish\n")
    assert texts_of(tmp_path / "a.csv", delimiter="\\t") == ["gold up"]
    with pytest.raises(ValueError, match="at most 1 item"):
        texts_of(tmp_path / "a.csv", delimiter="||")


@pytest.mark.parametrize(
    "head",
    ["# exported, by the desk\n#\n", "Tweets of the desk,\n,\n", '"Tweets of the desk, January"\n\n'],
    ids=["comments", "title", "one field"],
)
def test_titles_and_comments_above_the_names_are_passed_over(tmp_path: Path, head: str, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a.csv").write_text(f'{head}text,label\n"gold, up",Bullish\noil,Bearish\n')
    assert texts_of(tmp_path / "a.csv") == ["gold, up", "oil"]
    assert "its columns are named in row" in caplog.text


def test_tweets_above_a_row_that_looks_like_names_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("gold\noil\ntext\nzinc\n")
    with pytest.raises(InputError, match="no column 'text'"):
        texts_of(tmp_path / "a.csv", label_value="Neutral")
    (tmp_path / "b.csv").write_text("gold,Bullish\ntext,label\nzinc,Bearish\n")
    with pytest.raises(InputError):
        texts_of(tmp_path / "b.csv")


def test_lines_of_python_dictionaries_say_how_to_convert_them(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{'text': 'gold up', 'label': 'Bullish'}\n")
    with pytest.raises(InputError, match=r"Python's dictionaries: python -c 'import ast, json"):
        texts_of(tmp_path / "a.jsonl")


def test_rows_before_the_table_are_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("made by, the desk\nid,of,them\ntext,label\ngold up,Bullish\n")
    assert texts_of(tmp_path / "a.csv", skip_rows=2) == ["gold up"]
    (tmp_path / "a.txt").write_text("text\ngold up\n")
    assert texts_of(tmp_path / "a.txt", skip_rows=1, format="text", label_value="Neutral") == ["gold up"]
    write_workbook(tmp_path / "a.xlsx", {"Data": [["made by", "the desk"], ["text", "label"], ["gold up", "Bullish"]]})
    assert texts_of(tmp_path / "a.xlsx", skip_rows=1) == ["gold up"]
    (tmp_path / "a.jsonl").write_text('{"text": "gold up", "label": "Bullish"}\n')
    with pytest.raises(InputError, match="--skip-rows"):
        texts_of(tmp_path / "a.jsonl", skip_rows=1)
