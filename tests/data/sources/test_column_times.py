"""Columns of times through files: decided before the first row is taken, and never at the cost of a row."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from finsent.config import InboxSource, Source, load_config
from finsent.data import tables
from finsent.data.inbox import receive
from finsent.data.ingest_report import IngestReport
from finsent.errors import InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace

WORDS = ("gold", "silver", "copper", "zinc", "nickel", "tin", "lead", "cobalt")
CONFIG = load_config()


def write(path: Path, dates: list[str]) -> Path:
    rows = [f'"{date}",{WORDS[n % 8]} number {n} of the day,Neutral' for n, date in enumerate(dates)]
    path.write_text("\n".join(["created_at,text,label", *rows]) + "\n")
    return path


def run(home: Workspace, path: Path, **settings: str) -> IngestReport:
    return ingest(make_context(CONFIG, home), [Source.model_validate({"uri": str(path), **settings})])


def stored(home: Workspace) -> list[datetime | None]:
    rows = tables.read(home, "tweets", columns=["text", "created_at"]).to_pylist()
    return [row["created_at"] for row in sorted(rows, key=lambda row: int(row["text"].split()[2]))]


def test_times_with_a_zone_after_a_blank(home: Workspace, tmp_path: Path) -> None:
    report = run(home, write(tmp_path / "a.csv", ["2021-01-14 23:10:54 UTC", "2021-01-14 23:11:54 +0000"]))
    assert (report.accepted, report.flags) == (2, {})
    assert stored(home) == [datetime(2021, 1, 14, 23, minute, 54, tzinfo=UTC) for minute in (10, 11)]


def test_a_spreadsheets_days_stop_with_the_option_that_reads_them(home: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["44237.65", "44238.2493518", "44238.4993518"])
    with pytest.raises(InputError, match=r"--date-format excel reads '44237\.65' as 10 February 2021 15:36"):
        run(home, path)
    assert tables.version(home, "tweets") is None
    assert run(home, path, date_format="excel").accepted == 3
    assert stored(home)[0] == datetime(2021, 2, 10, 15, 36, tzinfo=UTC)


def test_the_whole_column_is_read_where_its_first_rows_leave_the_order_open(home: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", ["05/01/2021 10:00"] * 4100)
    with pytest.raises(
        InputError, match="day-first reads '05/01/2021 10:00' as 05 January 2021 10:00; --date-format month-first"
    ):
        receive([InboxSource(uri=str(path))], home)
    assert receive([InboxSource(uri=str(path), created_at="none")], home).undated == 0
    with path.open("a") as file:
        file.write('"25/01/2021 11:00",platinum,Neutral\n')
    assert receive([InboxSource(uri=str(path))], home).received == 1
    assert tables.read(home, "inbox", filters=[("text", "=", "platinum")])["created_at"].to_pylist() == [
        datetime(2021, 1, 25, 11, tzinfo=UTC)
    ]


def test_a_column_whose_later_rows_contradict_its_first_ones_has_no_reading(home: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "in.csv", ["25/01/2021"] + ["05/01/2021"] * 4096 + ["01/25/2021"] * 60)
    with pytest.raises(InputError, match=r"day-first reads '25/01/2021' as .*; --date-format month-first reads '01/25/2021'"):
        receive([InboxSource(uri=str(path))], home)


def test_a_date_that_cannot_be_read_costs_no_row(home: Workspace, tmp_path: Path) -> None:
    report = run(home, write(tmp_path / "a.csv", ["2021-01-14", "2021-01-15", "1970-01-01", "2199-01-01"]))
    assert (report.accepted, report.flags) == (4, {"unreadable date": 1, "future date": 1})
    assert stored(home)[2:] == [None, None]


def test_a_form_that_reads_nothing_and_one_without_a_column_are_refused(home: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["2021-01-14", "2021-01-15"])
    with pytest.raises(InputError, match=r"such as '2021-01-14', by the date_format '%d\.%m\.%Y'"):
        run(home, path, date_format="%d.%m.%Y")
    with pytest.raises(InputError, match="created_at is none"):
        run(home, path, date_format="s", created_at="none")
    (tmp_path / "b.csv").write_text("text,label\ngold,Neutral\n")
    with pytest.raises(InputError, match="no column 'created_at'"):
        run(home, tmp_path / "b.csv", date_format="s")


def test_files_of_a_folder_share_the_order_that_one_of_them_shows(home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    write(folder / "a.csv", ["05/01/2021", "06/01/2021"])
    with pytest.raises(InputError, match=r"day-first reads '05/01/2021' as 05 January 2021"):
        receive([InboxSource(uri=str(folder))], home)
    (folder / "b.csv").write_text("text,created_at\nplatinum,25/01/2021\n")
    (folder / "c.csv").write_text("text\nwithout a date\n")
    assert receive([InboxSource(uri=str(folder))], home).received == 4
    dated = {row["text"]: row["created_at"] for row in tables.read(home, "inbox").to_pylist()}
    assert dated["gold number 0 of the day"] == datetime(2021, 1, 5, tzinfo=UTC)
    (folder / "d.csv").write_text("text,created_at,label\niridium,01/26/2021,Neutral\n")
    with pytest.raises(InputError, match=r"(?s)b\.csv' is day-first, as '25/01/2021' is 25 Jan.*d\.csv' is month-first, as"):
        receive([InboxSource(uri=str(folder))], home)
    with pytest.raises(InputError, match=r"(?s)b\.csv' is day-first.*d\.csv' is month-first.*--date-format"):
        ingest(make_context(CONFIG, home), [Source(uri=str(folder / "[bd].csv"), label_value="Neutral")])
