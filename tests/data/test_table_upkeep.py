"""Upkeep: fewer files, every data version still readable, nothing removed that a reader or writer may need."""

import os
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from finsent.data import table_upkeep, tables
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.data.table_upkeep import TableUpkeep, table_figures, tidy_tables
from finsent.workspace import Workspace


def rows(name: str, *ids: str) -> pa.Table:
    texts = [field.name for field in SCHEMAS[name] if pa.types.is_string(field.type)]
    known = {"label": "Neutral", "split": "train"}
    return pa.Table.from_pylist([dict.fromkeys(texts, i) | known | {"id": i} for i in ids], schema=SCHEMAS[name])


def fill(home: Workspace, name: str) -> None:
    for number in range(1, 5):
        position = tables.position(home, name, "score")
        assert tables.append_if_unchanged(home, name, rows(name, str(number)), "score", position) is not None


def files(home: Workspace, name: str) -> int:
    return len(list(Path(location(home, name)).glob("*.parquet")))


def test_tables_are_compacted_and_vacuumed_and_data_versions_stay(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_upkeep, "MERGED_FROM", 4)
    for name in ("tweets", "predictions"):
        fill(home, name)
    assert tidy_tables(home, dry_run=True) == (TableUpkeep("tweets", 4, 0), TableUpkeep("predictions", 4, 0))
    assert (tables.version(home, "tweets"), files(home, "tweets")) == (4, 4)
    assert tidy_tables(home) == (TableUpkeep("tweets", 4, 0), TableUpkeep("predictions", 4, 0))
    assert tidy_tables(home) == ()
    old = time.time() - 8 * 86400
    for path in Path(home.tables_url).rglob("*"):
        os.utime(path, (old, old))
    orphan = Path(location(home, "predictions")) / "part-of-a-writer-at-work.parquet"
    orphan.write_bytes(b"x")
    left = Path(location(home, "predictions")) / "part-of-a-writer-that-died.parquet"
    left.write_bytes(b"x")
    os.utime(left, (old, old))
    (done,) = tidy_tables(home)
    assert (done.name, done.merged) == ("predictions", 0)
    assert orphan.exists()
    assert not left.exists()
    assert [tables.read(home, "tweets", version=version).num_rows for version in range(1, 6)] == [1, 2, 3, 4, 4]
    assert tables.read(home, "predictions", filters=[("id", "in", ("1", "4"))]).num_rows == 2
    assert tables.position(home, "predictions", "score").number == 4
    assert tidy_tables(home) == ()


def test_upkeep_gives_a_table_of_an_earlier_release_what_keeps_its_versions(home: Workspace) -> None:
    Path(location(home, "tweets")).mkdir(parents=True)
    write_deltalake(location(home, "tweets"), rows("tweets", "a"))
    tidy_tables(home)
    assert DeltaTable(location(home, "tweets")).metadata().configuration["delta.enableExpiredLogCleanup"] == "false"
    assert tidy_tables(home, dry_run=True) == ()


def test_a_table_that_asks_for_a_longer_retention_gets_it(home: Workspace) -> None:
    fill(home, "predictions")
    place = location(home, "predictions")
    DeltaTable(place).alter.set_table_properties({"delta.deletedFileRetentionDuration": "interval 30 days"})
    for days in (20, 40):
        left = Path(place) / f"part-of-a-writer-that-died-{days}.parquet"
        left.write_bytes(b"x")
        os.utime(left, (time.time() - days * 86400,) * 2)
    assert tidy_tables(home, dry_run=True) == (TableUpkeep("predictions", 0, 1),)
    assert tidy_tables(home) == (TableUpkeep("predictions", 0, 1),)
    assert [path.name for path in Path(place).glob("part-of*")] == ["part-of-a-writer-that-died-20.parquet"]


def test_a_table_that_cannot_be_tidied_keeps_no_other_from_it(home: Workspace) -> None:
    fill(home, "predictions")
    left = Path(location(home, "predictions")) / "part-of-a-writer-that-died.parquet"
    left.write_bytes(b"x")
    os.utime(left, (time.time() - 8 * 86400,) * 2)
    fill(home, "inbox")
    shutil.rmtree(Path(location(home, "inbox")) / "_delta_log")
    damaged, tidied = tidy_tables(home)
    assert (damaged.name, tidied) == ("inbox", TableUpkeep("predictions", 0, 1))
    assert "no log: half of it is gone" in str(damaged.problem)


def test_without_any_retention_the_rows_and_every_data_version_stay(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registry, evidence and data reports name versions of `tweets`; of the other tables only the latest is ever asked for."""
    monkeypatch.setattr(table_upkeep, "MERGED_FROM", 2)
    names = ("tweets", "inbox", "predictions")
    for _ in range(2):
        for name in names:
            fill(home, name)
        before = {name: tables.read(home, name).sort_by("id") for name in names}
        versions = [tables.read(home, "tweets", version=number) for number in range(1, tables.version(home, "tweets") + 1)]
        done = {item.name: item for item in tidy_tables(home, retention_days=0)}
        assert all(done[name].merged and not done[name].problem for name in names)
        assert (done["tweets"].removed, done["inbox"].removed > 0) == (0, True)
        assert {name: tables.read(home, name).sort_by("id") for name in names} == before
        assert [tables.read(home, "tweets", version=number) for number in range(1, len(versions) + 1)] == versions
    assert files(home, "inbox") == files(home, "predictions") == 1
    assert tidy_tables(home, retention_days=0) == ()


def test_figures_come_from_the_log_alone(home: Workspace) -> None:
    assert table_figures(home, "inbox") is None
    fill(home, "inbox")
    before = table_figures(home, "inbox")
    assert before is not None
    assert (before.rows, before.files, before.oldest_version, before.newest_version) == (4, 4, 0, 4)
    assert before.disk_bytes is not None
    assert before.disk_bytes > before.bytes > 0
    assert abs(time.time() - before.written_at.timestamp()) < 600
    for path in Path(location(home, "inbox")).glob("*.parquet"):
        path.unlink()
    after = table_figures(home, "inbox")
    assert after is not None
    assert (after.rows, after.files, after.bytes) == (4, 4, before.bytes), "no data file is opened"
    DeltaTable(location(home, "inbox")).create_checkpoint()
    (Path(location(home, "inbox")) / "_delta_log" / f"{0:020d}.json").unlink()
    after = table_figures(home, "inbox")
    assert after is not None
    assert after.oldest_version == 4
