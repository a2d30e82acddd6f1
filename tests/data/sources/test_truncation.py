"""Files cut at every byte: what is taken as a row of the inbox is always a row of the whole file, and never a part of one."""

import csv
import gzip
import io
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from finsent.config import InboxSource
from finsent.data.inbox_reading import read_file
from finsent.data.sources.arrivals import arriving_file
from finsent.errors import InputError
from tests.data.malformed import zstd

ROWS = [
    ("1", "$AAPL up, a lot", "2025-01-02"),
    ("2", 'they said "moon" 🚀', "2025-01-03"),
    ("3", "two\nlines", "2025-01-04"),
    ("44", "tail\tend", "2025-01-05"),
]
SMALL: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False, "store_schema": False}
Taken = set[tuple[str, str, datetime | None]]


def written(delimiter: str, quoting: int, end: str, columns: tuple[str, ...], rows: list[tuple[str, str, str]]) -> bytes:
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting, lineterminator=end)  # type: ignore[arg-type]
    order = [("id", "text", "created_at").index(column) for column in columns]
    writer.writerows([columns, *([row[at] for at in order] for row in rows)])
    return out.getvalue().encode()


def plain_files() -> dict[str, bytes]:
    text_last, date_last = ("id", "created_at", "text"), ("id", "text", "created_at")
    no_tabs = ROWS[:3]
    jsonl = "".join(json.dumps(dict(zip(date_last, row, strict=True)), ensure_ascii=False) + "\n" for row in ROWS)
    return {
        "text_last.csv": written(",", csv.QUOTE_MINIMAL, "\n", text_last, ROWS),
        "quoted.csv": written(",", csv.QUOTE_ALL, "\r\n", text_last, ROWS),
        "date_last.csv": written(",", csv.QUOTE_MINIMAL, "\r", date_last, ROWS),
        "one_column.csv": b"text\nup\ndown\nsideways\n",
        "text_last.tsv": written("\t", csv.QUOTE_MINIMAL, "\n", text_last, no_tabs),
        "quoted.tsv": written("\t", csv.QUOTE_ALL, "\r\n", date_last, no_tabs),
        "marked.csv": b"\xef\xbb\xbf" + written(",", csv.QUOTE_MINIMAL, "\n", text_last, ROWS[:2]),
        "wide.csv": written(",", csv.QUOTE_MINIMAL, "\n", text_last, ROWS[:2]).decode().encode("utf-16"),
        "a.jsonl": jsonl.encode(),
        "unended.jsonl": jsonl.rstrip("\n").encode(),
    }


def files() -> dict[str, bytes]:
    found = plain_files()
    packed = {f"{name}.gz": gzip.compress(found[name], mtime=0) for name in ("text_last.csv", "a.jsonl")}
    packed["members.csv.gz"] = b"".join(
        gzip.compress(part, mtime=0) for part in (found["text_last.csv"][:30], found["text_last.csv"][30:])
    )
    packed |= {f"{name}.zst": zstd(found[name]) for name in ("text_last.tsv", "a.jsonl")}
    ids, texts, dates = zip(*ROWS, strict=True)
    out = io.BytesIO()
    pq.write_table(pa.table({"id": ids, "text": texts, "created_at": dates}), out, row_group_size=2, **SMALL)
    return found | packed | {"a.parquet": out.getvalue()}


def taken(path: Path) -> Taken:
    file = arriving_file(InboxSource(uri=str(path)), str(path))
    found = read_file(file, max_characters=1000, masked=False)
    assert found.read == len(found.rows) + len(found.bad)
    return {(row.id, row.text, row.created_at) for row in found.rows}


FILES = files()


@pytest.mark.parametrize("name", FILES)
def test_a_cut_file_gives_rows_of_the_whole_one_and_no_others(tmp_path: Path, name: str) -> None:
    path, data = tmp_path / name, FILES[name]
    path.write_bytes(data)
    whole = taken(path)
    assert len(whole) >= 2
    most = 0
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        try:
            found = taken(path)
        except InputError:
            continue
        assert found <= whole, f"cut after {cut} of {len(data)} bytes: {found - whole}"
        most = max(most, len(found))
    assert name.endswith((".gz", ".zst", ".parquet", "wide.csv", "one_column.csv")) or most >= len(whole) - 1


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "id,text\n1,up\n2,dow", "line 3: the last one, without a line end: it may have been cut"),
        ("b.csv", 'id,text\n1,up\n2,"dow', "line 3: the file ends within a quoted field; it may have been cut"),
        ("c.tsv", 'id\ttext\n1\tup\n2\t"dow\n', "line 3: the file ends within a quoted field; it may have been cut"),
        ("d.csv", "id,text\n1,up\n2", "line 3: the last one, without a line end: it may have been cut"),
        ("e.jsonl", '{"id": 1, "text": "up"}\n{"id": 2, "text": "do', "not JSON"),
    ],
)
def test_a_cut_last_line_is_quarantined_with_its_reason(tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    found = read_file(arriving_file(InboxSource(uri=str(path)), str(path)), max_characters=1000, masked=False)
    assert [row.text for row in found.rows] == ["up"]
    (bad,) = found.bad
    assert (bad.number, bad.reason) == (2, "malformed row")
    assert reason in bad.detail


def test_a_quote_left_open_over_several_lines_damages_the_file(tmp_path: Path) -> None:
    """Nobody can tell a stray quote, after which each line is a row, from one long text that was cut."""
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,up\n2,"dow\n3,n', encoding="utf-8")
    with pytest.raises(InputError, match="line 3: a quote opens a field that is never closed"):
        taken(path)
