"""A source taken out of the data: one new version, the others as they were, and the way free for the right map."""

import json
from pathlib import Path
from typing import Any

import pytest

from finsent.config import Source, load_config
from finsent.data import quarantine, tables
from finsent.data.dataset import data_version, fingerprint_table, read_origin
from finsent.data.ingest_report import IngestReport, known_schemas
from finsent.data.leakage import audit_data
from finsent.data.removal import Removal, remove_source
from finsent.data.versions_view import list_versions
from finsent.errors import CheckFailed, InputError
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.workspace import Workspace
from tests.steps.ingestion import bad_rows, check

CONFIG = load_config()
WRONG, RIGHT = {"0": "Bullish", "1": "Bearish"}, {"0": "Bearish", "1": "Bullish"}
DESK = [("the quarter was far better than feared for $AAA", "1"), ("$BBB loses its biggest customer", "0")]
SHARED = ("$CCC will double its dividend next year", "1")


def read(home: Workspace, folder: Path, name: str, rows: list[tuple[str, str]], labels: Any = None) -> IngestReport:
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    report = ingest(make_context(CONFIG, home), [Source(uri=str(path), labels=labels)])
    check(report, home)
    return report


def stored(home: Workspace, version: int | None = None) -> dict[str, tuple[str, str, str]]:
    columns = ["text", "source", "label", "split"]
    rows = tables.read(home, "tweets", version=version, columns=columns).to_pylist()
    return {row["text"]: (row["source"], row["label"], row["split"]) for row in rows}


def remove(home: Workspace, name: str, **more: Any) -> Removal:
    return remove_source(home, name, who="ada", why="wrong map", **more)


def test_a_wrong_map_is_put_right_in_the_same_home(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "other", [("the fed meets on tuesday", "Neutral"), ("calm before the numbers", "Neutral")])
    others = stored(home)
    read(home, tmp_path, "desk", [*DESK, SHARED], WRONG)
    # its twin in another file contradicts what the wrong map made of it
    assert read(home, tmp_path, "late", [(SHARED[0], "Bullish")]).reasons == {"contradictory label": 1}
    before = stored(home)
    with pytest.raises(CheckFailed, match="1: Bearish -> Bullish"):
        read(home, tmp_path, "desk", [*DESK, SHARED], RIGHT)

    planned = remove(home, "desk", dry_run=True)
    assert (planned.dry_run, stored(home)) == (True, before)
    done = remove(home, "desk")
    assert (done.rows, done.quarantined, done.remaining) == (planned.rows, 1, 2)
    assert done.version == tables.version(home, "tweets") == planned.version + 1  # type: ignore[operator]
    assert stored(home) == others
    assert stored(home, planned.version) == before
    assert bad_rows(home) == []

    assert read(home, tmp_path, "desk", [*DESK, SHARED], RIGHT).accepted == 3
    after = stored(home)
    assert [after[text][1] for text, _ in (*DESK, SHARED)] == ["Bullish", "Bearish", "Bullish"]
    assert {text: row[2] for text, row in after.items()} == {text: row[2] for text, row in before.items()}
    assert read(home, tmp_path, "late", [(SHARED[0], "Bullish")]).duplicates == 1
    assert audit_data(CONFIG, home).leaks == 0


def test_a_source_whose_name_goes_on_keeps_its_entries(home: Workspace, tmp_path: Path) -> None:
    for name, other in (("desk", "gold"), ("desk:2024", "oil")):
        path = tmp_path / f"{name}.jsonl"
        rows = [(f"{other} rises on good news", "Bullish"), (f"{other} falls on bad news", "?")]
        path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
        ingest(make_context(CONFIG, home), [Source(uri=str(path), name=name)])
    assert remove(home, "desk").quarantined == 1
    assert bad_rows(home) == [("desk:2024", 2, "unknown label")]


def test_the_version_says_what_it_is_without(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "other", [("the fed meets on tuesday", "Neutral")])
    read(home, tmp_path, "desk", DESK, WRONG)
    done = remove(home, "desk")
    commit = tables.commit_history(home, "tweets", last=1)[0]
    noted = json.loads(commit["removed"])
    assert (noted["source"], noted["rows"], noted["who"], noted["why"]) == ("desk", 2, "ada", "wrong map")
    assert commit["fingerprint"] == fingerprint_table(home)
    assert data_version(home).leaks == 0
    assert set(known_schemas(home)) == {"other"}
    assert read_origin(home, int(done.version or 0))["sources"] == ("other.jsonl",)
    assert [item.removed for item in list_versions(home)] == ["desk", None, None]


