"""What the evaluation and the gate say on a terminal."""

from types import SimpleNamespace
from typing import Any

from finsent.cli import render
from finsent.cli.output import as_text
from finsent.config import load_config
from finsent.evaluation.evidence import Evidence
from finsent.registry.gate import RuleResult, evaluate_gate
from finsent.steps.predict import Prediction
from finsent.steps.score import ScoreReport


def said(evidence: Evidence, *, candidate: bool | None = True) -> str:
    result = SimpleNamespace(evidence=evidence, model_version="4", data=None, n_in_training=None, skipped={}, candidate=candidate)
    return as_text(render.render_evaluation(result))


def test_an_evaluation_says_whether_the_version_may_stand_for_promotion(specimen: Any) -> None:
    assert "candidate: it beats every baseline significantly.\nNext: finsent promote --version 4" in said(specimen.evidence)
    assert "no candidate: it does not beat every baseline significantly." in said(specimen.evidence, candidate=False)
    assert "candidate" not in said(specimen.evidence, candidate=None)


def test_rows_that_could_not_be_read_are_not_passed_over(specimen: Any) -> None:
    result = SimpleNamespace(
        evidence=specimen.evidence, model_version="4", data="x.csv", n_in_training=0, skipped={"unknown label": 2}, candidate=None
    )
    assert "NOT SCORED: 2 rows that cannot be read (2 unknown label)" in as_text(render.render_evaluation(result))


def test_an_evaluation_is_told_in_a_screen_and_a_half(specimen: Any) -> None:
    evidence = specimen.evidence
    text = said(evidence)
    metrics, champion, interval = evidence.metrics, evidence.champion["metrics"], evidence.intervals["brier"]
    for shown in (
        "Version 4 on 1,600 held-out rows",
        f"{metrics['mcc']:.4f} [",
        f"champion, version 3  {champion['accuracy']:.4f}",
        "most frequent class of the source",
        "Sources, and the weakest of 5 other slices",
        f"{evidence.ece:.4f} [",
        f"{evidence.calibration['ece_before_scaling']:.4f} before scaling",
        f"{evidence.calibration['brier']:.4f} [{interval['low']:.4f}, {interval['high']:.4f}]",
        f"Below a confidence of {evidence.calibration['abstention']['threshold']:.3f} it gives no answer",
        "changes its prediction most under case: 24.0% of 300 texts (7 checks)",
        "612 tweets/s",
        "can detect differences above",
        "used twice",
    ):
        assert shown in " ".join(text.split()) or shown in text, shown
    assert [text.count(f"source = {name}") for name in evidence.slices["source"]] == [1] * 4
    assert len(text.splitlines()) <= 60
    other = sorted(
        found["accuracy"] for dimension, values in evidence.slices.items() if dimension != "source" for found in values.values()
    )
    assert all(f"{accuracy:.4f} [" in text for accuracy in other[:3])


def test_an_evaluation_of_nothing_says_so() -> None:
    text = said(Evidence(model_name="finsent", model_version="4"))
    assert "not measured" in text
    assert "calibration error  -" in text


def decision(outcome: str, rules: tuple[RuleResult, ...], reasons: tuple[str, ...]) -> Any:
    return SimpleNamespace(
        model_version="4", champion_after="3", champion_before="3", decision=outcome, rules=rules, reasons=reasons
    )


def test_a_refusal_names_what_failed_first_and_counts_the_rest(specimen: Any) -> None:
    found = evaluate_gate(specimen.evidence.model_copy(update={"leaks": None}), load_config().gate, "3")
    text = as_text(render.render_promotion(decision("refused", found.rules, found.reasons)))
    assert text.startswith("REFUSED: version 4 is not promoted; version 3 stays champion")
    assert text.index("robust.case") < text.index("evidence_complete")  # failed, then missing
    assert "beats_majority" not in text
    failed, missing = (sum(rule.status == status for rule in found.rules) for status in ("fail", "missing"))
    passed = len(found.rules) - failed - missing
    assert f"{passed} of {len(found.rules)} rules passed, {failed} failed, {missing} had no evidence." in text
    limit = "required at most 0.2."
    failing = sum(limit in rule.reason for rule in found.rules if rule.status != "pass")
    assert text.count(limit) == failing > 0  # a reason is said once


def test_what_no_rule_says_is_said_above_the_rules() -> None:
    rule = RuleResult("accuracy", 0.9, 0.5, "pass", "Accuracy: 0.9, required at least 0.5.")
    text = as_text(render.render_promotion(decision("promoted", (rule,), ("Better than champion 3.",))))
    assert "PROMOTED: version 4 is the champion now (before it: version 3)" in text
    assert "Better than champion 3." in text
    assert text.endswith("1 of 1 rules passed.")
    imported = SimpleNamespace(
        evaluation=SimpleNamespace(
            evidence=Evidence(model_name="f", model_version="4"),
            model_version="4",
            data=None,
            n_in_training=None,
            skipped={},
            candidate=False,
        ),
        verdict=SimpleNamespace(decision="refuse", rules=(rule,), reasons=("The evidence is void.",)),
    )
    assert "The gate would refuse it:\n  The evidence is void." in as_text(render.render_import_evaluation(imported, "4"))


def test_predictions_show_label_or_why_there_is_none() -> None:
    shares = {"Neutral": 0.1, "Bullish": 0.8, "Bearish": 0.1}
    long = Prediction("up " * 1000, None, None, False, {}, "too long: 3000 characters, at most 2000 are accepted")
    rows = (Prediction("$AAPL up", "Bullish", 0.8, False, shares), Prediction("?", None, None, False, {}, "empty text"), long)
    text = as_text(render.render_predictions(rows))
    assert "up… (too long: 3000 characters, at most 2000 are accepted)" in text.replace("up …", "up…")
    assert "Bullish" in text
    assert "no label" in text
    assert "? (empty text)" in text


def test_scoring_counts_tweets_without_an_answer_for_no_class() -> None:
    counts = {"received": 0, "known": 0, "scored": 10, "skipped": 0, "quarantined": 4, "model_version": "3", "run_id": None}
    report = ScoreReport(
        **counts,
        classes={"Neutral": 6, "Bullish": 4, "Bearish": 0},
        abstained=2,
        abstained_by_class={"Neutral": 2},
        seconds=1,
        rows_per_second=10,
    )
    text = as_text(render.render_scoring(report, "/srv/tables"))
    told = [line.split() for line in text.splitlines()]
    assert ["Neutral", "4", "40.0%"] in told
    assert ["Bullish", "4", "40.0%"] in told
    assert ["abstained", "2", "20.0%"] in told
    assert ["quarantined", "4", "(why:", "finsent", "data", "quarantine)"] in told
    assert "/srv/tables/predictions" in text


def test_a_version_without_evidence_is_refused_in_one_sentence() -> None:
    sentence = "Version 4 has no evidence: run `finsent evaluate --version 4`."
    rules = (RuleResult("evidence", None, None, "missing", sentence), RuleResult("leaks", None, 0, "missing", "stale evidence"))
    text = as_text(render.render_promotion(decision("refused", rules, (sentence, "stale evidence"))))
    assert text.split("\n") == ["REFUSED: version 4 is not promoted; version 3 stays champion", "", f"  {sentence}"]
