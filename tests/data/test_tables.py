"""Delta tables: appended whole, once, readable at every version, by several processes at a time."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import deltalake
import pyarrow as pa
import pytest

from finsent.data import tables
from finsent.errors import InputError
from finsent.workspace import Workspace, resolve_workspace

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def inbox_rows(*ids: str) -> pa.Table:
    return pa.table(
        {"text": [f"tweet {i}" for i in ids], "id": list(ids), "created_at": [NOW] * len(ids), "received_at": [NOW] * len(ids)}
    )


def ids(home: Workspace, version: int | None = None) -> list[str]:
    return sorted(tables.read(home, "inbox", version=version)["id"].to_pylist())


def test_an_absent_table_is_empty(home: Workspace) -> None:
    assert tables.version(home, "tweets") is None
    assert tables.read(home, "tweets").schema == tables.SCHEMAS["tweets"]
    assert tables.read(home, "tweets", columns=["id"]).num_rows == 0
    assert not home.root.exists()
    with pytest.raises(InputError, match="does not exist yet"):
        tables.read(home, "tweets", version=0)


def test_append_and_time_travel(home: Workspace) -> None:
    first = tables.append(home, "inbox", inbox_rows("a", "b"), metadata={"why": "test"})
    second = tables.append(home, "inbox", inbox_rows("c"))
    assert second == first + 1 == tables.version(home, "inbox")
    assert (ids(home), ids(home, first)) == (["a", "b", "c"], ["a", "b"])
    assert tables.last_metadata(home, "inbox", "why") == "test"
    assert tables.last_metadata(home, "inbox", "absent") is None
    assert tables.read(home, "inbox", columns=["text"], filters=[("id", "=", "b")]).to_pylist() == [{"text": "tweet b"}]
    assert tables.read(home, "inbox").schema == tables.SCHEMAS["inbox"]
    with pytest.raises(InputError, match=f"no version {second + 1}. Its latest is {second}"):
        tables.read(home, "inbox", version=second + 1)


def test_a_transaction_is_applied_once(home: Workspace) -> None:
    version = tables.append(home, "inbox", inbox_rows("a"), transaction=("score", 1))
    assert tables.append(home, "inbox", inbox_rows("a"), transaction=("score", 1)) == version
    tables.append(home, "inbox", inbox_rows("b"), transaction=("score", 2))
    tables.append(home, "inbox", inbox_rows("c"), transaction=("other", 1))
    assert ids(home) == ["a", "b", "c"]


def test_unknown_tables_and_columns(home: Workspace) -> None:
    with pytest.raises(InputError, match="no table 'tweet'"):
        tables.version(home, "tweet")
    with pytest.raises(KeyError):
        tables.append(home, "inbox", pa.table({"id": ["a"]}))


APPEND_SOME = """
import sys
from datetime import UTC, datetime
import pyarrow as pa
from finsent.data import tables
from finsent.workspace import resolve_workspace

home, worker, now = resolve_workspace({"FINSENT_HOME": sys.argv[1]}), sys.argv[2], datetime.now(UTC)
for number in range(4):
    for name, transaction in ((f"{worker}-{number}", None), (f"shared-{number}", ("shared", number + 1))):
        row = pa.table({"id": [name], "text": ["x"], "created_at": [now], "received_at": [now]})
        tables.append(home, "inbox", row, transaction=transaction)
