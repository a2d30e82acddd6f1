"""Every format is read row by row; a bad row costs only itself, a bad file is an error that names it."""

import gzip
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import Source
from finsent.data.sources.formats import fingerprint_file, read_rows
from finsent.data.sources.records import RawRow, RequestedColumns, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.data.validation.row_validation import Rejection, check_text
from finsent.errors import InputError

ROWS = [("buy $AAPL 🚀", "Bullish"), ('two\nlines, and "quotes"', "Neutral")]


def rows_of(source: Source) -> list[RawRow]:
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


def csv_text(delimiter: str = ",", end: str = "\n") -> bytes:
    lines = ["text{d}label", "buy $AAPL 🚀{d}Bullish", '"two\nlines, and ""quotes"""{d}Neutral']
    return "".join(line.replace("{d}", delimiter) + end for line in lines).encode()


def jsonl_text() -> bytes:
    return "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in ROWS).encode()


def zstd(path: Path, data: bytes) -> None:
    with pa.CompressedOutputStream(str(path), "zstd") as out:
        out.write(data)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a.csv": lambda p: p.write_bytes(csv_text()),
    "bom.csv": lambda p: p.write_bytes(b"\xef\xbb\xbf" + csv_text()),
    "windows.csv": lambda p: p.write_bytes(csv_text(end="\r\n")),
    "a.csv.gz": lambda p: p.write_bytes(gzip.compress(csv_text())),
    "a.CSV.GZ": lambda p: p.write_bytes(gzip.compress(csv_text())),
    "a.csv.zst": lambda p: zstd(p, csv_text()),
    "a.tsv": lambda p: p.write_bytes(csv_text("\t")),
    "a.jsonl": lambda p: p.write_bytes(jsonl_text()),
    "blank.ndjson": lambda p: p.write_bytes(b"\xef\xbb\xbf" + jsonl_text().replace(b"\n", b"\n\n")),
    "a.jsonl.zst": lambda p: zstd(p, jsonl_text()),
    "a.parquet": lambda p: pq.write_table(pa.table({"text": [t for t, _ in ROWS], "label": [x for _, x in ROWS]}), p),
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
def test_formats(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    rows = rows_of(Source(uri=str(tmp_path / name)))
    assert [(row.text, row.label) for row in rows] == ROWS
    assert [row.number for row in rows] == [1, 2]
    assert not any(row.fault for row in rows)


def test_other_columns_and_more_than_one_batch(tmp_path: Path) -> None:
    lines = [json.dumps({"body": f"tweet {n}", "mood": 1, "created_at": "2025-01-01", "x": None}) for n in range(10_000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    rows = rows_of(Source(uri=str(tmp_path / "a.jsonl"), text="body", label="mood"))
    assert [row.number for row in rows] == list(range(1, 10_001))
    assert rows[-1] == RawRow(10_000, "tweet 9999", 1, "2025-01-01")


def test_bad_rows_do_not_stop_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"text,label\nfine,Bullish\nna\xefve,Bearish\na, b,Neutral\nshort\nfine too,Bearish,,\n")
    rows = rows_of(Source(uri=str(tmp_path / "a.csv")))
    assert [row.fault.reason if row.fault else None for row in rows] == [None, None, "malformed row", "malformed row", None]
    assert rows[1].text == "na\udcefve"
    assert rows[4].text == "fine too"


def test_bad_rows_do_not_stop_json_lines(tmp_path: Path) -> None:
    bad = [b"{half", b'{"text": "caf\xe9", "label": "Bullish"}', b"[1]", b'{"label": "Bullish"}', b"[" * 100_000]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join([b'{"text": "a", "label": "Bullish"}', *bad]))
    rows = rows_of(Source(uri=str(tmp_path / "a.jsonl")))
    assert [row.fault.reason if row.fault else None for row in rows] == [
        None, "malformed row", "bad encoding", "malformed row", None, "malformed row",
    ]  # fmt: skip
    assert rows[4].text is None


def test_a_bad_value_in_parquet_costs_only_its_row(tmp_path: Path) -> None:
    text = pa.StringArray.from_buffers(2, pa.py_buffer(b"\0\0\0\0\x02\0\0\0\x04\0\0\0"), pa.py_buffer(b"ok\xff\xfe"))
    pq.write_table(pa.table({"text": text, "label": pa.array([1.0, None])}), tmp_path / "a.parquet")
    assert [row.text for row in rows_of(Source(uri=str(tmp_path / "a.parquet")))] == ["ok", "\udcff\udcfe"]


def test_dictionary_columns_of_parquet(tmp_path: Path) -> None:
    table = pa.table({"text": pa.array(["a", "b", "a"]).dictionary_encode(), "label": pa.array([0, 1, 0], pa.int8())})
    pq.write_table(table, tmp_path / "a.parquet")
    assert [(row.text, row.label) for row in rows_of(Source(uri=str(tmp_path / "a.parquet")))] == [("a", 0), ("b", 1), ("a", 0)]


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty"),
    "empty.jsonl": (b"\n \n", "has no rows"),
    "header.csv": (b"text,label\n", "has no rows"),
    "image.csv": (b"\x89PNG\r\n\x1a\n" + bytes(100), "PNG"),
    "book.csv": (b"PK\x03\x04" + bytes(100), "Excel"),
    "bytes.jsonl": (bytes(range(256)) * 4, "binary"),
    "wide.csv": ("text,label\nhi,Bullish\n".encode("utf-16-le"), "not a text file but binary"),
    "cutwide.csv": ("text,label\nhi,Bullish\n".encode("utf-16")[:-1], "utf-16-le by its byte order mark"),
    "wrong32.jsonl": ("{}\n".encode("utf-32") + b"\xff" * 4, "utf-32-le by its byte order mark"),
    "binary16.csv": ("\0\1\2".encode("utf-16") * 40, "binary"),
    "cut.csv.zst": (b"\x28\xb5\x2f\xfd\x04", "damaged or cut short"),
    "plain.csv.gz": (csv_text(), "damaged or cut short"),
    "cut.csv.gz": (gzip.compress(csv_text() * 50)[:-20], "damaged or cut short"),
    "plain.csv.zst": (csv_text(), "damaged or cut short"),
    "not.parquet": (csv_text(), "cannot be read as Parquet"),
    "prose.jsonl": (b"just\nsome\nprose\n", "not JSON lines"),
    "column.csv": (b"Text,sentiment\nhi,Bullish\n", "no column 'text'"),
    "column.jsonl": (b'{"text": "hi", "lable": "Bullish"}\n', "Did you mean 'lable'?"),
    "twice.csv": (b"text,label,text\na,Bullish,b\n", "occurs 2 times"),
    "tweets.xlsx": (b"x", "cannot be read as a workbook"),
    "tweets": (b"x", "not understood"),
    "a.parquet.gz": (b"x", "compresses inside"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files(tmp_path: Path, name: str) -> None:
    data, message = BAD_FILES[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as raised:
        rows_of(Source(uri=str(tmp_path / name)))
    assert message in str(raised.value)
    assert name in str(raised.value)


def test_a_missing_column_error_lists_columns_and_the_closest(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Tweet,Label\nhi,Bullish\n")
    with pytest.raises(
        InputError, match=r"no column 'tweet' for the tweet. Columns: 'Tweet' \(.*\), 'Label' \(.*\). Did you mean 'Tweet'\?"
    ):
        rows_of(Source(uri=str(tmp_path / "a.csv"), text="tweet"))


def test_a_named_time_column_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nhi,Bullish\n")
    with pytest.raises(InputError, match="no column 'posted' for the time of writing"):
        rows_of(Source(uri=str(tmp_path / "a.csv"), created_at="posted"))


def test_fingerprints_depend_on_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(csv_text())
    first = fingerprint_file(resolve(Source(uri=str(tmp_path / "a.csv")))[0])
    (tmp_path / "a.csv").write_bytes(csv_text() + b"more,Neutral\n")
    second = fingerprint_file(resolve(Source(uri=str(tmp_path / "a.csv")))[0])
    assert first["uri"] == second["uri"] == "a.csv"
    assert first["sha256"] != second["sha256"]


@pytest.mark.parametrize("name", [name for name in WRITERS if name != "a.parquet"])
def test_fingerprints_are_of_what_was_read(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    data = (tmp_path / name).read_bytes()
    source = Source(uri=str(tmp_path / name))
    (file,) = resolve(source)
    before = fingerprint_file(file)
    list(read_rows(file, labelled_columns(source)))
    (tmp_path / name).write_bytes(b"replaced")
    after = fingerprint_file(file)
    assert before["sha256"] == after["sha256"] == hashlib.sha256(data).hexdigest()
    assert before["bytes"] == after["bytes"] == len(data)
    assert after["encoding"] == "utf-8"


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.csv.gz"])
def test_wide_encodings_are_detected_by_byte_order_mark(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, encoding: str, name: str
) -> None:
    many = "".join(f"{n} 🚀 é{{d}}Bullish\n" for n in range(5000))  # over the borders of what is decoded at once
    text = "text{d}label\n" + many
    if "jsonl" in name:
        text = "".join(json.dumps({"text": f"{n} 🚀 é", "label": "Bullish"}, ensure_ascii=False) + "\n" for n in range(5000))
    data = ("\ufeff" + text.replace("{d}", "\t" if "tsv" in name else ",")).encode(encoding)
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    source = Source(uri=str(tmp_path / name))
    (file,) = resolve(source)
    rows = [row for batch in read_rows(file, labelled_columns(source)) for row in batch]
    assert [(row.number, row.text, row.label, row.fault) for row in rows] == [
        (n + 1, f"{n} 🚀 é", "Bullish", None) for n in range(5000)
    ]
    assert fingerprint_file(file)["encoding"] == encoding
    assert encoding in caplog.text


def test_half_a_character_of_utf_16_costs_only_its_row(tmp_path: Path) -> None:
    half = "\ud83d".encode("utf-16-le", "surrogatepass")
    for name, before, after in (
        ("a.csv", "text,label\n", ",Bullish\nfine,Bearish\n"),
        ("a.jsonl", '{"text": "', '"}\n{"text": "fine"}'),
    ):
        (tmp_path / name).write_bytes(("\ufeff" + before).encode("utf-16-le") + half + after.encode("utf-16-le"))
        rows = [
            row
            for batch in read_rows(
                resolve(Source(uri=str(tmp_path / name)))[0], RequestedColumns({"text": "text"}, {"label": "label"})
            )
            for row in batch
        ]
        assert [isinstance(check_text(row.text, 100) if row.fault is None else row.fault, Rejection) for row in rows] == [
            True,
            False,
        ]


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """A dataset in the Hub's layout: a card with class names, Parquet files by split."""
    folder = tmp_path / "owner" / "tweets"
    (folder / "data").mkdir(parents=True)
    card = """---
dataset_info:
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': bearish
          '1': bullish
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
"""
    (folder / "README.md").write_text(card)
    for split, labels in (("train", [0, 1, 1]), ("test", [0])):
        table = pa.table({"text": [f"{split} {n}" for n in range(len(labels))], "label": pa.array(labels, pa.int64())})
        pq.write_table(table, folder / "data" / f"{split}-00000-of-00001.parquet")
    return folder


def test_hub_datasets_provide_class_names(hub_folder: Path) -> None:
    rows = rows_of(Source(uri=f"hf://{hub_folder}"))
    assert [(row.number, row.text, row.label) for row in rows] == [
        (1, "train 0", "bearish"),
        (2, "train 1", "bullish"),
        (3, "train 2", "bullish"),
    ]
    assert resolve(Source(uri=f"hf://{hub_folder}"))[0].name == "tweets"
    assert [row.text for row in rows_of(Source(uri=f"hf://{hub_folder}", split="test"))] == ["test 0"]


def test_a_mapping_overrides_hub_class_names(hub_folder: Path) -> None:
    rows = rows_of(Source(uri=f"hf://{hub_folder}", labels={"0": "Bearish", "1": "Bullish"}))
    assert [row.label for row in rows] == [0, 1, 1]


def test_hub_datasets_that_cannot_be_read(hub_folder: Path) -> None:
    with pytest.raises(InputError, match="no column 'body'"):
        rows_of(Source(uri=f"hf://{hub_folder}", text="body"))
    with pytest.raises(InputError, match="split 'dev'"):
        rows_of(Source(uri=f"hf://{hub_folder}", split="dev"))
    with pytest.raises(InputError, match="Check name, revision, split and network"):
        rows_of(Source(uri="hf://nobody/nothing-here", revision="abc"))


def test_columns_are_listed_by_the_delimiter_that_separates_them(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("tweet;mood\nup;Bullish\n")
    source = Source(uri=str(tmp_path / "a.csv"))
    with pytest.raises(InputError, match=r"Columns: 'tweet' \('up'\), 'mood' \('Bullish'\)"):
        list(read_rows(resolve(source)[0], labelled_columns(source)))