def test_twins_that_were_duplicates_come_back_with_their_own_file(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "desk", [*DESK, SHARED], RIGHT)
    assert read(home, tmp_path, "late", [(SHARED[0], "Bullish")]).duplicates == 1
    split = stored(home)[SHARED[0]][2]
    remove(home, "desk")
    assert stored(home) == {}
    assert read(home, tmp_path, "late", [(SHARED[0], "Bullish")]).accepted == 1
    assert stored(home) == {SHARED[0]: ("late", "Bullish", split)}


def test_a_source_of_duplicates_alone_leaves_its_map(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "other", [(text, "Bearish" if value == "1" else "Bullish") for text, value in DESK])
    path = tmp_path / "more.jsonl"
    path.write_text(json.dumps({"text": "volume is light today", "label": "Neutral"}) + "\n")
    (tmp_path / "desk.jsonl").write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in DESK))
    ingest(make_context(CONFIG, home), [Source(uri=str(path)), Source(uri=str(tmp_path / "desk.jsonl"), labels=WRONG)])
    before = stored(home)
    assert remove(home, "desk").rows == {}
    assert stored(home) == before
    assert "desk" not in known_schemas(home)


def test_a_contradiction_with_somebody_else_stays(home: Workspace, tmp_path: Path) -> None:
    text = "everything is up to the central bank now"
    read(home, tmp_path, "other", [(text, "Neutral"), ("a quiet day", "Neutral")])
    read(home, tmp_path, "desk", [(text, "Bullish"), *[(text, {"1": "Bullish", "0": "Bearish"}[label]) for text, label in DESK]])
    read(home, tmp_path, "late", [(text, "Bearish"), (DESK[0][0], "Bearish")])
    assert len(bad_rows(home)) == 3
    done = remove(home, "desk")
    assert done.quarantined == 2
    assert bad_rows(home) == [("late", 1, "contradictory label")]


def test_a_killed_removal_is_done_by_the_next(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read(home, tmp_path, "other", [("a quiet day", "Neutral")])
    read(home, tmp_path, "desk", [*DESK, SHARED], WRONG)
    read(home, tmp_path, "late", [(SHARED[0], "Bullish")])
    real = tables.replace_where

    def killed(home: Workspace, name: str, *rest: Any) -> tables.Position | None:
        if name == "tweets":
            raise KeyboardInterrupt
        return real(home, name, *rest)

    monkeypatch.setattr(tables, "replace_where", killed)
    with pytest.raises(KeyboardInterrupt):
        remove(home, "desk")
    monkeypatch.undo()
    assert remove(home, "desk").version == tables.version(home, "tweets")
    assert list(stored(home)) == ["a quiet day"]
    assert tables.read(home, "quarantine").num_rows == 0
    with pytest.raises(InputError, match=r"no source 'desk' in the data\. Sources: 'other'"):
        remove(home, "desk")


@pytest.mark.parametrize("name", ["dsek", "desk' OR '1'='1"])
def test_an_unknown_source_is_named_with_its_like(home: Workspace, tmp_path: Path, name: str) -> None:
    read(home, tmp_path, "desk", DESK, RIGHT)
    with pytest.raises(InputError, match=r"there is no source .* Sources: 'desk'"):
        remove(home, name)
    assert len(stored(home)) == 2


def test_a_name_with_quotes(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "ada's desk", DESK, RIGHT)
    read(home, tmp_path, "other", [("a quiet day", "Neutral")])
    assert remove(home, "ada's desk").remaining == 1
    assert list(stored(home)) == ["a quiet day"]


def test_no_reason_no_removal(home: Workspace, tmp_path: Path) -> None:
    read(home, tmp_path, "desk", DESK, RIGHT)
    with pytest.raises(InputError, match="a reason"):
        remove_source(home, "desk", who="ada", why=" ")
    assert quarantine.earlier_conflicts(home) == frozenset()
