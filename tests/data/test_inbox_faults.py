"""`scoring.sources`: what cannot be read costs itself alone, is shown, and is tried again where that can help."""

import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from finsent.config import InboxSource
from finsent.data import inbox_sources, tables
from finsent.data.sources.s3 import ReplacedWhileRead
from finsent.workspace import Workspace
from tests.data.inbox_feeding import LONG_AGO, faults, inbox, run, write


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
    path = tmp_path / "in" / "a.jsonl"
    path.parent.mkdir()
    path.write_text("id,text\n1,up\n")
    assert [fault.state for fault in run(home, path.parent, settle=0)[0].faults] == ["set aside"]
    path.rename(path.with_suffix(".csv"))
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
