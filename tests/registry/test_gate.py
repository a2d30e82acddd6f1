"""The gate: every rule by table, every gap by property."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finsent.config import GateConfig
from finsent.evaluation.evidence import Evidence
from finsent.registry.gate import evaluate_gate, rules_digest
from tests.registry.whole_evidence import RULES, leaves, passing, put, remove, unchecked


def test_whole_and_good_evidence_promotes():
    decision = evaluate_gate(Evidence(**passing()), RULES, "3")
    assert decision.decision == "promote"
    assert {rule.status for rule in decision.rules} == {"pass"}
    assert "Better than champion 3" in decision.reasons[0]


def test_a_first_version_skips_the_champion_rules_and_says_so():
    decision = evaluate_gate(Evidence(**passing(champion=None)), RULES, None)
    assert decision.decision == "promote"
    assert "no champion yet: the champion rules were skipped" in decision.reasons[0]
    names = [rule.name for rule in decision.rules]
    assert "champion_current" in names
    assert "beats_champion" not in names


CASES = [
    ("n_test", 199, "test_rows", "Test rows: 199, required at least 200"),
    ("leaks", 1, "leaks", "Pairs of equal or nearly equal tweets across splits: 1, required exactly 0"),
    ("leaks", None, "leaks", "no finite value"),
    ("metrics.accuracy", 0.49, "accuracy", "Accuracy: 0.49, required at least 0.5"),
    ("metrics.macro_f1", 0.39, "macro_f1", "Macro-F1: 0.39"),
    ("metrics.per_class.Bearish.f1", 0.19, "class_f1.Bearish", "F1 of Bearish: 0.19, required at least 0.2"),
    ("ece", 0.11, "ece", "required at most 0.1"),
    ("ece", math.nan, "ece", "no finite value"),
    ("baselines.tfidf.accuracy", 0.89, "beats_tfidf", "required above 0.89"),
    ("baselines.tfidf.accuracy", 1.0, "beats_tfidf", "cannot be met on these rows: the baseline makes no error"),
    ("baselines.tfidf.accuracy", math.nan, "beats_tfidf", "no finite threshold"),
    ("baselines.tfidf.mcnemar.p_one_sided", 0.05, "beats_tfidf_significantly", "required below 0.05"),
    (
        "baselines.source_majority.mcnemar.p_one_sided",
        0.2,
        "beats_source_majority_significantly",
        "most frequent class of the source",
    ),
    ("baselines.majority.accuracy", 0.9, "beats_majority", "Accuracy, against most frequent class: 0.89, required above 0.9"),
    ("robustness.typos.failure_rate", 0.31, "robust.typos", "predictions that change under typos (300 texts): 0.31, required at"),
    ("robustness.case.failure_rate", 0.21, "robust.case", "required at most 0.2"),
    ("robustness.negation.failure_rate", 0.81, "robust.negation", "that stay as they were under negation"),
    ("robustness", {}, "robust.direction", "Checks of direction judged: 0 of 0"),
    ("rules_sha256", "ab" * 32, "rules_declared", "not those declared when the evidence was taken (abababababab, now"),
    ("rules_sha256", None, "rules_declared", "Rules are set before a look"),
    ("round_trip.max_logit_difference", 0.011, "round_trip.logits", "required at most 0.01"),
    ("round_trip.head_hash_equal", False, "round_trip.head", "shown to be false"),
    ("round_trip.max_padding_difference", 0.02, "round_trip.padding", "required at most 0.01"),
    ("round_trip.max_batch_difference", 0.02, "round_trip.batch", "required at most 0.01"),
    ("round_trip.max_batch_difference", math.nan, "round_trip.batch", "no finite value"),
    ("round_trip", None, "round_trip.head", "not shown"),
    ("round_trip.labels_equal", False, "round_trip.labels", "order of the labels is training's: shown to be false"),
    ("round_trip.padding_equal", False, "round_trip.pooling", "pooled position are training's: shown to be false"),
    (
        "champion_version",
        "2",
        "champion_current",
        "stale evidence: champion changed, the evaluation met version 2 and now it is version 3",
    ),
    ("champion_version", None, "champion_current", "met no champion and now it is version 3"),
    ("champion_compared", False, "champion_compared", "was not scored on the same rows"),
    ("champion.metrics.confusion", [[1000, 0, 0], [0, 1199, 0], [0, 0, 801]], "champion_compared", "scored other rows"),
    ("champion.mcnemar.p_one_sided", 0.06, "beats_champion", "against champion 3: 0.06, required below 0.05"),
    ("champion.mcnemar.p_one_sided", 0.06, "beats_champion", "can detect differences above 1.2 points of accuracy (80% of the"),
    (
        "champion.paired_bootstrap.class_f1_difference.Neutral.difference",
        -0.02,
        "class_noninferior.Neutral",
        "F1 of Neutral minus the champion's: -2.0 points, lower end -3.6 (one-sided 95.00 % interval), required above -3.0",
    ),
    ("champion.paired_bootstrap.macro_f1_difference.standard_error", 0.02, "macro_f1_noninferior", "required above -1.0"),
    ("slices.source.pyfin.accuracy_difference.difference", -0.04, "slice_noninferior.source=pyfin", "required above -5.0"),
    ("slices.source.pyfin.n", 1001, "same_rows", "slices by source 3,001"),
    ("slices.emoji.without.n", 2901, "same_rows", "slices by emoji 3,001"),
    ("champion.metrics.n", 2999, "same_rows", "champion 2,999"),
    ("slices", {}, "evidence_complete", "slices"),
    ("slices", {}, "slices_judged", "Slices judged: 0 of 0"),
    (
        "baselines",
        {
            "tfidf": {
                "accuracy": 0.1,
                "macro_f1": 0.1,
                "mcnemar": dict.fromkeys(("only_a", "only_b", "p_one_sided", "p_two_sided"), 0),
            }
        },
        "evidence_complete",
        "baselines.majority, baselines.source_majority",
    ),
    ("manifest_sha256", None, "evidence_complete", "manifest_sha256"),
    ("data_fingerprint", "", "evidence_complete", "data_fingerprint"),
    ("intervals", {}, "evidence_complete", "intervals.accuracy"),
]


@pytest.mark.parametrize(("path", "value", "rule", "reason"), CASES)
def test_each_rule_refuses_with_its_reason(path, value, rule, reason):
    decision = evaluate_gate(Evidence(**put(passing(), path, value)), RULES, "3")
    assert decision.decision == "refuse"
    (result,) = [item for item in decision.rules if item.name == rule]
    assert result.status != "pass"
    assert reason in result.reason
    assert result.reason in decision.reasons


@pytest.mark.parametrize("claimed", [None, 1.0, math.nan])
def test_what_a_naive_split_would_have_claimed_decides_nothing(claimed):
    naive = {"held_out_accuracy": 0.89, "training_accuracy": 0.97, "n_training": 500, "leak": 0.2}
    record = {"naive_split": naive | {"estimated_accuracy": claimed}} if claimed is not None else {}
    decision = evaluate_gate(Evidence(**passing(), **record), RULES, "3")
    assert decision == evaluate_gate(Evidence(**passing()), RULES, "3")
    assert decision.decision == "promote"


@pytest.mark.parametrize("edge", ["n_test", "metrics.accuracy", "ece", "round_trip.max_logit_difference"])
def test_thresholds_themselves_pass(edge):
    limits = {"n_test": 3000, "metrics.accuracy": 0.89, "ece": 0.1, "round_trip.max_logit_difference": 0.01}
    rules = GateConfig(min_accuracy=0.89, min_test_rows=3000)
    data = passing() | {"rules_sha256": rules_digest(rules)}
    assert evaluate_gate(Evidence(**put(data, edge, limits[edge])), rules, "3").decision == "promote"


@pytest.mark.parametrize("difference", ["max_padding_difference", "max_batch_difference"])
def test_the_gate_decides_on_invariance_by_its_own_rule_whatever_the_evaluation_took_for_one(difference):
    data = put(passing(), f"round_trip.{difference}", 0.02)
    data["round_trip"] |= {"padding_invariant": True, "batch_invariant": True}
    assert evaluate_gate(Evidence(**data), RULES, "3").decision == "refuse"
    laxer = GateConfig(max_logit_difference=0.05)
    assert evaluate_gate(Evidence(**data | {"rules_sha256": rules_digest(laxer)}), laxer, "3").decision == "promote"


def test_evidence_that_met_a_champion_is_void_when_there_is_none_now():
    decision = evaluate_gate(Evidence(**passing()), RULES, None)
    assert decision.decision == "refuse"
    assert "stale evidence: champion changed" in decision.reasons[0]


def test_refusal_lists_every_rule_that_failed_and_no_other():
    data = put(put(passing(), "ece", 0.5), "leaks", 12)
    decision = evaluate_gate(Evidence(**data), RULES, "3")
    assert len(decision.reasons) == 2
    assert sum(rule.status == "pass" for rule in decision.rules) == len(decision.rules) - 2


def test_unknown_leaks_are_refused_for_the_reason_that_the_evidence_gives():
    why = "It is not known whether it trained on these test rows: it was trained elsewhere."
    decision = evaluate_gate(Evidence(**passing() | {"leaks": None, "leaks_unknown_reason": why}), RULES, "3")
    assert decision.decision == "refuse"
    assert why in decision.reasons


def test_no_evidence_at_all_is_refused():
    decision = evaluate_gate(Evidence(model_name="finsent", model_version="1"), RULES, None)
    assert decision.decision == "refuse"
    assert all(rule.status != "pass" for rule in decision.rules if rule.name != "champion_current")


OPTIONAL = {"speed.cost_per_million", "calibration.abstention", "champion.power.detectable_difference"}
"""None where there is nothing to say: no price, no threshold of its own, no difference that could be seen."""
PIECES = sorted(
    path
    for path in set(leaves(passing())) - {"model_name", "model_version"} - OPTIONAL
    if not path.endswith("baseline_accuracy") and not path.startswith(("calibration.abstention", "slices.emoji"))
)
TEXT = ("champion_version", "data_fingerprint", "test_fingerprint", "manifest_sha256", "rules_sha256")
NUMBERS = [path for path in PIECES if path not in TEXT]


@settings(deadline=None, max_examples=len(PIECES) * 4)
@given(st.sampled_from(PIECES), st.booleans(), st.booleans())
def test_without_any_one_piece_of_evidence_nothing_is_promoted(path, absent, first):
    data = passing(champion=None if first else "3")
    if first and (path.startswith("champion") or path.endswith("accuracy_difference") or ".accuracy_difference." in path):
        path = "metrics"
    hollow = unchecked(put(data, path, None) if absent or "." not in path else remove(data, path))
    assert evaluate_gate(hollow, RULES, None if first else "3").decision == "refuse"


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(NUMBERS), st.sampled_from([math.nan, math.inf, -math.inf]))
def test_nothing_that_is_no_number_is_promoted(path, value):
    assert evaluate_gate(unchecked(put(passing(), path, value)), RULES, "3").decision == "refuse"


@pytest.mark.parametrize("path", ["ece", "metrics.accuracy", "baselines.tfidf.accuracy", "champion.mcnemar.p_one_sided"])
def test_a_decision_holds_no_nan_so_that_the_audit_log_can_keep_it(path):
    decision = evaluate_gate(unchecked(put(passing(), path, math.nan)), RULES, "3")
    held = [value for rule in decision.rules for value in (rule.value, rule.threshold) if isinstance(value, float)]
    assert held
    assert all(math.isfinite(value) for value in held)


def test_evidence_round_trips_through_json():
    evidence = Evidence(**put(passing(), "ece", math.nan))
    back = Evidence.model_validate_json(evidence.model_dump_json())
    assert math.isnan(back.ece)
    assert back.model_copy(update={"ece": 0.0}) == evidence.model_copy(update={"ece": 0.0})
    whole = Evidence(**passing())
    assert Evidence.model_validate_json(whole.model_dump_json()) == whole


def test_a_slice_too_small_to_judge_is_named_and_decides_nothing():
    decision = evaluate_gate(Evidence(**put(passing(), "slices.emoji.with.accuracy_difference.difference", -0.5)), RULES, "3")
    assert decision.decision == "promote"
    (judged,) = [rule for rule in decision.rules if rule.name == "slices_judged"]
    assert judged.value == "3 of 4"
    assert "Of fewer than 200 rows, so shown and not judged: emoji=with (100)" in judged.reason


def test_a_judged_slice_without_a_difference_shows_nothing():
    decision = evaluate_gate(Evidence(**remove(passing(), "slices.source.pyfin.accuracy_difference")), RULES, "3")
    (result,) = [rule for rule in decision.rules if rule.name == "slice_noninferior.source=pyfin"]
    assert (decision.decision, result.status) == ("refuse", "missing")


def test_any_change_of_the_rules_changes_their_digest():
    changed = {
        "approval": "automatic", "alpha": 0.04, "slice_margin": 0.06, "min_test_rows": 1, "max_ece": 0.2, "max_flip_rate": 0.3
    }  # fmt: skip
    digests = {rules_digest(RULES.model_copy(update={key: value})) for key, value in changed.items()}
    assert len(digests | {rules_digest(RULES)}) == len(changed) + 1
    assert rules_digest(GateConfig()) == rules_digest(RULES)


def test_a_kind_of_robustness_of_which_no_check_can_be_judged_is_missing():
    data = passing()
    for check in data["robustness"].values():
        check["n"] = 29 if check["kind"] == "direction" else 300
    decision = evaluate_gate(Evidence(**data), RULES, "3")
    (result,) = [rule for rule in decision.rules if rule.name == "robust.direction"]
    assert (decision.decision, result.status) == ("refuse", "missing")
    assert "Of fewer than 30 texts, so shown and not judged: negation (29)" in result.reason


def test_slices_none_of_which_can_be_judged_show_nothing():
    data = passing()
    strict = RULES.model_copy(update={"min_slice_rows": 5000})
    decision = evaluate_gate(Evidence(**data | {"rules_sha256": rules_digest(strict)}), strict, "3")
    (result,) = [rule for rule in decision.rules if rule.name == "slices_judged"]
    assert (decision.decision, result.value, result.status) == ("refuse", "0 of 4", "missing")
