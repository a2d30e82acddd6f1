"""What a power cut can do to a table in a local folder: nothing is committed before it is on the disk, and damage is found."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from finsent.data import tables
from finsent.data.delta_log import damaged_commit
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.workspace import Workspace


def rows(*ids: str) -> pa.Table:
    return pa.Table.from_pylist([{"id": i} for i in ids], schema=SCHEMAS["inbox"])


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("left", ["", "\n", "   ", "{}", "[]", "half", "\0" * 400], ids=repr)
def test_a_commit_that_a_power_cut_emptied_is_named(home: Workspace, number: int, left: str) -> None:
    for name in "abc":
        tables.append(home, "inbox", rows(name))
    commit = Path(location(home, "inbox")) / "_delta_log" / f"{number:020}.json"
    whole = commit.read_text()
    commit.write_text(whole[: len(whole) // 2] if left == "half" else left)
    for use in (
        lambda: tables.read(home, "inbox"),
        lambda: tables.read(home, "inbox", version=3),
        lambda: tables.position(home, "inbox", "score"),
        lambda: tables.append(home, "inbox", rows("d")),
    ):
        with pytest.raises(InputError, match=rf"table 'inbox' in .*{number:020}\.json' is empty or cut off.* backup") as told:
            use()
        assert not told.value.retryable
    commit.write_text(whole)
    assert tables.read(home, "inbox").num_rows == 3


def test_what_a_checkpoint_holds_is_not_read_again(home: Workspace) -> None:
    for name in "abc":
        tables.append(home, "inbox", rows(name))
    table = Path(location(home, "inbox"))
    DeltaTable(table).create_checkpoint()
    (table / "_delta_log" / f"{1:020}.json").write_text("")  # its rows are in the checkpoint
    assert damaged_commit(table) is None
    assert tables.read(home, "inbox").num_rows == 3
    tables.append(home, "inbox", rows("d"))
    (table / "_delta_log" / f"{4:020}.json").write_text("")
    assert damaged_commit(table) == table / "_delta_log" / f"{4:020}.json"
    for half in ("", "{", "[]", '{"version": "new"}'):
        (table / "_delta_log" / "_last_checkpoint").write_text(half)
        assert damaged_commit(table) == table / "_delta_log" / f"{1:020}.json", "all of them, where that is not known"


def test_what_is_committed_is_on_the_disk_names_included(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[str] = []
    sync = os.fsync

    def record(handle: int) -> None:
        flushed.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        sync(handle)

    monkeypatch.setattr(os, "fsync", record)
    table = Path(location(home, "inbox"))

    def new_files() -> set[str]:
        return {str(path) for path in table.rglob("*") if path.is_file()} - known

    for write in (
        lambda: tables.append(home, "inbox", rows("a", "b")),
        lambda: tables.append_if_unchanged(home, "inbox", rows("c"), "x", tables.position(home, "inbox", "x")),
        lambda: tables.update_rows(
            home, "inbox", pa.table({"id": ["a"], "removed": [True]}), "x", tables.position(home, "inbox", "x")
        ),
        lambda: tables.replace(home, "inbox", rows("d")),
    ):
        known = {str(path) for path in table.rglob("*") if path.is_file()} if table.exists() else set()
        flushed.clear()
        write()
        assert new_files()
        assert new_files() | {str(table), str(table / "_delta_log"), str(table.parent)} == set(flushed)
        data = [path.endswith(".parquet") for path in flushed if Path(path).is_file()]
        assert data == sorted(data, reverse=True), "the rows before the commit that names them"
