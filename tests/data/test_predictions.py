"""Whose predictions are whose: told by the adapter's content, and of rows from before that column by what does not contradict."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from finsent.data import tables
from finsent.data.predictions import ChampionLine, ModelIdentity, predicted_by, predicted_in_line
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import Workspace

MODEL = ModelIdentity("finsent", "1", "one", datetime(2025, 6, 1, tzinfo=UTC))
LATER = MODEL.registered_at + timedelta(hours=1)


def scored(home: Workspace, model: ModelIdentity) -> list[str]:
    return sorted(tables.read(home, "predictions", columns=["id"], filters=predicted_by(model))["id"].to_pylist())


def put(home: Workspace, ids: str, at: datetime, digest: str | None, version: str = "1") -> None:
    shared = {"model_name": "finsent", "model_version": version, "scored_at": at, "model_digest": digest}
    rows = [{"id": name, **shared} for name in ids]
    tables.append(home, "predictions", pa.Table.from_pylist(rows, schema=SCHEMAS["predictions"]))


def test_the_content_counts_whatever_name_and_number_it_has(home: Workspace) -> None:
    put(home, "ab", LATER, "one")
    put(home, "bc", LATER, "two")
    assert scored(home, MODEL) == ["a", "b"]
    assert scored(home, replace(MODEL, digest="two")) == ["b", "c"]
    assert scored(home, replace(MODEL, name="other", version="9")) == ["a", "b"]
    assert scored(home, replace(MODEL, digest="")) == []


def test_champions_of_one_registry_count_together_and_those_of_another_do_not(home: Workspace) -> None:
    put(home, "a", LATER, "one")
    put(home, "b", LATER, "two")
    put(home, "c", LATER, "of another registry")
    put(home, "d", LATER, None, version="7")
    put(home, "e", MODEL.registered_at - timedelta(days=1), None)
    line = ChampionLine("first decision", frozenset({"one", "two"}), MODEL.registered_at)

    def made(model: ModelIdentity) -> list[str]:
        return sorted(tables.read(home, "predictions", columns=["id"], filters=predicted_in_line(model))["id"].to_pylist())

    assert made(replace(MODEL, line=line)) == ["a", "b", "d"]
    assert made(replace(MODEL, digest="new", version="9", line=line)) == ["a", "b", "d"]
    assert made(replace(MODEL, line=replace(line, digests=frozenset({"of another registry"})))) == ["a", "c", "d"]
    assert made(MODEL) == ["a"]


def test_a_version_without_a_digest_takes_up_none_of_another(home: Workspace) -> None:
    put(home, "a", LATER, "", version="2")
    put(home, "b", LATER, "", version="1")
    assert scored(home, replace(MODEL, digest="")) == ["b"]


def test_rows_from_before_the_column_are_not_scored_again_and_those_older_than_the_version_are(home: Workspace) -> None:
    """In a table that lacks the column, and after the next append has added it."""
    names = [name for name in SCHEMAS["predictions"].names if name != "model_digest"]
    old = pa.schema([SCHEMAS["predictions"].field(name) for name in names])
    DeltaTable.create(location(home, "predictions"), old)
    rows = [
        {"id": "own", "model_version": "1", "scored_at": LATER},
        {"id": "of a version 1 before", "model_version": "1", "scored_at": MODEL.registered_at - timedelta(days=1)},
        {"id": "of version 2", "model_version": "2", "scored_at": LATER},
        {"id": "at an unknown time", "model_version": "1", "scored_at": None},
    ]
    table = pa.Table.from_pylist([{"model_name": "finsent", **row} for row in rows], schema=old)
    write_deltalake(location(home, "predictions"), table, mode="append")
    assert scored(home, MODEL) == ["own"]
    put(home, "n", LATER, "one")
    put(home, "f", LATER, "two")
    assert scored(home, MODEL) == ["n", "own"]
