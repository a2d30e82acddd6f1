"""`scoring.sources`: what is new is received once, whatever overlaps, is still being written, or is killed."""

import json
import os
import socket
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

from finsent import files
from finsent.config import InboxSource
from finsent.data import inbox_sources, tables
from finsent.workspace import Workspace, resolve_workspace
from tests.data.inbox_feeding import LONG_AGO, faults, inbox, run, write
from tests.lock_holding import freeze, held


def test_only_what_is_new_is_read(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    write(folder / "a.csv", [("1", "up")])
    write(folder / "deep" / "b.csv.gz", [("2", "down"), ("1", "up")])
    (first,) = run(home, folder)
    assert (first.files, first.files_before, first.read, first.received, first.known) == (2, 0, 3, 2, 1)
    opened: list[str] = []
    real = inbox_sources.arriving_file
    monkeypatch.setattr(inbox_sources, "arriving_file", lambda source, uri: opened.append(Path(uri).name) or real(source, uri))
    versions = tables.version(home, "inbox"), tables.version(home, "inbox_files")
    (second,) = run(home, folder)
    assert (second.files, second.files_before, second.read) == (0, 2, 0)
    assert opened == []
    assert (tables.version(home, "inbox"), tables.version(home, "inbox_files")) == versions, "nothing to say, nothing written"
    write(folder / "a.csv", [("1", "up"), ("3", "flat")], modified=LONG_AGO)
    (grown,) = run(home, folder)
    assert (grown.files, grown.files_before, grown.received, grown.known) == (1, 1, 1, 1)
    assert opened == ["a.csv"]
    assert inbox(home) == {"1": "up", "2": "down", "3": "flat"}


def test_content_counts_and_not_the_name_or_the_time(home: Workspace, tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "a.csv", [("1", "up")])
    run(home, tmp_path / "in")
    path.rename(tmp_path / "in" / "b.csv")
    write(tmp_path / "in" / "copy.csv", [("1", "up")], modified=LONG_AGO + 1)
    (moved,) = run(home, tmp_path / "in")
    assert (moved.files, moved.files_before, moved.read) == (0, 2, 0)
    same = write(tmp_path / "in" / "b.csv", [("2", "no")])  # as long as before, and of the same time
    assert same.stat().st_mtime == LONG_AGO
    (replaced,) = run(home, tmp_path / "in")
    assert (replaced.files, replaced.received) == (1, 1)


def test_sources_that_overlap_are_received_once(home: Workspace, tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.csv", [("1", "up")])
    (tmp_path / "other").symlink_to(tmp_path / "in")
    sources = tmp_path / "in", tmp_path / "in" / "*.csv", tmp_path / "other", tmp_path / "in" / "a.csv"
    found = run(home, *sources)
    assert [(item.files, item.received) for item in found] == [(1, 1), (0, 0), (0, 0), (0, 0)]
    assert inbox(home) == {"1": "up"}


def test_another_column_makes_it_another_file(home: Workspace, tmp_path: Path) -> None:
    """Whoever corrects the configuration need not touch the file that was set aside for it."""
    path = tmp_path / "in.csv"
    path.write_text("key,body,posted\n7,up,2025-01-02\n")
    os.utime(path, (LONG_AGO, LONG_AGO))
    (wrong,) = run(home, path)
    (fault,) = wrong.faults
    assert (fault.state, fault.uri) == ("set aside", str(path))
    assert "there is no column 'text'" in fault.reason
    right = InboxSource(uri=str(path), text="body", id="key", created_at="posted")
    (found,) = run(home, right)
    assert (found.received, found.faults) == (1, ())
    assert inbox(home) == {"7": "up"}
    assert not faults(home, right)


def test_a_query_is_read_each_time_and_its_rows_once(home: Workspace, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (id INTEGER, body TEXT)")
    source = InboxSource(uri=f"sqlite:///{tmp_path / 'desk.db'}", query="SELECT id, body AS text FROM tweets", name="desk")
    (empty,) = run(home, source)
    assert (empty.source, empty.read, empty.faults) == ("desk", 0, ()), "no rows are no fault"
    for number, (received, known) in enumerate([(1, 0), (1, 1), (1, 2)]):
        with sqlite3.connect(tmp_path / "desk.db") as connection:
            connection.execute("INSERT INTO tweets VALUES (?, ?)", (number, f"tweet {number}"))
        (found,) = run(home, source)
        assert (found.files, found.received, found.known) == (1, received, known)
    connection.close()
    assert tables.read(home, "inbox_files").num_rows == 1, "one record for the query, not one for each run"


def test_a_file_that_is_being_written_is_left_to_the_next_run(home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "old.csv", [("1", "up")])
    write(folder / "young.csv", [("2", "down")], modified=None)
    write(folder / "ahead.csv", [("3", "flat")], modified=time.time() + 1e6)
    growing = write(folder / "growing.csv", [("4", "up")], modified=None)
    begun, real = time.monotonic(), time.sleep

    def written_meanwhile(seconds: float) -> None:
        with growing.open("a") as file:
            file.write("5,do")
        real(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inbox_sources.time, "sleep", written_meanwhile)
        (found,) = run(home, folder, settle=0.3)
    assert time.monotonic() - begun >= 0.3
    assert found.unsettled == (str(growing),)
    assert inbox(home) == {"1": "up", "2": "down", "3": "flat"}
    os.utime(growing, (LONG_AGO, LONG_AGO))
    (later,) = run(home, folder)
    assert (later.files, later.received, later.quarantined) == (1, 1, 1), "the cut line is no tweet"
    assert inbox(home)["4"] == "up"


def test_a_file_that_changes_while_it_is_read_is_left_to_the_next_run(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "in" / "a.csv", [("1", "up")])
    real = inbox_sources.read_file

    def read_and_write(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        write(path, [("1", "up"), ("2", "down")])
        return found

    monkeypatch.setattr(inbox_sources, "read_file", read_and_write)
    (found,) = run(home, tmp_path / "in")
    assert (found.received, found.unsettled) == (0, (str(path),))
    monkeypatch.setattr(inbox_sources, "read_file", real)
    assert run(home, tmp_path / "in")[0].received == 2


def test_what_is_no_file_of_tweets_is_passed_over_and_nothing_blocks(home: Workspace, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    write(folder / "good.csv", [("1", "up")])
    for name in (
        ".hidden.csv",
        "~lock.csv",
        "a.csv.part",
        "b.csv.tmp",
        "c.csv.crdownload",
        "d.csv~",
        ".rsync/e.csv",
        "notes.txt",
    ):
        write(folder / name, [(name, "no")])
    (folder / "folder.csv").mkdir()
    os.mkfifo(folder / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(folder)  # a socket's path is short
        listening.bind("socket.csv")
        os.chdir(here)
        (folder / "loop.csv").symlink_to("loop.csv")
        (folder / "away.csv").symlink_to("nowhere")
        (folder / "around").symlink_to(folder)
        (folder / "about").symlink_to(folder)
        weird = write(folder / "two\nlines\x1b[31m\udcff.csv", [("2", "down")])
        for uri in (folder, folder / "*", folder / "**/*.csv"):
            (found,) = run(home, InboxSource(uri=str(uri)))
            names = {Path(fault.uri).name: fault.reason for fault in found.faults}
            assert {"loop.csv", "away.csv"} <= names.keys()
            assert "a link to 'nowhere'" in names["away.csv"]
            assert found.files + found.files_before == 2
        assert "notes.txt" not in names
    assert inbox(home) == {"1": "up", "2": "down"}
    assert any(uri.endswith("two\nlines\x1b[31m\\xff.csv") for uri in tables.read(home, "inbox_files")["uri"].to_pylist())
    assert weird.exists()


def test_a_run_goes_on_beside_one_that_froze_at_the_inbox(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0.05)
    path = write(tmp_path / "a.csv", [("1", "up")])
    with held(home.lock("inbox")) as other:
        freeze(other)
        assert run(home, path)[0].received == 1
        assert f"a process at the inbox commits nothing. Process {other.pid}" in caplog.text


class Killed(BaseException):
    """As a process dies: nothing catches it."""


def test_killed_before_every_write_no_row_is_lost_or_doubled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    expected = {}
    for number in range(3):
        rows = [(f"{number}-{row}", f"tweet {row} of {number}") for row in range(3)]
        write(folder / f"{number}.csv", [*rows, ("0-0", "tweet 0 of 0"), ("x", "")])
        expected.update(rows)
    (folder / "bad.csv").write_bytes(b"\x00\x01\x02" * 100)
    os.utime(folder / "bad.csv", (LONG_AGO, LONG_AGO))
    monkeypatch.setattr(inbox_sources, "_FILES_AT_ONCE", 2)
    real, place = tables._append, 0
    while True:
        home, made = resolve_workspace({"FINSENT_HOME": str(tmp_path / f"home{place}")}), [0]

        def dying(*args: Any, place: int = place, made: list[int] = made) -> int:
            made[0] += 1
            if made[0] == place + 1:
                raise Killed
            return real(*args)

        with monkeypatch.context() as patch:
            patch.setattr(tables, "_append", dying)
            try:
                run(home, folder)
                break
            except Killed:
                place += 1
        run(home, folder)
        (last,) = run(home, folder)
        assert inbox(home) == expected, f"killed at write {place}"
        assert (last.files, last.files_before, len(last.faults)) == (0, 3, 1)
        assert tables.read(home, "quarantine").num_rows == 3
    assert place >= 6


def test_a_deleted_inbox_is_filled_again(home: Workspace, tmp_path: Path) -> None:
    import shutil

    write(tmp_path / "in" / "a.csv", [("1", "up")])
    run(home, tmp_path / "in")
    shutil.rmtree(Path(home.tables_url) / "inbox")
    assert run(home, tmp_path / "in")[0].received == 1


def test_more_columns_than_asked_for_and_json_lines(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"tweet {n}", "lang": "en"}) + "\n" for n in range(3)))
    (found,) = run(home, path, settle=0)
    assert (found.received, found.quarantined) == (3, 0)
