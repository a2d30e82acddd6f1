"""`scoring.sources`: what is new is received once, what is damaged is set aside, and neither stops the others."""

import gzip
import json
import os
import socket
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from finsent import files
from finsent.config import DataConfig, InboxSource, ScoringConfig
from finsent.data import inbox_sources, tables
from finsent.data.inbox_files import InboxFault, find_faults
from finsent.data.inbox_sources import SourceArrivals, receive_sources
from finsent.data.sources.s3 import ReplacedWhileRead
from finsent.workspace import Workspace, resolve_workspace
from tests.lock_holding import freeze, held

LONG_AGO = 1_700_000_000


def write(path: Path, rows: Iterable[tuple[str, str]], *, modified: float | None = LONG_AGO) -> Path:
    """A CSV file that has rested since `modified`; None leaves it as just written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "id,text\n" + "".join(f"{name},{text}\n" for name, text in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    if modified is not None:
        os.utime(path, (modified, modified))
    return path


def made(*sources: Path | InboxSource) -> tuple[InboxSource, ...]:
    return tuple(source if isinstance(source, InboxSource) else InboxSource(uri=str(source)) for source in sources)


def run(home: Workspace, *sources: Path | InboxSource, settle: float = 10.0, **data: Any) -> list[SourceArrivals]:
    return list(receive_sources(ScoringConfig(sources=made(*sources), settle_seconds=settle), DataConfig(**data), home))


def inbox(home: Workspace) -> dict[str, str]:
    rows = tables.read(home, "inbox", columns=["id", "text"]).to_pylist()
    found = {row["id"]: row["text"] for row in rows}
    assert len(found) == len(rows), "an id came in twice"
    return found


def faults(home: Workspace, *sources: Path | InboxSource) -> dict[str, InboxFault]:
    return {Path(fault.uri).name: fault for fault in find_faults(home, made(*sources))}


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


def test_a_damaged_file_is_set_aside_and_the_others_go_on(
    home: Workspace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "in"
    for number in (1, 3):
        write(folder / f"{number}.csv", [(str(number), "up")])
    damaged = write(folder / "2.csv.gz", [("2", "down")])
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-9])
    (folder / "4.csv").write_bytes(b"")
    for name in ("2.csv.gz", "4.csv"):
        os.utime(folder / name, (LONG_AGO, LONG_AGO))
    (first,) = run(home, folder)
    assert (first.files, first.received) == (2, 2)
    assert [(Path(fault.uri).name, fault.state) for fault in first.faults] == [("2.csv.gz", "set aside"), ("4.csv", "set aside")]
    assert first.faults[0].identity
    assert "is damaged or cut short" in faults(home, folder)["2.csv.gz"].reason
    assert "is empty" in faults(home, folder)["4.csv"].reason
    assert "2.csv.gz', of the source" in caplog.text
    assert damaged.read_bytes() == whole[:-9], "the folder may be somebody else's"
    caplog.clear()
    version = tables.version(home, "inbox_files")
    (second,) = run(home, folder)
    assert second.faults == first.faults, "still to be seen"
    assert (second.files, caplog.text, tables.version(home, "inbox_files")) == (0, "", version)
    os.utime(damaged)
    (touched,) = run(home, folder, settle=0)
    assert (touched.files, len(touched.faults), caplog.text) == (0, 2, ""), "its content is what counts"
    damaged.write_bytes(whole)
    (folder / "4.csv").unlink()
    (mended,) = run(home, folder, settle=0)
    assert (mended.files, mended.received, mended.faults) == (1, 1, ())
    assert not faults(home, folder)
    assert inbox(home) == {"1": "up", "2": "down", "3": "up"}


def test_a_source_out_of_reach_does_not_stop_the_others_and_is_tried_again(home: Workspace, tmp_path: Path) -> None:
    good = write(tmp_path / "in" / "a.csv", [("1", "up")])
    lost = tmp_path / "mount"
    dead = InboxSource(uri="postgresql://me:secret@127.0.0.1:1/desk", query="SELECT 1")
    found = run(home, lost, dead, good)
    assert [len(item.faults) for item in found] == [1, 1, 0]
    assert found[2].received == 1
    standing = faults(home, lost, dead, good)
    assert [fault.state for fault in standing.values()] == ["not read"] * 2
    assert "secret" not in str(standing)
    write(lost / "b.csv", [("2", "down")])
    found = run(home, lost, dead, good)
    assert [item.received for item in found] == [1, 0, 0]
    (still,) = faults(home, lost, dead, good).values()
    assert still.uri.startswith("postgresql")
    (other,) = faults(home, lost, good).values()
    assert not other.configured, "a command with another configuration shows it too, and says so"


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


def test_what_may_not_be_read_is_tried_by_each_run(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    write(folder / "good.csv", [("1", "up")])
    closed = write(folder / "closed.csv", [("2", "down")])
    vanishing = write(folder / "vanishing.csv", [("3", "flat")])
    broken = write(folder / "disk.csv", [("4", "flat")])
    real = inbox_sources.content_identity

    def identity(file: Any) -> str | None:
        errors = {str(closed): PermissionError(13, "Permission denied"), str(broken): OSError(5, "Input/output error")}
        if (error := errors.get(file.uri)) is not None:
            from finsent.data.sources.decode import read_error

            raise read_error(file.uri, error) from error
        if file.uri == str(vanishing):
            vanishing.unlink(missing_ok=True)
        return real(file)

    with monkeypatch.context() as patch:
        patch.setattr(inbox_sources, "content_identity", identity)
        (found,) = run(home, folder)
        assert (found.received, {fault.state for fault in found.faults}) == (1, {"not read"})
        assert faults(home, folder).keys() == {"closed.csv", "disk.csv"}
        assert "permission denied" in faults(home, folder)["closed.csv"].reason
        run(home, folder)
    (found,) = run(home, folder)
    assert (found.received, found.faults) == (2, ())
    assert not faults(home, folder)


def test_a_fault_of_ours_costs_one_file(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "in" / "a.csv", [("1", "up")])
    odd = write(tmp_path / "in" / "b.csv", [("2", "down")])
    real = inbox_sources.read_file

    def failing(file: Any, *args: Any, **kwargs: Any) -> Any:
        if file.uri == str(odd):
            raise ZeroDivisionError("division by zero")
        return real(file, *args, **kwargs)

    monkeypatch.setattr(inbox_sources, "read_file", failing)
    (found,) = run(home, tmp_path / "in")
    assert found.received == 1
    assert "unexpected ZeroDivisionError: division by zero. This is a fault in finsent" in found.faults[0].reason


def test_handles_in_a_reason_are_masked(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"@elonmusk is up\n2,n\n')
    (found,) = run(home, path, settle=0, mask_handles=True)
    assert "@user is up" in found.faults[0].reason
    assert "elonmusk" not in str(tables.read(home, "inbox_files").to_pylist())


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


def test_a_dataset_that_cannot_be_found_is_said(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    def not_found(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetNotFoundError("Dataset 'me/tweets' doesn't exist on the Hub or cannot be accessed.")

    monkeypatch.setattr(datasets, "load_dataset", not_found)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", not_found)
    for source in (InboxSource(uri="hf://me/tweets"), InboxSource(uri="hf://me/tweets", revision="abc")):
        (found,) = run(home, source)
        assert [(fault.uri, fault.state) for fault in found.faults] == [("hf://me/tweets", "not read")]
        assert "doesn't exist on the Hub" in found.faults[0].reason


def test_a_pattern_whose_folder_cannot_be_listed_is_no_empty_one(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    (folder / "deep" / "closed").mkdir(parents=True)
    (folder / "bad.csv").write_text("idx,body\n1,up\n")
    write(folder / "deep" / "a.csv", [("1", "up")])
    patterns = [InboxSource(uri=str(folder / pattern)) for pattern in ("*.csv", "**/*.csv", "*/*/*.csv")]
    assert [fault.state for fault in run(home, *patterns, settle=0)[0].faults] == ["set aside"]
    real = os.scandir

    def closed(path: Any = ".") -> Any:
        if str(path) == str(folder / "deep" / "closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", closed)
        for pattern in patterns[1:]:
            (found,) = run(home, pattern, settle=0)
            assert "closed" in {Path(fault.uri).name for fault in found.faults}
            assert "the folder cannot be listed: Permission denied" in faults(home, pattern)["closed"].reason
    folder.rename(tmp_path / "away")
    for item in run(home, *patterns):
        assert [fault.state for fault in item.faults] == ["not read"]
        assert "No such file or directory" in item.faults[0].reason
    assert "bad.csv" in faults(home, *patterns), "nothing says that it is gone"


@pytest.mark.parametrize("what", ["memory", "replaced"])
def test_what_is_not_the_contents_fault_is_tried_again(
    home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = write(tmp_path / "a.csv", [("1", "up")])

    def failing(*_: object, **__: object) -> None:
        raise MemoryError if what == "memory" else ReplacedWhileRead("it was replaced while it was read")

    with monkeypatch.context() as patch:
        patch.setattr(inbox_sources, "read_file", failing)
        (found,) = run(home, path)
        if what == "memory":
            assert "memory is used up" in found.faults[0].reason
        else:
            assert (found.unsettled, found.faults) == ((str(path),), ())
    assert run(home, path)[0].received == 1


def test_a_corrected_name_is_another_format(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.csv"
    path.parent.mkdir()
    path.write_text("id\ttext\n1\tup\n")
    assert [fault.state for fault in run(home, path.parent, settle=0)[0].faults] == ["set aside"]
    path.rename(path.with_suffix(".tsv"))
    (found,) = run(home, path.parent, settle=0)
    assert (found.received, found.faults) == (1, ())


def test_a_file_set_aside_is_seen_however_its_source_is_written(home: Workspace, tmp_path: Path) -> None:
    path = tmp_path / "in" / "a.csv"
    path.parent.mkdir()
    path.write_text("idx,body\n1,up\n")
    run(home, path.parent, settle=0)
    pattern = InboxSource(uri=str(path.parent / "*.csv"))
    for _ in range(2):
        assert len(run(home, pattern, settle=0)[0].faults) == 1
        assert faults(home, pattern).keys() == {"a.csv"}
        version = tables.version(home, "inbox_files")
    run(home, pattern, settle=0)
    assert tables.version(home, "inbox_files") == version


def test_a_refused_row_of_a_query_is_recorded_once_wherever_it_stands(home: Workspace, tmp_path: Path) -> None:
    query = "SELECT id, body AS text FROM tweets ORDER BY id DESC"
    source = InboxSource(uri=f"sqlite:///{tmp_path / 'desk.db'}", query=query)
    with sqlite3.connect(tmp_path / "desk.db") as connection:
        connection.execute("CREATE TABLE tweets (id INTEGER, body TEXT)")
        connection.execute("INSERT INTO tweets VALUES (1, ''), (2, '')")
    for number in range(3, 5):
        with sqlite3.connect(tmp_path / "desk.db") as connection:
            connection.execute("INSERT INTO tweets VALUES (?, ?)", (number, f"tweet {number}"))
        assert run(home, source)[0].quarantined == 2
    connection.close()
    kept = tables.read(home, "quarantine", columns=["source", "row"]).to_pylist()
    assert sorted((row["source"], row["row"]) for row in kept) == [("desk, id 1", 0), ("desk, id 2", 0)]
