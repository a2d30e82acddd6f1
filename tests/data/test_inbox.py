"""The inbox: every tweet once, by its id."""

import json
from pathlib import Path

import pytest

from finsent.data import tables
from finsent.data.inbox import receive
from finsent.data.sample import inbox_files
from finsent.errors import InputError
from finsent.home import Home
from finsent.text import text_id


def test_the_sample_arrives_day_by_day(home: Home) -> None:
    first = receive(inbox_files(1), home)
    again = receive(inbox_files(1), home)
    second = receive(inbox_files(2), home)
    assert first.read == first.received + first.quarantined
    assert (again.received, again.known, again.version) == (0, first.received, first.version)
    assert second.received > 600
    assert second.reasons.keys() >= {"empty", "too long", "not a string", "unreadable date"}
    assert tables.read(home, "inbox").num_rows == first.received + second.received
    assert tables.read(home, "quarantine").num_rows == first.quarantined + second.quarantined


def test_rows_without_an_id_are_known_by_their_text(home: Home, tmp_path: Path) -> None:
    rows = [{"text": "$AAPL up"}, {"text": "$aapl UP"}, {"text": "$AAPL up", "id": 7}, {"text": "other", "id": " "}]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    report = receive([path], home)
    assert (report.read, report.received, report.known, report.quarantined) == (4, 3, 1, 0)
    kept = {row["id"]: row["text"] for row in tables.read(home, "inbox").to_pylist()}
    assert kept == {text_id("$AAPL up"): "$AAPL up", "7": "$AAPL up", text_id("other"): "other"}


def test_columns_by_other_names(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,posted,body\nx,2025-01-02T03:04:05+01:00,hello\n")
    assert receive([path], home, text="body", created_at="posted").received == 1
    (row,) = tables.read(home, "inbox").to_pylist()
    assert row["created_at"].isoformat() == "2025-01-02T02:04:05+00:00"
    assert row["received_at"] > row["created_at"]


def test_a_wrong_file_leaves_nothing_behind(home: Home, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("text\nhello\n")
    (tmp_path / "bad.csv").write_text("tweet\nhello\n")
    with pytest.raises(InputError, match="no column 'text'"):
        receive([tmp_path / "good.csv", tmp_path / "bad.csv"], home)
    assert not home.root.exists()


def test_only_bad_rows(home: Home, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('text,x\n"",1\n')
    report = receive([tmp_path / "in.csv"], home)
    assert (report.received, report.quarantined, report.version) == (0, 1, None)
