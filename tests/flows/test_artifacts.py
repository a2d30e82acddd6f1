"""The reports that flows leave in the Prefect UI."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from finsent.data.inbox_files import InboxFault
from finsent.data.inbox_sources import SourceArrivals
from finsent.evaluation.evidence import Evidence
from finsent.registry.gate import RuleResult
from finsent.steps.promote import PromotionResult
from finsent.workspace import resolve_workspace
from flows import artifacts
from flows.artifacts import data_report, decision, markdown_table, metrics_rows, not_read_message, predictions_report


def test_cells_cannot_break_a_table() -> None:
    text = markdown_table(("tweet", "n"), [("a | b\nc", 1200), (None, 0.123456)])
    assert text.splitlines() == ["| tweet | n |", "|---|---|", "| a \\| b c | 1,200 |", "| - | 0.1235 |"]
    assert markdown_table(("tweet",), [("up\u202enwod \x1b[1m",)]).splitlines()[-1] == "| up\\u202enwod \\x1b[1m |"


RULE = RuleResult("accuracy", 0.4, 0.5, "fail", "Accuracy is 0.4, but must be at least 0.5.")


@pytest.mark.parametrize(
    ("verdict", "heading", "after"),
    [
        ("promoted", "# Version 3 of finsent is the champion", "finsent rollback"),
        ("pending_approval", "# Version 3 of finsent passed and waits for approval", "finsent approve 3"),
        ("refused", "# Version 3 of finsent was refused", "Version 2 stays champion."),
    ],
)
def test_a_decision_says_what_why_and_what_next(verdict: str, heading: str, after: str) -> None:
    result = PromotionResult("3", verdict, ("too weak",), (RULE,), "2", "2")  # type: ignore[arg-type]
    text = decision(result, "finsent")
    assert text.startswith(heading)
    assert after in text
    assert "- too weak" in text
    assert "| fail | accuracy | Accuracy is 0.4, but must be at least 0.5. |" in text


def test_what_stands_against_a_version_comes_first_and_the_rest_is_counted() -> None:
    fine, lost = RuleResult("macro_f1", 0.9, 0.5, "pass", "fine"), RuleResult("leaks", None, 0, "missing", "nobody looked")
    text = decision(PromotionResult("3", "refused", ("too weak",), (fine, lost, RULE), "2", "2"), "finsent")
    assert "Rules: 1 failed, 1 missing, 1 passed." in text
    assert text.index("| fail |") < text.index("| missing |") < text.index("| pass |")


def test_metrics_stand_beside_baseline_and_champion(specimen: Any) -> None:
    evidence = specimen.evidence
    rows = {row["score"]: row for row in metrics_rows(evidence)}
    assert list(rows) == ["accuracy", "macro_f1", "mcc", "ece", "brier"]
    assert rows["accuracy"]["version 4"] == round(evidence.metrics["accuracy"], 4)
    assert rows["accuracy"]["champion 3"] == round(evidence.champion["metrics"]["accuracy"], 4)
    assert rows["accuracy"]["TF-IDF baseline"] == round(evidence.baselines["tfidf"]["accuracy"], 4)
    interval = evidence.intervals["ece"]
    assert rows["ece"]["95 % interval"] == f"{interval['low']:.4f} to {interval['high']:.4f}"
    assert rows["brier"]["champion 3"] is None
    (bare, *_) = metrics_rows(Evidence(model_name="finsent", model_version="3"))
    assert (bare["version 3"], bare["TF-IDF baseline"], bare["champion (none)"]) == (None, None, None)


def test_nothing_scored_is_a_report_too() -> None:
    report = SimpleNamespace(
        scored=0, model_version="3", received=0, skipped=5, quarantined=0, abstained=0, seconds=0.1, classes={}, sources=()
    )
    text = predictions_report(report)
    assert text.startswith("# 0 tweets scored by version 3")
    assert "5 already scored" in text


def test_a_file_that_was_not_read_is_shown_harmlessly() -> None:
    fault = InboxFault("in/a|b\nc\x1b[31m.csv", "set aside", "is empty", None, datetime(2026, 11, 30, 1, 2, tzinfo=UTC))
    source = SourceArrivals("desk", 1, 2, ("in/d.csv",), 5, 3, 1, 1, (fault, fault))
    report = SimpleNamespace(
        scored=0, model_version="3", received=3, skipped=5, quarantined=1, abstained=0, seconds=0.1, classes={}, sources=(source,)
    )
    text = predictions_report(report)
    assert "| desk | 1 | 2 | 1 | 5 | 3 | 1 | 1 |" in text
    assert "## Not read: 2" in text
    assert r"| set aside | in/a\|b c\x1b[31m.csv | 2026-11-30 01:02 | is empty |" in text
    assert not_read_message(report) == ("'in/a|b\\nc\\x1b[31m.csv' is set aside: is empty, and 1 more (`finsent status`)")


def test_the_data_report_shows_audit_and_confounding_where_they_are_known() -> None:
    counts = {"read": 3, "accepted": 2, "duplicates": 1, "quarantined": 0, "unlabelled": 0}
    report = SimpleNamespace(
        version=4,
        **counts,
        by_source={"desk": counts},
        reasons={},
        splits={"train": {"Neutral": 2}},
        leaks=0,
        naive_leak=0.2,
        fingerprint="abc",
    )
    found = SimpleNamespace(by_source={"desk": {"Neutral": 2, "Bullish": 0}}, sentence="Label and source are hardly related.")
    facts = SimpleNamespace(report={"audit": {"exact": {"train-test": 0}, "near": {"train-test": 0}}}, confounding=found)
    text = data_report(report, facts)
    assert "| train-test | 0 | 0 |" in text
    assert "Label and source are hardly related." in text
    assert "| desk | 2 | 0 |" in text
    assert "Label and source" not in data_report(report)


def test_no_page_or_command_shows_a_password() -> None:
    for uri in ("http://ada:s3cret@mlflow.example:5000", "postgresql://ada:s3cret@db.example/mlflow"):
        home = resolve_workspace({"FINSENT_HOME": "h", "MLFLOW_TRACKING_URI": uri})
        shown = f"{artifacts.version_page(home, 'finsent', '3')} {artifacts.how_to_open(home)}"
        assert "s3cret" not in shown
        assert "ada" not in shown
        assert ".example" in shown