"""


@pytest.mark.integration
def test_processes_append_side_by_side(home: Workspace) -> None:
    commands = [[sys.executable, "-c", APPEND_SOME, str(home.root), str(worker)] for worker in range(3)]
    workers = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in workers:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    own = sorted(f"{worker}-{number}" for worker in range(3) for number in range(4))
    found = ids(home)
    assert [name for name in found if not name.startswith("shared")] == own
    # a number that another worker passed meanwhile is not written again, and none is written twice
    shared = [name for name in found if name.startswith("shared")]
    assert len(shared) == len(set(shared))
    assert "shared-3" in shared


def test_a_table_from_before_a_migration_is_read_and_gets_the_column_with_its_next_append(home: Workspace) -> None:
    from deltalake import write_deltalake

    old = tables.SCHEMAS["tweets"].remove(tables.SCHEMAS["tweets"].get_field_index("flags"))
    row = {"id": "a", "text": "x", "label": "Neutral", "source": "s", "group": "a", "split": "train"}
    Path(tables.location(home, "tweets")).mkdir(parents=True)
    write_deltalake(tables.location(home, "tweets"), pa.Table.from_pylist([row], schema=old))
    assert tables.read(home, "tweets", columns=["id", "flags"]).to_pylist() == [{"id": "a", "flags": None}]
    tables.append(home, "tweets", pa.Table.from_pylist([row | {"id": "b", "flags": "mojibake"}], schema=tables.SCHEMAS["tweets"]))
    found = tables.read(home, "tweets", columns=["id", "flags"]).sort_by("id").to_pylist()
    assert found == [{"id": "a", "flags": None}, {"id": "b", "flags": "mojibake"}]


def changes(*rows: tuple[str, str, bool]) -> pa.Table:
    return pa.table({"id": [row[0] for row in rows], "text": [row[1] for row in rows], "removed": [row[2] for row in rows]})


def test_rows_are_changed_and_removed_in_one_commit(home: Workspace) -> None:
    first = tables.append(home, "inbox", inbox_rows("a", "b", "c"))
    start = tables.position(home, "inbox", "edit")
    wanted = changes(("a", "changed", False), ("b", "", True), ("absent", "", True))
    written = tables.update_rows(home, "inbox", wanted, "edit", start, {"why": "test"})
    assert written == tables.Position(first + 1, 1) == tables.position(home, "inbox", "edit")
    found = tables.read(home, "inbox").sort_by("id").to_pylist()
    assert [(row["id"], row["text"]) for row in found] == [("a", "changed"), ("c", "tweet c")]
    assert found[0]["received_at"] == NOW
    assert ids(home, first) == ["a", "b", "c"]
    assert tables.last_metadata(home, "inbox", "why") == "test"


def test_a_number_that_another_run_took_is_not_changed_under(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.append(home, "inbox", inbox_rows("a", "b"))
    start = tables.position(home, "inbox", "edit")
    assert tables.append_if_unchanged(home, "inbox", inbox_rows("c"), "edit", start) is not None
    assert tables.update_rows(home, "inbox", changes(("a", "", True)), "edit", start) is None
    # and one that is taken between looking and committing
    start, real = tables.position(home, "inbox", "edit"), deltalake.write_deltalake

    def late(*arguments: object, **more: object) -> None:
        monkeypatch.setattr(deltalake, "write_deltalake", real)
        assert tables.append_if_unchanged(home, "inbox", inbox_rows("d"), "edit", start) is not None
        real(*arguments, **more)

    monkeypatch.setattr(deltalake, "write_deltalake", late)
    assert tables.update_rows(home, "inbox", changes(("a", "", True)), "edit", start) is None
    assert ids(home) == ["a", "b", "c", "d"]


def test_rows_changed_while_another_application_appends_lose_nothing(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    tables.append(home, "inbox", inbox_rows("a", "b"))
    start, real = tables.position(home, "inbox", "edit"), deltalake.write_deltalake

    def late(*arguments: object, **more: object) -> None:
        monkeypatch.setattr(deltalake, "write_deltalake", real)
        tables.append(home, "inbox", inbox_rows("c"), transaction=("other", 1))
        real(*arguments, **more)

    monkeypatch.setattr(deltalake, "write_deltalake", late)
    written = tables.update_rows(home, "inbox", changes(("a", "", True)), "edit", start)
    assert written == tables.Position(start.version + 2, 1)
    assert ids(home) == ["b", "c"]


def test_changed_rows_can_be_filtered_by_text_columns(home: Workspace) -> None:
    rows = inbox_rows(*(f"{number:03}" for number in range(100)))
    tables.append(home, "inbox", rows)
    start = tables.position(home, "inbox", "edit")
    tables.update_rows(home, "inbox", changes(("003", "it's new", False), ("004", "", True)), "edit", start)
    for filters, found in (
        ([("text", "=", "it's new")], ["003"]),
        ([("id", "in", ("003", "004", "005"))], ["003", "005"]),
        ([("id", ">", "097")], ["098", "099"]),
    ):
        assert sorted(tables.read(home, "inbox", columns=["id"], filters=filters)["id"].to_pylist()) == found


def test_all_rows_can_go(home: Workspace) -> None:
    tables.append(home, "inbox", inbox_rows("a", "it's"))
    start = tables.position(home, "inbox", "edit")
    assert tables.update_rows(home, "inbox", changes(("a", "", True), ("it's", "", True)), "edit", start) is not None
    assert ids(home) == []
    tables.append(home, "inbox", inbox_rows("b"))
    assert ids(home) == ["b"]


TRIALS = 10
CONTEND = """
import sys
from datetime import UTC, datetime
import deltalake  # now, so that all of them start together
import pyarrow as pa
from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import resolve_workspace

