"""What changed between two versions: every kind of change is found, on real Delta tables."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.data import tables
from finsent.data.version_statistics import changes, diff_versions, label_shift
from finsent.errors import InputError
from finsent.workspace import Workspace

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "label", "source", "split")])


def row(number: int, label: str = "Bullish", *, split: str = "train", source: str = "desk") -> dict[str, Any]:
    name = f"{number:032x}"
    return {
        "id": name,
        "text": f"tweet {number}",
        "label": label,
        "source": source,
        "created_at": None,
        "group": name,
        "split": split,
        "ingested_at": NOW,
        "flags": None,
    }


def overwrite(home: Workspace, rows: list[dict[str, Any]]) -> int:
    """As somebody would who changes the table by hand: ingestion only ever appends."""
    from deltalake import write_deltalake

    Path(tables.location(home, "tweets")).mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows, schema=tables.SCHEMAS["tweets"])
    write_deltalake(tables.location(home, "tweets"), table, mode="overwrite")
    return tables.version(home, "tweets") or 0


def test_every_kind_of_change_is_found(home: Workspace) -> None:
    before = overwrite(home, [row(1), row(2), row(3, "Bearish"), row(4, split="test")])
    after = overwrite(
        home, [row(2, "Neutral"), row(3, "Bearish", split="test"), row(4, split="test"), row(5, "Neutral", source="wire"), row(6)]
    )
    found = diff_versions(home, before, after)
    assert (found.rows_before, found.rows_after, found.n_added, found.n_removed) == (4, 5, 2, 1)
    assert found.added == {
        "desk": {"Neutral": 0, "Bullish": 1, "Bearish": 0},
        "wire": {"Neutral": 1, "Bullish": 0, "Bearish": 0},
    }
    assert found.removed == {"desk": {"Neutral": 0, "Bullish": 1, "Bearish": 0}}
    assert found.relabelled == {"Bullish to Neutral": 1}
    assert found.moved == {"train to test": 1}
    assert found.shares_after == {"Neutral": 0.4, "Bullish": 0.4, "Bearish": 0.2}
    assert [example["text"] for example in found.examples["removed"]] == ["tweet 1"]
    assert [example["text"] for example in found.examples["added"]] == ["tweet 5", "tweet 6"]
    (moved,) = found.examples["moved"]
    assert (moved["split_before"], moved["split"]) == ("train", "test")


def test_a_version_does_not_differ_from_itself(home: Workspace) -> None:
    version = overwrite(home, [row(1), row(2, "Bearish")])
    found = diff_versions(home, version, version)
    assert (found.added, found.removed, found.relabelled, found.moved) == ({}, {}, {}, {})
    assert found.chi_square is None
    assert all(not rows for rows in found.examples.values())


def test_a_version_that_is_not_there(home: Workspace) -> None:
    overwrite(home, [row(1)])
    with pytest.raises(InputError, match="has no version 7"):
        diff_versions(home, 0, 7)


ROWS = st.dictionaries(
    st.integers(0, 20),
    st.tuples(st.sampled_from(["Neutral", "Bullish", "Bearish"]), st.just("desk"), st.sampled_from(["train", "test"])),
)


@settings(deadline=None)
@given(ROWS, ROWS)
def test_changes_are_those_of_plain_dictionaries(old: dict[int, Any], new: dict[int, Any]) -> None:
    def table(rows: dict[int, Any]) -> pa.Table:
        return pa.Table.from_pylist(
            [{"id": str(key), **dict(zip(("label", "source", "split"), value, strict=True))} for key, value in rows.items()],
            schema=SCHEMA,
        )

    found = {kind: set(rows["id"].to_pylist()) for kind, rows in changes(table(old), table(new)).items()}
    both = old.keys() & new.keys()
    assert found["added"] == {str(key) for key in new.keys() - old.keys()}
    assert found["removed"] == {str(key) for key in old.keys() - new.keys()}
    assert found["relabelled"] == {str(key) for key in both if old[key][0] != new[key][0]}
    assert found["moved"] == {str(key) for key in both if old[key][2] != new[key][2]}


def test_a_shift_of_labels_is_told_from_chance() -> None:
    def labels(**counts: int) -> pa.Table:
        return pa.table({"label": [label for label, n in counts.items() for _ in range(n)]})

    _, alike = label_shift(labels(Neutral=300, Bullish=300), labels(Neutral=31, Bullish=29))
    statistic, unlike = label_shift(labels(Neutral=300, Bullish=300), labels(Neutral=5, Bullish=55))
    assert alike is not None
    assert alike > 0.5
    assert statistic is not None
    assert unlike is not None
    assert unlike < 1e-6
    assert label_shift(labels(Neutral=3), labels()) == (None, None)
