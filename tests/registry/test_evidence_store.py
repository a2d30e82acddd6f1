"""The gate's decision stored with an evaluation: used once for exactly the same inputs, and evaluated again otherwise."""

import sqlite3
from contextlib import closing

import pytest

from finsent.config import load_config
from finsent.errors import TrackingError
from finsent.registry import audit_log, promotion
from finsent.registry.client import Registry
from finsent.registry.evidence_store import read_evidence, stored_decision
from finsent.registry.gate import GateInput, evaluate_gate, rules_digest
from finsent.reporting.summaries import DecisionSummary
from finsent.steps.context import make_context
from finsent.steps.promote import judge, promote
from finsent.steps.report import publish_report
from tests.steps.promotion import AUTOMATIC, evaluate_new, evidence, evidence_of, leave

DECIDED = DecisionSummary("Version 1 was promoted", favourable=True, reasons=())
INPUTS = GateInput("ab" * 32, rules_digest(AUTOMATIC.gate), "1")


def entry(**changes):
    decision = evaluate_gate(evidence("2", "1"), AUTOMATIC.gate, "1")
    rules = [vars(rule) for rule in decision.rules]
    stored = {"input_sha256": INPUTS.digest, "decision": decision.decision, "reasons": list(decision.reasons), "rules": rules}
    return {"gate_decision": {**stored, **changes}}


def test_the_decision_comes_back_as_it_was_made():
    assert stored_decision(entry(), INPUTS) == evaluate_gate(evidence("2", "1"), AUTOMATIC.gate, "1")


@pytest.mark.parametrize(
    "other",
    [
        GateInput("cd" * 32, INPUTS.rules_sha256, "1"),
        GateInput(INPUTS.evidence_sha256, "cd" * 32, "1"),
        GateInput(INPUTS.evidence_sha256, INPUTS.rules_sha256, "3"),
        GateInput(INPUTS.evidence_sha256, INPUTS.rules_sha256, None),
        GateInput(None, INPUTS.rules_sha256, "1"),
    ],
)
def test_other_inputs_have_no_stored_decision(other):
    assert stored_decision(entry(), other) is None


def test_a_gate_whose_code_changed_decides_again(monkeypatch):
    stored = entry()
    monkeypatch.setattr("finsent.registry.gate._code_digest", lambda: "other")
    assert stored_decision(stored, INPUTS) is None


@pytest.mark.parametrize(
    "found",
    [
        None,
        {},
        {"gate_decision": "promote"},
        entry(rules=None),
        entry(rules=[]),
        entry(rules=[{"name": "accuracy"}]),
        entry(decision="refuse"),
        entry(decision="yes"),
        entry(rules=[{"name": "accuracy", "value": 0.1, "threshold": 0.5, "status": "fail", "reason": "Too low."}]),
        {"gate_decision": {key: value for key, value in entry()["gate_decision"].items() if key != "reasons"}},
    ],
)
def test_what_cannot_be_read_or_contradicts_itself_is_no_decision(found):
    assert stored_decision(found, INPUTS) is None


@pytest.mark.parametrize(
    "step", [read_evidence, lambda registry, version: publish_report(registry, str(version.version), DECIDED)]
)
def test_a_run_that_was_purged_is_named_and_not_tried_again(mlflow_home, new_version, step):
    registry = Registry(mlflow_home, "finsent")
    version = registry.get_version(new_version())
    with closing(sqlite3.connect(mlflow_home.root / "mlflow.db")) as store, store:
        store.execute("DELETE FROM runs WHERE run_uuid = ?", (version.run_id,))  # as `mlflow gc` does
    with pytest.raises(TrackingError, match=rf"{version.run_id}.* not found.*Restore the run '{version.run_id}'") as found:
        step(registry, version)
    assert not found.value.retryable


@pytest.fixture
def gate_runs(monkeypatch):
    """How often the gate was evaluated in a promotion."""
    runs = []

    def counted(*inputs):
        runs.append(inputs)
        return evaluate_gate(*inputs)

    monkeypatch.setattr(promotion, "evaluate_gate", counted)
    return runs


def test_the_gate_is_evaluated_once_while_nothing_changes(mlflow_home, make_adapter, gate_runs):
    evaluate_new(mlflow_home, make_adapter(0))
    context = make_context(AUTOMATIC, mlflow_home)
    result = promote(context)
    assert (result.decision, gate_runs) == ("promoted", [])
    assert {"accuracy", "rules_declared", "artifact"} <= {rule.name for rule in result.rules}
    late = evaluate_new(mlflow_home, make_adapter(0))  # against no champion, and now there is one
    assert judge(context, late).decision.decision == "refuse"
    assert len(gate_runs) == 1


def test_other_rules_and_changed_evidence_are_judged_again(mlflow_home, make_adapter, gate_runs):
    version = evaluate_new(mlflow_home, make_adapter(0))
    loose = load_config("nano", overrides=["gate.approval=automatic", "gate.min_accuracy=0.1"])
    refused = judge(make_context(loose, mlflow_home), version).decision
    assert (refused.decision, len(gate_runs)) == ("refuse", 1)
    assert "gate.min_accuracy" in refused.reasons[0]
    leave(mlflow_home, version, evidence_of(mlflow_home, version, accuracy=0.99).model_dump_json())
    refused = judge(make_context(AUTOMATIC, mlflow_home), version).decision
    assert (refused.decision, len(gate_runs)) == ("refuse", 2)
    assert "was changed after it was taken" in refused.reasons[0]


def test_the_entry_of_an_evaluation_is_no_promotion(mlflow_home, make_adapter):
    version = evaluate_new(mlflow_home, make_adapter(0))
    (found,) = audit_log.history(mlflow_home.audit_log, "finsent", version).entries
    assert (found.action, found.decision, found.champion_after) == ("evaluate", None, None)
