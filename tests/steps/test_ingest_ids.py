"""Labelled tweets are known by their texts; the id that their file has for them is kept beside it."""

import csv
from pathlib import Path

import pytest

from finsent.config import Source
from finsent.data import tables
from finsent.data.review_file import write_entries
from finsent.data.sources.labelled_file import load_labelled_file
from finsent.data.table_access import open_table
from finsent.errors import InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.steps.review_list import list_conflicts
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.steps.ingestion import CONFIG, check

TWEETS = {
    "1650000000000000101": ("$QRST breaking out on heavy volume", "Bullish"),
    "1650000000000000108": ("$LMNO cuts its guidance, this drops", "Bearish"),
    "1.65E+18": ("Markets are closed on Monday for the holiday", "Neutral"),
}


def test_an_id_column_that_is_named_is_kept_and_is_no_identity(home: Workspace, tmp_path: Path) -> None:
    context = make_context(CONFIG, home)
    path = tmp_path / "desk.csv"
    path.write_text("id,text,label\n" + "".join(f'{key},"{text}",{label}\n' for key, (text, label) in TWEETS.items()))
    report = ingest(context, (Source(uri=str(path), id="id"),))
    check(report, home)
    assert (report.accepted, report.flags) == (3, {"rounded id": 1})
    found = {row["id"]: row["source_id"] for row in tables.read(home, "tweets").to_pylist()}
    expected = {text_id(text): key if key.isdecimal() else None for key, (text, _) in TWEETS.items()}
    assert found == expected
    for given in ("none", None):
        assert ingest(context, (Source(uri=str(path), id=given),)).duplicates == 3


def test_a_contradictory_row_keeps_the_id_of_its_source(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "desk.csv"
    path.write_text("id,text,label\n101,$QRST breaking out,Bullish\n108,$QRST breaking out,Bearish\n109,fed meets,Neutral\n")
    ingest(make_context(CONFIG, home), (Source(uri=str(path), id="id"),))
    listed = list_conflicts(home).entries
    assert {(entry.label, entry.source_id) for entry in listed} == {("Bullish", "101"), ("Bearish", "108")}
    write_entries(listed, tmp_path / "review.csv")
    with (tmp_path / "review.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["source_id"] for row in csv.DictReader(file)] == [entry.source_id for entry in listed]


def test_an_evaluation_has_no_use_for_ids(tmp_path: Path) -> None:
    (tmp_path / "desk.csv").write_text("id,text,label\n7,$QRST breaking out on heavy volume,Bullish\n")
    with pytest.raises(InputError, match="has no effect"):
        load_labelled_file(CONFIG.data, [Source(uri=str(tmp_path / "desk.csv"), id="id")])
    assert load_labelled_file(CONFIG.data, [Source(uri=str(tmp_path / "desk.csv"), id="none")]).rows.texts


def test_without_a_name_no_id_is_read(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "desk.csv").write_text("id,text,label\n7,$QRST breaking out on heavy volume,Bullish\n")
    ingest(make_context(CONFIG, home), (Source(uri=str(tmp_path / "desk.csv")),))
    assert tables.read(home, "tweets", columns=["source_id"])["source_id"].to_pylist() == [None]
    handle = open_table(home, "tweets")
    assert handle is not None
    assert "source_id" in {field.name for field in handle.schema().fields}
