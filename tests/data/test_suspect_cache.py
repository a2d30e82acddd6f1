"""The ranked list that is kept: it comes back for the data, the splits and the method that it belongs to, for nothing else."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from finsent.data import suspect_cache, tables
from finsent.data.dataset import fingerprint_rows
from finsent.data.suspect_cache import COLUMNS, RankedSuspect, RankedSuspects, cache_key, cache_path, load, store
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import Workspace, resolve_workspace

SPLITS, METHOD = ("train", "validation"), "m1"


def rows(**labels: str) -> pa.Table:
    shared = {"source": "desk", "split": "train", "ingested_at": datetime(2025, 6, 1, tzinfo=UTC)}
    return pa.Table.from_pylist(
        [{"id": name, "text": f"text {name}", "label": label, "group": name, **shared} for name, label in labels.items()],
        schema=SCHEMAS["tweets"],
    )


@pytest.fixture
def kept(home: Workspace) -> RankedSuspects:
    """A list of two rows out of three, stored."""
    tables.append(home, "tweets", rows(a="Bullish", b="Bearish", c="Neutral"))
    there = tables.read(home, "tweets", columns=COLUMNS).sort_by("id")
    fingerprints = [fingerprint_rows(there.slice(place, 1), COLUMNS) for place in range(3)]
    suspects = tuple(RankedSuspect(name, "Neutral", 0.1, 0.8, fingerprints[place]) for place, name in enumerate("ab"))
    ranked = RankedSuspects(suspects, 3, 3)
    store(home, cache_key(home, tables.version(home, "tweets"), SPLITS, METHOD), ranked)
    return ranked


def test_it_comes_back_for_what_it_belongs_to_alone(home: Workspace, kept: RankedSuspects) -> None:
    assert load(home, SPLITS, METHOD, ()) == kept
    assert load(home, SPLITS, "m2", ()) is None
    assert load(home, (*SPLITS, "test"), METHOD, ()) is None
    tables.append(home, "tweets", rows(d="Neutral"))
    assert load(home, SPLITS, METHOD, ()) is None


@pytest.mark.parametrize("change", [{"a": "Neutral"}, {}], ids=["fixed", "dropped"])
def test_a_decision_on_a_listed_row_keeps_it_and_no_other_change_does(
    home: Workspace, kept: RankedSuspects, change: dict[str, str]
) -> None:
    tables.replace(home, "tweets", rows(b="Bearish", c="Neutral", **change))
    assert load(home, SPLITS, METHOD, ["a", "c"]) == kept
    assert load(home, SPLITS, METHOD, ["b", "c"]) is None
    tables.replace(home, "tweets", rows(b="Bearish", c="Bullish", **change))
    assert load(home, SPLITS, METHOD, ["a", "c"]) is None


def test_another_home_takes_no_list_of_other_data(home: Workspace, kept: RankedSuspects, tmp_path: Path) -> None:
    other = resolve_workspace({"FINSENT_HOME": str(tmp_path / "other")})
    tables.append(other, "tweets", rows(a="Bullish", b="Bearish", c="Bearish"))
    cache_path(other, SPLITS).parent.mkdir(parents=True)
    cache_path(other, SPLITS).write_bytes(cache_path(home, SPLITS).read_bytes())
    assert load(other, SPLITS, METHOD, ["a", "b"]) is None
    tables.replace(other, "tweets", tables.read(home, "tweets"))
    assert load(other, SPLITS, METHOD, ()) == kept


def damages(whole: bytes) -> dict[str, bytes]:
    body = json.dumps({"key": {}, "ranked": []})
    odd = {"format": 1, "sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body}
    return {
        "empty": b"",
        "half": whole[: len(whole) // 2],
        "zeros": bytes(len(whole)),
        "digit": whole.replace(b"0.8", b"0.7", 1),
        "other JSON": b'["a"]',
        "no text": json.dumps({**odd, "body": 7}).encode(),
        "other contents": json.dumps(odd).encode(),
        "older": whole.replace(b'"format": 1', b'"format": 0'),
        "deep": b"[" * 100_000,
    }


def test_a_damaged_list_is_none(home: Workspace, kept: RankedSuspects) -> None:
    path = cache_path(home, SPLITS)
    whole = path.read_bytes()
    for name, content in damages(whole).items():
        assert content != whole, name
        path.write_bytes(content)
        assert load(home, SPLITS, METHOD, ()) is None, name
    path.unlink()
    assert load(home, SPLITS, METHOD, ()) is None
    path.mkdir()
    assert load(home, SPLITS, METHOD, ()) is None


def test_a_home_that_cannot_keep_it_goes_without(home: Workspace, kept: RankedSuspects, caplog: pytest.LogCaptureFixture) -> None:
    key = cache_key(home, None, SPLITS, METHOD)
    cache_path(home, SPLITS).unlink()
    home.review.rmdir()
    home.review.write_text("in the way")
    suspect_cache.store(home, key, kept)
    assert "cannot be kept and is computed anew next time" in caplog.text
    assert load(home, SPLITS, METHOD, ()) is None
