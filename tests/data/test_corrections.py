"""Decisions brought into the table: one commit, the split as before, the old version as it was, nothing raced or done twice."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from finsent.config import Source, load_config
from finsent.data import corrections, tables
from finsent.data.corrections import ReviewDecision, apply_decisions, record_decisions
from finsent.data.dataset import data_version, fingerprint_rows, load_split
from finsent.errors import CheckFailed
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.text import text_id
from finsent.workspace import Workspace, resolve_workspace

CONFIG = load_config()
TEXTS = {f"tweet number {n} on ${name} says {word}": "Bullish" for n, name, word in zip(range(3), "ABC", "xyz", strict=True)}
FIRST, SECOND, THIRD = (text_id(text) for text in TEXTS)


def fill(home: Workspace, path: Path, rows: dict[str, str] = TEXTS) -> int:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows.items()))
    version = ingest(make_context(CONFIG, home), [Source(uri=str(path))]).version
    assert version is not None
    return version


def decide(home: Workspace, **decisions: ReviewDecision) -> None:
    record_decisions(home, decisions, "ada", "read", datetime.now(UTC))


def rows(home: Workspace, version: int | None = None) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in tables.read(home, "tweets", version=version).to_pylist()}


def test_a_fix_and_a_drop_are_one_new_version(home: Workspace, tmp_path: Path) -> None:
    version = fill(home, tmp_path / "a.jsonl")
    before = rows(home)
    decide(home, **{FIRST: ReviewDecision("fix", "Bearish"), SECOND: ReviewDecision("drop"), THIRD: ReviewDecision("accept")})
    assert apply_decisions(home) == version + 1 == tables.version(home, "tweets")
    after = rows(home)
    assert after == {FIRST: before[FIRST] | {"label": "Bearish"}, THIRD: before[THIRD]}
    assert rows(home, version) == before


def test_a_version_made_by_review_carries_fingerprint_audit_and_split_rule(home: Workspace, tmp_path: Path) -> None:
    version = fill(home, tmp_path / "a.jsonl")
    rule = tables.last_metadata(home, "tweets", "split_rule")
    decide(home, **{FIRST: ReviewDecision("fix", "Bearish"), SECOND: ReviewDecision("drop")})
    apply_decisions(home)
    commit = tables.commit_history(home, "tweets", last=1)[0]
    assert commit["fingerprint"] == fingerprint_rows(tables.read(home, "tweets"))
    assert (commit["split_rule"], commit["leaks"]) == (rule, "0")
    assert data_version(home).leaks == 0
    assert data_version(home).fingerprint != data_version(home, version).fingerprint
    assert fill(home, tmp_path / "b.jsonl", {"the fed meets": "Neutral"}) == version + 2  # and ingestion goes on from there


def test_training_reads_the_fixed_label_in_the_old_split(home: Workspace, tmp_path: Path) -> None:
    fill(home, tmp_path / "a.jsonl")
    split = rows(home)[FIRST]["split"]
    decide(home, **{FIRST: ReviewDecision("fix", "Bearish")})
    apply_decisions(home)
    found = load_split(home, split)
    assert found.labels[found.ids.index(FIRST)] == 2


def test_applying_again_changes_nothing(home: Workspace, tmp_path: Path) -> None:
    fill(home, tmp_path / "a.jsonl")
    decide(home, **{FIRST: ReviewDecision("fix", "Bearish"), SECOND: ReviewDecision("drop")})
    version = apply_decisions(home)
    assert apply_decisions(home) is None
    decide(home, **{THIRD: ReviewDecision("fix", "Bullish")})  # which it is already
    assert apply_decisions(home) is None
    assert tables.version(home, "tweets") == version


def test_there_may_be_no_data_or_no_decision(home: Workspace, tmp_path: Path) -> None:
    assert apply_decisions(home) is None
    assert not home.root.exists()
    decide(home, **{"0" * 32: ReviewDecision("drop")})
    assert apply_decisions(home) is None
    version = fill(home, tmp_path / "a.jsonl")
    assert apply_decisions(home) is None
    assert tables.version(home, "tweets") == version


def test_a_decision_can_be_taken_back_by_another(home: Workspace, tmp_path: Path) -> None:
    version = fill(home, tmp_path / "a.jsonl")
    before = data_version(home).fingerprint
    decide(home, **{FIRST: ReviewDecision("fix", "Bearish")})
    apply_decisions(home)
    decide(home, **{FIRST: ReviewDecision("fix", "Bullish")})
    assert apply_decisions(home) == version + 2
    assert data_version(home).fingerprint == before


def test_no_audit_on_record_is_not_made_up(home: Workspace, tmp_path: Path) -> None:
    fill(home, tmp_path / "a.jsonl")
    foreign = next(iter(rows(home).values())) | {"id": "0" * 32, "text": "by hand"}
    import pyarrow as pa

    tables.append(home, "tweets", pa.Table.from_pylist([foreign], schema=tables.SCHEMAS["tweets"]))
    assert data_version(home).leaks is None
    decide(home, **{FIRST: ReviewDecision("drop")})
    apply_decisions(home)
    assert data_version(home).leaks is None


def test_an_ingestion_that_gets_ahead_is_taken_into_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, there = (
        resolve_workspace({"FINSENT_HOME": str(tmp_path / name), "FINSENT_TABLES": str(tmp_path / "tables")}) for name in "ab"
    )
    fill(here, tmp_path / "a.jsonl")
    decide(here, **{FIRST: ReviewDecision("fix", "Bearish")})
    real, overtaken = tables.update_rows, []

    def late(*arguments: Any) -> Any:
        if not overtaken:
            overtaken.append(fill(there, tmp_path / "b.jsonl", {"the fed meets on tuesday": "Neutral"}))
        return real(*arguments)

    monkeypatch.setattr(tables, "update_rows", late)
    monkeypatch.setattr("finsent.steps.ingest.apply_decisions", lambda _: None)  # as if it had looked before the decision
    assert apply_decisions(here) == overtaken[0] + 1
    assert len(rows(here)) == 4
    assert rows(here)[FIRST]["label"] == "Bearish"
    assert data_version(there).leaks == 0


def test_being_overtaken_for_ever_is_said(home: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(home, tmp_path / "a.jsonl")
    decide(home, **{FIRST: ReviewDecision("drop")})
    monkeypatch.setattr(corrections.tables, "update_rows", lambda *_: None)
    with pytest.raises(CheckFailed, match="other runs wrote to table 'tweets'"):
        apply_decisions(home)
    assert len(rows(home)) == 3


@pytest.mark.integration
def test_machines_that_apply_and_ingest_at_once(tmp_path: Path) -> None:
    homes = [
        resolve_workspace({"FINSENT_HOME": str(tmp_path / name), "FINSENT_TABLES": str(tmp_path / "tables")}) for name in "abc"
    ]
    version = fill(homes[0], tmp_path / "a.jsonl")
    decide(homes[0], **{FIRST: ReviewDecision("fix", "Bearish"), SECOND: ReviewDecision("drop")})
    (tmp_path / "new.jsonl").write_text(json.dumps({"text": "the fed meets on tuesday", "label": "Neutral"}))
    start = (
        "import sys; from finsent.workspace import resolve_workspace; from finsent.config import Source, load_config; "
        "from finsent.data.corrections import apply_decisions; from finsent.steps.context import make_context; "
        "from finsent.steps.ingest import ingest; "
        "home = resolve_workspace({'FINSENT_HOME': sys.argv[1], 'FINSENT_TABLES': sys.argv[2]}); "
    )
    # a process that ends right after a scan may abort in Arrow's threads, its work done (apache/arrow issue 39862)
    apply = "apply_decisions(home); import time; time.sleep(0.5)"
    work = (apply, apply, "ingest(make_context(load_config(), home), [Source(uri=sys.argv[3])])")
    running = [
        subprocess.Popen(
            [sys.executable, "-c", start + step, str(home.root), home.tables_url, str(tmp_path / "new.jsonl")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for home, step in zip(homes, work, strict=True)
    ]
    for process in running:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    found = rows(homes[0])
    assert tables.version(homes[0], "tweets") == version + 2
    assert (len(found), found[FIRST]["label"], SECOND in found) == (3, "Bearish", False)
    assert data_version(homes[1]).leaks == 0
