"""What training reads: splits in a fixed order, versions with an audit that belongs to exactly their rows."""

import json
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from deltalake import CommitProperties, write_deltalake

from finsent.data import tables
from finsent.data.dataset import data_version, load_split, read_origin, read_report, report_path
from finsent.data.table_access import location
from finsent.data.versions_view import list_versions
from finsent.errors import InputError
from finsent.workspace import Workspace

NOW = datetime(2025, 6, 1, tzinfo=UTC)
ROWS = [("c", "Bullish", "train"), ("a", "Neutral", "train"), ("b", "Bearish", "test"), ("d", "Bearish", "train")]


def store(home: Workspace, rows: list[tuple[str, str, str]]) -> int:
    table = pa.table(
        {
            "id": [row[0] for row in rows],
            "text": [f"tweet {row[0]}" for row in rows],
            "label": [row[1] for row in rows],
            "source": ["desk"] * len(rows),
            "created_at": pa.array([None] * len(rows), pa.timestamp("us", tz="UTC")),
            "group": [row[0] for row in rows],
            "split": [row[2] for row in rows],
            "ingested_at": [NOW] * len(rows),
        }
    )
    return tables.append(home, "tweets", table)


def report(home: Workspace, version: int, **content: object) -> None:
    report_path(home, version).parent.mkdir(parents=True, exist_ok=True)
    report_path(home, version).write_text(json.dumps(content))


def test_splits_come_in_order_of_ids(home: Workspace) -> None:
    first = store(home, ROWS[:2])
    store(home, ROWS[2:])
    split = load_split(home, "train")
    assert split.ids == ["a", "c", "d"]
    assert split.texts == ["tweet a", "tweet c", "tweet d"]
    assert split.labels.dtype == np.int64
    assert split.labels.tolist() == [0, 1, 2]
    assert (split.sources, split.groups) == (["desk"] * 3, ["a", "c", "d"])
    assert load_split(home, "train", version=first).ids == ["a", "c"]
    assert load_split(home, "validation").ids == []
    assert load_split(home, "validation").labels.shape == (0,)


def test_the_fingerprint_is_that_of_the_rows(home: Workspace) -> None:
    first = store(home, ROWS[:2])
    second = store(home, ROWS[2:])
    one, two = data_version(home, first), data_version(home)
    assert (one.version, two.version) == (first, second)
    assert one.fingerprint != two.fingerprint
    assert len(one.fingerprint) == 32
    assert two.rows == {"train": 3, "validation": 0, "test": 1}


def test_the_audit_counts_only_for_the_rows_it_was_made_on(home: Workspace) -> None:
    version = store(home, ROWS)
    fingerprint = data_version(home).fingerprint
    assert data_version(home).leaks is None
    report(home, version, fingerprint=fingerprint, leaks=0, naive_leak=0.2)
    assert (data_version(home).leaks, data_version(home).naive_leak) == (0, 0.2)
    report(home, version, fingerprint="another", leaks=0, naive_leak=0.2)
    assert (data_version(home).leaks, data_version(home).naive_leak) == (None, None)


def test_what_another_program_noted_at_its_commit_is_not_taken_for_ours(home: Workspace) -> None:
    store(home, ROWS)
    fingerprint = data_version(home).fingerprint
    rows = tables.read(home, "tweets").slice(0, 0)
    ours = {"fingerprint": fingerprint, "leaks": "1", "naive_leak": "0.2", "split_rule": "{}"}
    tables.append_if_unchanged(home, "tweets", rows, "ingest", tables.position(home, "tweets", "ingest"), ours)
    theirs = {"fingerprint": fingerprint, "leaks": "0", "report": "{", "split_rule": "x", "job": "7"}
    properties = CommitProperties(custom_metadata=theirs)
    write_deltalake(location(home, "tweets"), rows, mode="append", commit_properties=properties)
    version = tables.version(home, "tweets")
    assert version == 3
    assert data_version(home).leaks == 1
    assert (read_report(home, version), read_origin(home, version)["sources"]) == ({}, ())
    assert tables.last_metadata(home, "tweets", "split_rule") == "{}"
    assert [found.version for found in list_versions(home)] == [2]
    assert tables.commit_history(home, "tweets", last=1)[0]["job"] == "7"


@pytest.mark.parametrize("content", ["", "{half", "[]", "\xff", '{"inputs": 5}', '{"inputs": ["x"]}', '{"inputs": null}'])
def test_a_report_that_cannot_be_read_is_no_evidence(home: Workspace, content: str) -> None:
    version = store(home, ROWS)
    report(home, version)
    report_path(home, version).write_bytes(content.encode("latin-1"))
    assert read_report(home, version) == {}
    assert data_version(home).leaks is None


def test_no_data_yet(home: Workspace) -> None:
    with pytest.raises(InputError, match="no data yet"):
        data_version(home)
    with pytest.raises(InputError, match="no data yet"):
        load_split(home, "train")
    version = store(home, ROWS)
    with pytest.raises(InputError, match="has no rows"):
        data_version(home, 0)
    with pytest.raises(InputError, match=f"no version {version + 5}"):
        data_version(home, version + 5)
    with pytest.raises(InputError, match="no split 'dev'"):
        load_split(home, "dev")  # type: ignore[arg-type]
