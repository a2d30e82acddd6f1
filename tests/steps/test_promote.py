"""Promotion from evidence to alias in a real registry: every way it can end, and what is written down on the way."""

import json

import pytest

from finsent.errors import InputError
from finsent.registry import aliases, audit_log
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from tests.champions import crown
from tests.steps.promotion import (
    AUTOMATIC,
    SIGNED,
    WITH_APPROVAL,
    Killed,
    decisions,
    die,
    evidence,
    tags,
)


def test_first_version_that_passes_becomes_champion(mlflow_home, evaluated):
    version = evaluated()
    result = promote.promote(make_context(AUTOMATIC, mlflow_home))
    assert (result.model_version, result.decision, result.champion_before, result.champion_after) == ("1", "promoted", None, "1")
    assert {rule.status for rule in result.rules} == {"pass"}
    assert Registry(mlflow_home, "finsent").champion() == version
    found = tags(mlflow_home, version)
    assert (found["gate"], found["stage"]) == ("passed", "Production")
    (entry,) = decisions(mlflow_home)
    assert (entry["action"], entry["decision"], entry["version"], entry["champion"]) == ("gate", "promote", "1", None)
    assert entry["gate"]["approval"] == "automatic"
    assert len(entry["evidence_sha256"]) == 64
    assert found["audit_log_entry"] == f"{entry['seq']} {entry['hash']}"
    assert audit_log.verify(mlflow_home.audit_log).length == 2


def test_refusal_changes_nothing_and_is_written_down(mlflow_home, evaluated):
    evaluated()
    promote.promote(make_context(AUTOMATIC, mlflow_home))
    weak = evaluated(champion="1", accuracy=0.3)
    result = promote.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert (result.decision, result.champion_before, result.champion_after) == ("refused", "1", "1")
    assert any("Accuracy" in reason and "0.3" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").aliases() == {"champion": "1"}
    assert (tags(mlflow_home, weak)["gate"], tags(mlflow_home, weak)["stage"]) == ("refused", "None")
    assert tags(mlflow_home, weak)["gate_reasons"] == " ".join(result.reasons)
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote", "refuse"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no evidence: run `finsent evaluate --version 1`"),
        ("not json", "cannot be read"),
        (json.dumps({"model_name": "finsent"}), "cannot be read"),
        (evidence("17").model_dump_json(), "evidence is of version 17"),
    ],
)
def test_without_usable_evidence_nothing_is_promoted(mlflow_home, evaluated, content, reason):
    version = evaluated(content=content)
    result = promote.promote(make_context(AUTOMATIC, mlflow_home), version=version)
    assert result.decision == "refused"
    assert reason in result.reasons[0]
    assert result.rules[0].status == "missing"
    assert Registry(mlflow_home, "finsent").champion() is None
    assert decisions(mlflow_home)[0]["decision"] == "refuse"


def test_evidence_against_another_champion_is_void(mlflow_home, evaluated):
    evaluated()
    late = evaluated(champion=None)  # evaluated before version 1 was promoted
    promote.promote(make_context(AUTOMATIC, mlflow_home), version="1")
    result = promote.promote(make_context(AUTOMATIC, mlflow_home), version=late)
    assert result.decision == "refused"
    assert any("stale evidence" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").champion() == "1"


def test_promotion_that_comes_second_is_refused(mlflow_home, evaluated, monkeypatch):
    evaluated()
    evaluated()
    real = aliases.set_champion

    def overtaken(registry, version, expected, *, approval):
        crown(registry, "2")
        real(registry, version, expected, approval=approval)

    monkeypatch.setattr("finsent.steps.promote.set_champion", overtaken)
    result = promote.promote(make_context(AUTOMATIC, mlflow_home), version="1")
    assert (result.decision, result.champion_before, result.champion_after) == ("refused", None, "2")
    assert "the champion of 'finsent' is '2'" in result.reasons[0]
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote", "promote", "refuse"]
    assert tags(mlflow_home, "1")["gate"] == "refused"


def test_champion_is_not_judged_again(mlflow_home, evaluated):
    evaluated()
    promote.promote(make_context(AUTOMATIC, mlflow_home))
    result = promote.promote(make_context(AUTOMATIC, mlflow_home))
    assert (result.decision, result.reasons) == ("promoted", ("Version 1 is the champion already.",))
    assert len(decisions(mlflow_home)) == 1


def test_killed_after_the_decision_and_run_again(mlflow_home, evaluated, monkeypatch):

    version = evaluated()
    with monkeypatch.context() as dying:
        dying.setattr("finsent.steps.promote.set_champion", die)
        with pytest.raises(Killed):
            promote.promote(make_context(AUTOMATIC, mlflow_home))
    assert Registry(mlflow_home, "finsent").champion() is None
    assert promote.promote(make_context(AUTOMATIC, mlflow_home)).decision == "promoted"
    assert Registry(mlflow_home, "finsent").champion() == version
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote"], "completed, not decided anew"


def test_a_number_written_otherwise_is_the_same_version(mlflow_home, evaluated):
    evaluated(config=WITH_APPROVAL)
    context = make_context(WITH_APPROVAL, mlflow_home)
    assert promote.promote(context, version="01").model_version == "1"
    assert promote.get_approval_request(context, "１").version == "1"
    assert promote.approve(context, "01", *SIGNED).champion_after == "1"
    assert "approved" in promote.decision_summary(context, "01")
    assert promote.promote(context, version="001").decision == "promoted", "the champion already"
    assert {entry["version"] for entry in audit_log.read(mlflow_home.audit_log)} == {"1"}
    rejected = evaluated(champion="1", config=WITH_APPROVAL)
    promote.promote(context)
    assert promote.reject(context, f"0{rejected}", *SIGNED).model_version == rejected


def test_what_is_no_number_of_a_version_is_none(mlflow_home, evaluated):
    evaluated()
    for given in ("1_0", "+1", " 1", "-1", "9" * 20, "2147483648", "9" * 5000):
        with pytest.raises(InputError, match=r"has no version .*Its versions: 1"):
            promote.promote(make_context(AUTOMATIC, mlflow_home), version=given)
    assert decisions(mlflow_home) == []


def test_nothing_registered_is_said(mlflow_home):
    with pytest.raises(InputError, match="run `finsent train`"):
        promote.promote(make_context(AUTOMATIC, mlflow_home))
    with pytest.raises(InputError, match="has none yet"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version="3")
