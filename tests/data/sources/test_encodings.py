"""Files in another encoding than UTF-8 stop with the option that reads them, instead of losing the rows with accents."""

import json
from pathlib import Path

import pytest

from finsent.config import InboxSource, Source
from finsent.data.sources.formats import read_rows
from finsent.data.sources.records import RawRow, labelled_columns
from finsent.data.sources.resolve import resolve
from finsent.errors import InputError
from finsent.workspace import Workspace
from tests.data.inbox_feeding import faults, inbox, run

ROWS = [{"text": f"Société {number} résiste", "label": "Bullish"} for number in range(6)] + [{"text": "up", "label": "Bullish"}]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)
FORMS = {
    "a.csv": "text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in ROWS),
    "a.jsonl": LINES,
    "lines.json": LINES,
    "array.json": json.dumps(ROWS, ensure_ascii=False, indent=1),
    "envelope.json": json.dumps({"data": ROWS}, ensure_ascii=False),
}


def rows_of(path: Path, **options: str) -> list[RawRow]:
    source = Source.model_validate({"uri": str(path)} | options)
    return [row for file in resolve(source) for batch in read_rows(file, labelled_columns(source)) for row in batch]


@pytest.mark.parametrize("name", FORMS)
def test_the_encoding_is_named_and_read_when_given(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FORMS[name].encode("cp1252"))
    with pytest.raises(InputError, match=r"It may be cp1252: --encoding cp1252\. Nothing was written"):
        rows_of(tmp_path / name)
    assert [row.text for row in rows_of(tmp_path / name, encoding="cp1252")] == [row["text"] for row in ROWS]


def test_a_few_broken_lines_cost_themselves(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LINES.encode() + LINES.encode("cp1252"))
    reasons = [row.fault and row.fault.reason for row in rows_of(tmp_path / "a.jsonl")]
    assert reasons == [None] * 7 + ["bad encoding"] * 6 + [None]


def test_a_document_that_is_damaged_is_not_called_another_encoding(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(FORMS["array.json"].encode().replace("é".encode(), b"\xe9", 1))
    with pytest.raises(InputError, match=r"with bytes that are not UTF-8\. Give its encoding"):
        rows_of(tmp_path / "a.json")


def test_of_the_inboxs_sources_such_a_file_is_set_aside_and_the_others_go_on(home: Workspace, tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl", "array.json"):
        (tmp_path / name).write_bytes(FORMS[name].encode("cp1252"))
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "$AAPL up"}) + "\n")
    (report,) = run(home, tmp_path, settle=0)
    assert (report.read, report.received, list(inbox(home).values())) == (1, 1, ["$AAPL up"])
    found = faults(home, tmp_path)
    assert found.keys() == {"a.csv", "a.jsonl", "array.json"}
    assert all("--encoding cp1252" in fault.reason for fault in found.values())
    (report,) = run(home, InboxSource(uri=str(tmp_path), encoding="cp1252"), settle=0)
    assert len(inbox(home)) == 8


@pytest.mark.parametrize("first", ["[1, 2]", "[]", '[{"text": "x", "label": "Bullish"}]', "[2021-01-01] an export", "# tweets"])
def test_a_first_line_that_is_no_object_costs_itself(tmp_path: Path, first: str) -> None:
    (tmp_path / "a.jsonl").write_text(f"{first}\n{LINES}", encoding="utf-8")
    bad, *good = rows_of(tmp_path / "a.jsonl")
    assert (bad.fault and bad.fault.reason, len(good)) == ("malformed row", 7)
    assert all(row.fault is None for row in good)


def test_lines_of_arrays_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('[{"text": "x", "label": "Bullish"}]\n' * 3)
    with pytest.raises(InputError, match=r"Its lines are arrays.*jq -c '\.\[\]'"):
        rows_of(tmp_path / "a.jsonl")
