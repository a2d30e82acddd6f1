"""Which column says which tweet a row of the inbox is, and files in which none does."""

import json
import logging
from pathlib import Path

import pytest

from finsent.config import InboxSource
from finsent.data import tables
from finsent.data.inbox import receive
from finsent.errors import InputError
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.data.inbox_feeding import faults, inbox, run, write

SNOWFLAKE = 1_650_000_000_000_000_101


def _rows(folder: Path, name: str, texts: list[str], first: int = 0) -> Path:
    return write(folder / name, [(str(first + number), text) for number, text in enumerate(texts)])


def _texts(day: str, count: int = 6) -> list[str]:
    return [f"{day} tweet {number}" for number in range(count)]


def test_a_column_of_another_name_is_pointed_out_and_read_when_named(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "stream.csv"
    texts = ["$QRST up", "$LMNO down", "$QRST up", "flat", "$QRST up"]
    path.write_text("tweet_id,text\n" + "".join(f"{SNOWFLAKE + 7 * k},{text}\n" for k, text in enumerate(texts)))
    report = receive([InboxSource(uri=str(path))], home, dry_run=True)
    assert (report.received, report.known, report.repeated) == (3, 2, 2)
    assert "its tweets are known by their texts, and a column looks like their ids: 'tweet_id'" in caplog.text
    assert "Read it with --id tweet_id, or say --id none" in caplog.text
    caplog.clear()
    assert receive([InboxSource(uri=str(path), id="none")], home, dry_run=True).received == 3
    assert not caplog.text
    report = receive([InboxSource(uri=str(path), id="tweet_id")], home)
    assert (report.received, report.known) == (5, 0)
    again = receive([InboxSource(uri=str(path), id="tweet_id")], home)
    assert (again.received, again.known, again.repeated) == (0, 5, 0), "had before, and not only twice in this file"
    assert inbox(home).keys() == {str(SNOWFLAKE + 7 * k) for k in range(5)}


def test_of_a_likely_column_that_was_rounded_is_said_why_it_is_not_read(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "sheet.csv"
    path.write_text("Tweet Id,text\n" + "".join(f"{SNOWFLAKE // 10**4 + k}0000,tweet {k}\n" for k in range(6)))
    assert receive([InboxSource(uri=str(path))], home, dry_run=True).received == 6
    assert "known by their texts, for column 'Tweet Id' holds no ids: nearly all end as rounded numbers do" in caplog.text


@pytest.mark.parametrize("first", [0, 1])
def test_row_numbers_are_no_ids(home: Workspace, tmp_path: Path, first: int) -> None:
    path = _rows(tmp_path, "monday.csv", _texts("monday"), first)
    with pytest.raises(InputError, match=r"column 'id' holds no ids of tweets: they number the rows .*--id COLUMN.*--id none"):
        receive([InboxSource(uri=str(path))], home)
    assert not home.root.exists(), "nothing was written"
    assert receive([InboxSource(uri=str(path), id="none")], home).received == 6
    assert inbox(home).keys() == set(map(text_id, _texts("monday")))


def test_the_better_column_is_named(home: Workspace, tmp_path: Path) -> None:
    rows = [{"id": number, "id_str": str(SNOWFLAKE + number), "text": f"tweet {number}"} for number in range(6)]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(InputError, match="--id id_str"):
        receive([InboxSource(uri=str(tmp_path / "in.jsonl"))], home)


def test_ids_that_begin_anew_in_the_next_file_stop_it(home: Workspace, tmp_path: Path) -> None:
    monday = _rows(tmp_path, "monday.csv", _texts("monday", 3))
    tuesday = _rows(tmp_path, "tuesday.csv", _texts("tuesday", 3))
    with pytest.raises(InputError, match=r"tuesday.csv.*3 of its 3 rows reuse one for another text.*'monday tweet 0'"):
        receive([InboxSource(uri=str(tmp_path))], home)
    assert tables.version(home, "inbox") is None
    assert receive([InboxSource(uri=str(monday))], home).received == 3
    with pytest.raises(InputError, match="is in the inbox for 'monday tweet 0'"):
        receive([InboxSource(uri=str(tuesday))], home)
    assert len(inbox(home)) == 3
    assert tables.version(home, "quarantine") is None
    assert receive([InboxSource(uri=str(tuesday), id="none")], home).received == 3


def test_numbers_that_somebody_named_are_taken_until_they_come_again(home: Workspace, tmp_path: Path) -> None:
    path = _rows(tmp_path, "table.csv", _texts("monday"), 1)
    assert receive([InboxSource(uri=str(path), id="id")], home).received == 6
    other = _rows(tmp_path, "other.csv", _texts("tuesday"), 1)
    with pytest.raises(InputError, match="6 of its 6 rows reuse"):
        receive([InboxSource(uri=str(other), id="id")], home)


def test_of_files_with_one_row_each_the_source_is_judged(home: Workspace, tmp_path: Path) -> None:
    for number in range(5):
        _rows(tmp_path, f"{number}.csv", [f"tweet {number}"])
    with pytest.raises(InputError, match="holds no ids of tweets: 1 of its 1 rows reuse"):
        receive([InboxSource(uri=str(tmp_path))], home)


def test_a_few_ids_that_are_reused_are_quarantined_and_a_high_share_is_said(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "in.csv", [(f"t{number % 9}", f"tweet {number}") for number in range(11)])
    assert receive([InboxSource(uri=str(tmp_path / "in.csv"))], home).reasons == {"id reused": 2}
    assert not caplog.records
    write(tmp_path / "bad.csv", [("x", "up"), ("y", "https://t.co/1")])
    with caplog.at_level(logging.WARNING):
        assert receive([InboxSource(uri=str(tmp_path / "bad.csv"))], home).reasons == {"empty": 1}
    assert "1 of 2 rows were quarantined: empty (1)" in caplog.text


def test_in_a_watched_folder_such_a_file_is_set_aside_and_the_others_go_on(home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    good = [(str(SNOWFLAKE + number), text) for number, text in enumerate(_texts("good"))]
    write(folder / "a.csv", good)
    write(folder / "b.csv", [(name, f"other {text}") for name, text in good])
    write(folder / "c.csv", [(name, f"other {text}") for name, text in good])  # a copy
    write(folder / "d.csv", [("z9", "the last"), ("z9", "too many"), ("z8", "https://t.co/1")])
    _rows(folder, "e.csv", _texts("numbered"))
    (report,) = run(home, folder)
    assert (report.files, report.read, report.received, report.known, report.quarantined) == (2, 9, 7, 0, 2)
    standing = faults(home, folder)
    assert standing.keys() == {"b.csv", "c.csv", "e.csv"}
    assert "6 of its 6 rows reuse one for another text" in standing["b.csv"].reason
    assert "number the rows from 0" in standing["e.csv"].reason
    assert inbox(home) == {**dict(good), "z9": "the last"}
    (again,) = run(home, folder)
    assert (again.files, again.received, len(again.faults)) == (0, 0, 3)
    (told,) = run(home, InboxSource(uri=str(folder), id="none"))
    assert (told.files, told.faults) == (5 - 1, ()), "the copy is not read twice"
    assert set(_texts("numbered")) < set(inbox(home).values())
