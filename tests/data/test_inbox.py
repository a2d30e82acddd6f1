"""The inbox: every tweet once, by its id."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finsent.config import InboxSource
from finsent.data import tables
from finsent.data.inbox import InboxReport, receive, remove_scored
from finsent.data.predictions import ModelIdentity, predicted_by
from finsent.data.sample import inbox_files
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.text import text_hash, text_id
from finsent.workspace import Workspace, resolve_workspace


def _sample(day: int) -> list[InboxSource]:
    return [InboxSource(uri=str(path)) for path in inbox_files(day)]


def test_the_sample_arrives_day_by_day(home: Workspace) -> None:
    first = receive(_sample(1), home)
    again = receive(_sample(1), home)
    second = receive(_sample(2), home)
    assert first.read == first.received + first.quarantined
    assert (again.received, again.known, again.version) == (0, first.received, first.version)
    assert second.received > 600
    assert second.reasons.keys() >= {"empty", "too long", "not a string"}
    assert second.undated == 1
    assert tables.read(home, "inbox").num_rows == first.received + second.received
    assert tables.read(home, "quarantine").num_rows == first.quarantined + second.quarantined


def test_rows_without_an_id_are_known_by_their_text(home: Workspace, tmp_path: Path) -> None:
    rows = [{"text": "$AAPL up"}, {"text": "$aapl UP"}, {"text": "$AAPL up", "id": 7}, {"text": "other", "id": " "}]
    path = tmp_path / "in.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    report = receive([InboxSource(uri=str(path))], home)
    assert (report.read, report.received, report.known, report.quarantined) == (4, 3, 1, 0)
    kept = {row["id"]: row["text"] for row in tables.read(home, "inbox").to_pylist()}
    assert kept == {text_id("$AAPL up"): "$AAPL up", "7": "$AAPL up", text_id("other"): "other"}


def test_columns_by_other_names(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in.csv"
    path.write_text("id,posted,body\nx,2025-01-02T03:04:05+01:00,hello\n")
    assert receive([InboxSource(uri=str(path), text="body", created_at="posted")], home).received == 1
    (row,) = tables.read(home, "inbox").to_pylist()
    assert row["created_at"].isoformat() == "2025-01-02T02:04:05+00:00"
    assert row["received_at"] > row["created_at"]


def test_a_wrong_file_leaves_nothing_behind(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "good.csv").write_text("text\nhello\n")
    (tmp_path / "bad.csv").write_text("tweet\nhello\n")
    with pytest.raises(InputError, match="no column 'text'"):
        receive([*(InboxSource(uri=str(tmp_path / name)) for name in ("good.csv", "bad.csv"))], home)
    assert not home.root.exists()


def test_only_bad_rows(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text('text,x\n"",1\n')
    report = receive([InboxSource(uri=str(tmp_path / "in.csv"))], home)
    assert (report.received, report.quarantined, report.version) == (0, 1, None)


def test_an_id_that_comes_with_another_text_is_quarantined(home: Workspace, tmp_path: Path) -> None:
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    rows = [{"id": 1, "text": "$AAPL up"}, {"id": 2, "text": "gold"}, {"id": 2, "text": "silver"}, {"id": 2, "text": "GOLD "}]
    first.write_text("\n".join(map(json.dumps, rows)))
    second.write_text("\n".join(map(json.dumps, [{"id": 1, "text": "$AAPL down"}, {"id": 1, "text": "$AAPL up"}])))
    report = receive([InboxSource(uri=str(first))], home)
    assert (report.read, report.received, report.known, report.reasons) == (4, 2, 1, {"id reused": 1})
    for _ in range(2):
        report = receive([InboxSource(uri=str(second))], home)
        assert (report.read, report.received, report.known, report.reasons) == (2, 0, 1, {"id reused": 1})
    assert {row["id"]: row["text"] for row in tables.read(home, "inbox").to_pylist()} == {"1": "$AAPL up", "2": "gold"}
    details = {row["text"]: row["detail"] for row in tables.read(home, "quarantine").to_pylist()}
    assert details == {
        "silver": "id '2' is earlier in these files for 'gold', and comes here with 'silver'",
        "$AAPL down": "id '1' is in the inbox for '$AAPL up', and comes here with '$AAPL down'",
    }


def test_texts_of_one_character_arrive_once(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\nx,a\nx,a\n")
    report = receive([InboxSource(uri=str(tmp_path / "a.csv"))], home)
    assert (report.received, report.known) == (1, 1)


def test_a_run_that_another_machine_overtook_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (
        resolve_workspace({"FINSENT_HOME": str(tmp_path / name), "FINSENT_TABLES": str(tmp_path / "tables")}) for name in "ab"
    )
    ours, theirs = tmp_path / "ours.csv", tmp_path / "theirs.csv"
    ours.write_text("id,text\n1,one\n2,two\n3,three\n")
    theirs.write_text("id,text\n1,one\n2,zwei\n")
    real, overtaken = tables.append_if_unchanged, []

    def late(home: Workspace, name: str, *rest: Any) -> Any:
        if home == here and name == "inbox" and not overtaken:
            overtaken.append(receive([InboxSource(uri=str(theirs))], there))
        return real(home, name, *rest)

    monkeypatch.setattr(tables, "append_if_unchanged", late)
    report = receive([InboxSource(uri=str(ours))], here)
    assert (overtaken[0].received, report.received, report.known, report.reasons) == (2, 1, 1, {"id reused": 1})
    found = sorted((row["id"], row["text"]) for row in tables.read(there, "inbox").to_pylist())
    assert found == [("1", "one"), ("2", "zwei"), ("3", "three")]


def test_a_reused_id_shows_no_handle_of_a_text_from_before_masking(home: Workspace, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text\n1,@elonmusk is up\n")
    (tmp_path / "b.csv").write_text("id,text\n1,@elonmusk is down\n")
    receive([InboxSource(uri=str(tmp_path / "a.csv"))], home)
    assert receive([InboxSource(uri=str(tmp_path / "b.csv"))], home, masked=True).reasons == {"id reused": 1}
    (kept,) = tables.read(home, "quarantine").to_pylist()
    assert "'@user is up', and comes here with '@user is down'" in kept["detail"]


def test_a_file_of_ids_that_pandas_rounded_is_refused_and_the_true_ones_received_once(home: Workspace, tmp_path: Path) -> None:
    import pandas as pd

    good = pd.DataFrame(
        {"id": [1600000000000000101 + 7001 * k for k in range(8)], "text": [f"tweet {k} of Ostrava" for k in range(8)]}
    )
    good.to_csv(tmp_path / "good.csv", index=False)
    lost = good.astype({"id": "float64"})
    lost.to_parquet(tmp_path / "lost.parquet", index=False)
    lost.to_csv(tmp_path / "lost.csv", index=False)
    small = pd.DataFrame({"id": [1, None, 3], "text": ["one", "two", "three"]})
    small.to_parquet(tmp_path / "small.parquet", index=False)
    small.to_csv(tmp_path / "small.csv", index=False)
    for name in ("lost.parquet", "lost.csv"):
        with pytest.raises(InputError, match="holds no ids of tweets: 8 of its 8 rows have a rounded number"):
            receive([InboxSource(uri=str(tmp_path / name))], home)
    assert receive([InboxSource(uri=str(tmp_path / "good.csv"))], home).received == 8
    assert receive([InboxSource(uri=str(tmp_path / "small.parquet"))], home).received == 3
    assert receive([InboxSource(uri=str(tmp_path / "small.csv"))], home).known == 3
    found = set(tables.read(home, "inbox")["id"].to_pylist())
    assert found == {*good["id"].astype(str), "1", "3", text_id("two")}


def test_dates_that_cannot_be_read_cost_no_rows(home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in.csv").write_text("text,created_at\none,a while ago\ntwo,lately\n")
    for named in (None, "created_at"):
        report = receive([InboxSource(uri=str(tmp_path / "in.csv"), created_at=named)], home)
        assert (report.received + report.known, report.undated) == (2, 2)
    assert "nearly all dates in column 'created_at' are unreadable, such as 'a while ago': all rows are taken" in caplog.text


def test_an_id_that_was_scored_and_removed_stays_that_texts(home: Workspace, tmp_path: Path) -> None:
    """Else the prediction of the first text would stand for the second: what is pending goes by ids."""
    model = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC))
    link = "@desk: gold https://t.co/"  # without an id of its own, and its id the same behind any link
    file = tmp_path / "in.jsonl"

    def send(*rows: dict[str, str]) -> InboxReport:
        file.write_text("\n".join(map(json.dumps, rows)))
        return receive([InboxSource(uri=str(file))], home)

    assert send({"id": "1", "text": "@desk: $AAPL up"}, {"id": "2", "text": "silver"}, {"text": f"{link}1"}).received == 3
    inbox = tables.read(home, "inbox", columns=["id", "text"])
    rows = {"id": inbox["id"], "text_hash": pa.array(map(text_hash, inbox["text"].to_pylist())), "model_digest": ["one"] * 3}
    predictions = pa.table({name: rows.get(name, [None] * 3) for name in SCHEMAS["predictions"].names})
    tables.append(home, "predictions", predictions.cast(SCHEMAS["predictions"]))
    assert remove_scored(home, predicted_by(model), datetime.now(UTC) + timedelta(days=1)) == 3
    report = send({"id": "1", "text": "$AAPL down"}, {"id": "2", "text": "silver"}, {"text": f"{link}2"})
    assert (report.received, report.reasons) == (2, {"id reused": 1})
    (refused,) = tables.read(home, "quarantine").to_pylist()
    why = "id '1' was scored for another text, which the inbox no longer has, and comes here with '$AAPL down'"
    assert (refused["text"], refused["detail"]) == ("$AAPL down", why)
    assert receive([InboxSource(uri=str(file))], home).reasons == {"id reused": 1}
    file.write_text(json.dumps({"id": "1", "text": "@desk: $AAPL up"}))
    assert receive([InboxSource(uri=str(file))], home, masked=True).received == 1


def test_dates_are_judged_by_the_first_rows_that_have_one(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [f"text {number}," for number in range(5000)] + ["one,end of 2024", "two,end of 2025"]
    (tmp_path / "in.csv").write_text("text,created_at\n" + "\n".join(rows) + "\n")
    assert receive([InboxSource(uri=str(tmp_path / "in.csv"))], home).received == 5002
    assert "such as 'end of 2024': all rows are taken without" in caplog.text


def test_numbers_that_an_earlier_release_stored_as_floats_are_known(home: Workspace, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    stored = [{"id": "12.0", "text": "gold"}, {"id": "14.0", "text": "tin"}, {"id": "14", "text": "lead"}]
    tables.append(home, "inbox", pa.Table.from_pylist([{**row, "received_at": now} for row in stored], schema=SCHEMAS["inbox"]))
    scored = {"id": "13.0", "text_hash": text_hash("silver"), "label": "Neutral"}
    tables.append(home, "predictions", pa.Table.from_pylist([scored], schema=SCHEMAS["predictions"]))
    path = tmp_path / "in.csv"
    path.write_text("id,text\n12.0,gold\n13.0,silver\n14.0,lead\n1.,a\n1.00,b\n1,c\n")
    report = receive([InboxSource(uri=str(path))], home)
    assert (report.received, report.known, report.quarantined) == (4, 2, 0)
    ids = tables.read(home, "inbox", columns=["id"])["id"].to_pylist()
    assert sorted(ids) == ["1", "1.", "1.00", "12.0", "13.0", "14", "14.0"], "13.0 as it was scored"


def test_an_id_with_a_younger_row_keeps_its_rows(home: Workspace) -> None:
    model, now = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC)), datetime.now(UTC)
    came = [("1", "hello aapl", 40), ("1", "tesla crashes", 1), ("2", "gold", 40)]
    rows = [{"id": name, "text": text, "received_at": now - timedelta(days=days)} for name, text, days in came]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=SCHEMAS["inbox"]))
    scored = [
        {"id": name, "text_hash": text_hash(text), "model_digest": "one", "label": "Neutral"} for name, text, _ in came[::2]
    ]
    tables.append(home, "predictions", pa.Table.from_pylist(scored, schema=SCHEMAS["predictions"]))
    assert remove_scored(home, predicted_by(model), now - timedelta(days=30)) == 1
    assert tables.read(home, "inbox", columns=["id"])["id"].to_pylist() == ["1", "1"]
