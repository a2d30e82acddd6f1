"""Rows that were appended since a version, told from all others, or not at all."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from finsent.data import tables
from finsent.data.table_access import location
from finsent.data.table_changes import Appended, UnknownChangesError, appended_rows, commit_stamp, count_rows
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import Workspace


def add(home: Workspace, *ids: str, checked: bool = False) -> int:
    rows = pa.Table.from_pylist([{"id": name, "received_at": datetime.now(UTC)} for name in ids], schema=SCHEMAS["inbox"])
    at = tables.position(home, "inbox", "a")
    done = tables.append_if_unchanged(home, "inbox", rows, "a", at, {"ids_new_after": str(at.version)} if checked else None)
    assert done is not None
    return done.version


def since(home: Workspace, after: int, stamp: str | None = None) -> Appended:
    upto = tables.version(home, "inbox")
    assert upto is not None
    return appended_rows(home, "inbox", ["id", "text"], after=after, upto=upto, stamp=stamp)


def table(home: Workspace) -> DeltaTable:
    return DeltaTable(location(home, "inbox"))


def test_appended_rows_are_those_of_appends_whatever_is_merged_in_between(home: Workspace) -> None:
    first = add(home, "a", "b")
    add(home, "c", checked=True)
    table(home).optimize.compact()
    add(home, "d", checked=True)
    add(home, "e", checked=True)
    table(home).optimize.compact()
    found = since(home, first)
    assert (sorted(found.rows["id"].to_pylist()), found.new_ids) == (["c", "d", "e"], True)
    assert sorted(since(home, -1).rows["id"].to_pylist()) == ["a", "b", "c", "d", "e"]
    assert not since(home, -1).new_ids
    assert (since(home, tables.version(home, "inbox")).rows.num_rows, count_rows(home, "inbox")) == (0, 5)
    write_deltalake(location(home, "inbox"), found.rows.slice(0, 1), mode="append", schema_mode="merge")
    assert not since(home, first).new_ids, "another program may have put in an id that was there"


@pytest.mark.parametrize("change", ["delete", "restore", "overwrite", "restored from a backup", "vacuum"])
def test_after_any_other_change_nothing_is_told(home: Workspace, change: str) -> None:
    first = add(home, "a")
    stamp = commit_stamp(home, "inbox", first)
    assert since(home, first, stamp).rows.num_rows == 0
    add(home, "b")
    if change == "delete":
        table(home).delete("id = 'a'")
    elif change == "restore":
        table(home).restore(first)
    elif change == "overwrite":
        tables.replace(home, "inbox", SCHEMAS["inbox"].empty_table())
    elif change == "vacuum":
        table(home).optimize.compact()
        table(home).vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    else:
        stamp = "another table's"
    with pytest.raises(UnknownChangesError):
        since(home, first, stamp)


def test_in_a_table_that_another_program_partitioned_each_row_is_read_once_or_nothing_told(home: Workspace) -> None:
    """The log has paths percent-encoded, and the values of a partition's column instead of its files."""

    def put(name: str) -> None:
        row = {"id": name, "text": "up 5% & rising ü", "received_at": datetime.now(UTC)}
        rows = pa.Table.from_pylist([row], schema=SCHEMAS["inbox"])
        write_deltalake(location(home, "inbox"), rows, mode="append", partition_by=["text"])

    put("a")
    put("b")
    assert appended_rows(home, "inbox", ["id"], after=0).rows["id"].to_pylist() == ["b"]
    with pytest.raises(UnknownChangesError, match=r"partitioned by \['text'\]"):
        since(home, 0)
