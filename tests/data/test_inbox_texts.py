"""Texts of the inbox are repaired as labelled ones are, and what an earlier release stored or scored as it came is known."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from finsent.config import InboxSource, Source, load_config
from finsent.data import tables
from finsent.data.inbox import InboxReport, receive
from finsent.data.predictions import ModelIdentity
from finsent.data.sources.labelled_file import load_labelled_file
from finsent.data.table_schemas import SCHEMAS
from finsent.scoring.pending_rows import find_pending
from finsent.text import text_hash, text_id
from finsent.workspace import Workspace
from tests.data.inbox_feeding import inbox, run

DAMAGED = {
    "Appleâ€™s profits rise": "Apple’s profits rise",
    "S&amp;P isn&#39;t up": "S&P isn't up",
    "b'gold \\xe2\\x80\\xa6'": "gold …",
    r"they say \"buy\"": 'they say "buy"',
    'he said ""sell""': 'he said "sell"',
    "@desk plain": "@desk plain",
}
MODEL = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC))


def send(home: Workspace, folder: Path, *rows: dict[str, str], **options: bool) -> InboxReport:
    (folder / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return receive([InboxSource(uri=str(folder / "in.jsonl"))], home, **options)


def test_the_inbox_evaluation_and_training_have_one_text(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    report = send(home, tmp_path, *({"text": text, "label": "Bullish"} for text in DAMAGED))
    assert inbox(home) == {text_id(text): text for text in DAMAGED.values()}, "a labelled twin has the same id"
    assert report.flags == {
        **dict.fromkeys(("mojibake repaired", "HTML entities undone", "byte literal undone"), 1),
        **dict.fromkeys(("escapes undone", "doubled quotes undone"), 1),
    }
    split = load_labelled_file(load_config().data, [Source(uri=str(tmp_path / "in.jsonl"))]).rows
    assert split.texts == list(DAMAGED.values())
    assert "noted about texts: mojibake repaired (1), HTML entities undone (1)" in caplog.text
    assert send(home, tmp_path, *({"text": text} for text in DAMAGED.values())).known == len(DAMAGED)


def test_texts_stay_as_they_came_where_the_setting_says_so(home: Workspace, tmp_path: Path) -> None:
    assert send(home, tmp_path, *({"text": text} for text in DAMAGED), repaired=False).flags == {"mojibake": 1}
    assert set(inbox(home).values()) == DAMAGED.keys()


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("kept", [True, False])
def test_what_came_before_texts_were_repaired_is_known_and_not_scored_again(
    home: Workspace, tmp_path: Path, own: bool, kept: bool
) -> None:
    rows = [{"id": f"t{number}" if own else text_id(text), "text": text} for number, text in enumerate(DAMAGED)]
    now = datetime.now(UTC)
    scored = [{"id": row["id"], "text_hash": text_hash(row["text"]), "model_digest": "one", "label": "Neutral"} for row in rows]
    tables.append(home, "predictions", pa.Table.from_pylist(scored, schema=SCHEMAS["predictions"]))
    if kept:
        stored = pa.Table.from_pylist([{**row, "received_at": now} for row in rows], schema=SCHEMAS["inbox"])
        tables.append(home, "inbox", stored)
    report = send(home, tmp_path, *(row if own else {"text": row["text"]} for row in rows))
    assert (report.known, report.received, report.quarantined) == ((6, 0, 0) if kept else (0, 6, 0))
    assert inbox(home) == {row["id"]: row["text"] for row in rows}
    due = find_pending(home, MODEL, max_characters=5000)
    assert (len(due.rows), due.settled, due.bad) == (0, 6, ())


def test_what_was_scored_unmasked_is_stored_masked_where_handles_are(home: Workspace, tmp_path: Path) -> None:
    scored = {"id": "1", "text_hash": text_hash("@desk: S&amp;P up"), "label": "Neutral"}
    tables.append(home, "predictions", pa.Table.from_pylist([scored], schema=SCHEMAS["predictions"]))
    assert send(home, tmp_path, {"id": "1", "text": "@desk: S&amp;P up"}, masked=True).received == 1
    assert inbox(home) == {"1": "@user: S&P up"}


def test_scheduled_feeding_repairs_likewise_and_says_so(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "in.jsonl").write_text(json.dumps({"id": "a", "text": "S&amp;P up"}) + "\n")
    (report,) = run(home, tmp_path / "in.jsonl", settle=0)
    assert (report.received, inbox(home)) == (1, {"a": "S&P up"})
    assert "in.jsonl: noted about texts: HTML entities undone (1)" in caplog.text


def test_of_a_literal_nothing_may_be_left(home: Workspace, tmp_path: Path) -> None:
    assert send(home, tmp_path, {"text": "b'https://t.co/x'"}, {"text": "up"}).reasons == {"empty": 1}