folder, worker, now = sys.argv[1], sys.argv[2], datetime.now(UTC)
for trial in range(int(sys.argv[3])):
    print("ready", flush=True)
    sys.stdin.readline()
    home = resolve_workspace({"FINSENT_HOME": f"{folder}/{trial}"})
    row = pa.table({"id": [worker], "created_at": [now], "text": ["x"], "received_at": [now]}, schema=SCHEMAS["inbox"])
    rows = lambda: row if worker in "ab" else row.to_reader()
    tables.retry_on_conflict(
        home, "inbox", "test", lambda before: tables.append_if_unchanged(home, "inbox", rows(), "test", before)
    )
    none = SCHEMAS["signatures"].empty_table()
    (tables.replace if worker in "ac" else tables.append)(home, "signatures", none, metadata={"by": worker})
"""


@pytest.mark.integration
def test_processes_that_write_first_to_a_table_all_land_and_land_once(home: Workspace) -> None:
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", CONTEND, str(home.root), name, str(TRIALS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "abcd"
    ]
    for _ in range(TRIALS):
        for process in workers:
            assert process.stdout is not None
            process.stdout.readline()  # empty once it failed
        for process in workers:
            assert process.stdin is not None
            if process.poll() is None:
                process.stdin.write("\n")
                process.stdin.flush()
    for process in workers:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    for trial in range(10):
        there = resolve_workspace({"FINSENT_HOME": str(home.root / str(trial))})
        assert ids(there) == ["a", "b", "c", "d"]
        assert tables.position(there, "inbox", "test").number == 4
        assert {commit["by"] for commit in tables.commit_history(there, "signatures") if "by" in commit} == {"a", "b", "c", "d"}


def test_a_commit_is_found_again_when_others_follow_before_it_is_looked_for(
    home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.append(home, "inbox", inbox_rows("a"))
    start, real = tables.position(home, "inbox", "edit"), tables._append

    def overtaken(*arguments: Any) -> int:
        monkeypatch.setattr(tables, "_append", real)
        version = real(*arguments)
        for name in "cde":
            tables.append(home, "inbox", inbox_rows(name))
        return version

    monkeypatch.setattr(tables, "_append", overtaken)
    assert tables.append_if_unchanged(home, "inbox", inbox_rows("b"), "edit", start) == tables.Position(start.version + 1, 1)


@pytest.mark.parametrize("column", ["id", "text", "label", "source", "group", "split"])
def test_a_row_that_somebody_wrote_without_a_value_is_named(home: Workspace, column: str) -> None:
    from deltalake import write_deltalake

    row = {"id": "a" * 32, "text": "x", "label": "Neutral", "source": "s", "group": "a" * 32, "split": "train"}
    rows = pa.Table.from_pylist([row | {column: None}], schema=tables.SCHEMAS["tweets"])
    Path(tables.location(home, "tweets")).mkdir(parents=True)
    write_deltalake(tables.location(home, "tweets"), rows)
    for reading in (
        lambda: tables.read(home, "tweets"),
        lambda: list(tables.batches(home, "tweets", ["created_at", column], rows=1)),
    ):
        with pytest.raises(InputError, match=rf"has rows without a value in column '{column}'\. Was the table changed by hand\?"):
            reading()
    assert tables.read(home, "tweets", columns=["ingested_at"]).num_rows == 1


@pytest.mark.parametrize(("column", "value"), [("label", "bullish"), ("split", "holdout")])
def test_a_label_or_split_that_somebody_else_made_up_is_named(home: Workspace, column: str, value: str) -> None:
    from finsent.data.dataset import data_version, load_split
    from finsent.data.version_statistics import summarise

    row = {"id": "a" * 32, "text": "x", "label": "Neutral", "source": "s", "group": "a" * 32, "split": "train"}
    rows = [row, row | {"id": "b" * 32, column: value}]
    version = tables.append(home, "tweets", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"]))
    readings = [lambda: data_version(home), lambda: summarise(home, version)]
    if column == "label":
        readings.append(lambda: load_split(home, "train"))
    for reading in readings:
        with pytest.raises(InputError, match=rf"the table 'tweets' has a row whose {column} is '{value}'; {column}s are"):
            reading()
