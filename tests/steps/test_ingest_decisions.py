"""Ingestion respects what people decided about rows."""

from datetime import UTC, datetime
from pathlib import Path

from finsent.data.corrections import ReviewDecision, record_decisions
from finsent.data.leakage import audit_data
from finsent.text import text_id
from finsent.workspace import Workspace
from tests.steps.ingestion import CONFIG, give, stored

NOW = datetime(2025, 6, 1, tzinfo=UTC)


def decide(home: Workspace, **decisions: ReviewDecision) -> None:
    record_decisions(home, {text_id(text.replace("_", " ")): it for text, it in decisions.items()}, "me", "looked at it", NOW)


def test_later_ingestions_respect_what_people_decided(home: Workspace, tmp_path: Path) -> None:
    decide(home, gold_is_up=ReviewDecision("drop"), puts_are_printing=ReviewDecision("fix", "Bearish"))
    rows: list[dict[str, object]] = [
        {"text": "gold is up", "label": "Bullish"},
        {"text": "puts are printing", "label": "Bullish"},
        {"text": "puts are printing", "label": "Neutral"},
    ]
    report = give(home, tmp_path / "a.jsonl", rows)
    assert (report.accepted, report.duplicates, report.reasons) == (1, 1, {"dropped by review": 1})
    assert stored(home)["puts are printing"]["label"] == "Bearish"
    assert audit_data(CONFIG, home).leaks == 0


def test_a_conflict_that_was_decided_comes_in(home: Workspace, tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"text": "$AAPL earnings call is tonight after the close", "label": "Neutral"},
        {"text": "$AAPL earnings call is tonight after the close!", "label": "Bullish"},
    ]
    assert give(home, tmp_path / "a.jsonl", rows).conflicts == 1
    assert give(home, tmp_path / "a.jsonl", rows).reasons == {"contradictory label": 2}
    record_decisions(home, {text_id(str(rows[0]["text"])): ReviewDecision("accept")}, "me", "it is news", NOW)
    report = give(home, tmp_path / "a.jsonl", rows)
    assert (report.accepted, report.reasons) == (1, {"contradictory label": 1})
    record_decisions(home, {text_id(str(rows[1]["text"])): ReviewDecision("fix", "Neutral")}, "me", "the same news", NOW)
    assert give(home, tmp_path / "a.jsonl", rows).accepted == 1
    assert {row["label"] for row in stored(home).values()} == {"Neutral"}
    assert len({row["group"] for row in stored(home).values()}) == 1


def test_pending_decisions_are_brought_into_the_data_first(home: Workspace, tmp_path: Path) -> None:
    give(home, tmp_path / "a.jsonl", [{"text": "gold is up", "label": "Bearish"}, {"text": "rates stay", "label": "Neutral"}])
    decide(home, gold_is_up=ReviewDecision("fix", "Bullish"), rates_stay=ReviewDecision("drop"))
    report = give(home, tmp_path / "b.jsonl", [{"text": "the board meets in oslo", "label": "Neutral"}])
    assert {text: row["label"] for text, row in stored(home).items()} == {
        "gold is up": "Bullish",
        "the board meets in oslo": "Neutral",
    }
    assert (report.leaks, sum(sum(by_label.values()) for by_label in report.splits.values())) == (0, 2)
