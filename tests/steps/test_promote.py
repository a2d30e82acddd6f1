"""Promotion from evidence to alias in a real registry: every way it can end, and what is written down on the way."""

import json

import pytest

from finsent.cli import status
from finsent.config import load_config
from finsent.errors import CheckFailed, InputError, NoChampionError
from finsent.registry import aliases, audit_log, audit_mirror, tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps import promote as pipeline
from finsent.steps.context import make_context
from tests.steps.promotion import AUTOMATIC, SIGNED, WITH_APPROVAL, evaluate_new, evidence, evidence_of, leave, register, take


class Killed(BaseException):
    """Ends an operation where a kill would, without running what handles exceptions."""


def die(*_args, **_more):
    raise Killed


@pytest.fixture
def evaluated(mlflow_home, make_adapter):
    """`evaluated(champion, ...)`: a new version with evidence on record; `content` is left in its place, as it is."""

    def create(champion=None, accuracy=0.9, content=None, config=AUTOMATIC, seed=0):
        if content is None:
            return evaluate_new(mlflow_home, make_adapter(seed), champion=champion, accuracy=accuracy, config=config)
        version = register(mlflow_home, make_adapter(seed))
        if content:
            leave(mlflow_home, version, content)
        return version

    return create


def decisions(home):
    """Ledger entries that are not about evidence."""
    return [entry for entry in audit_log.read(home.audit_log) if entry["action"] != "evaluate"]


def tags(home, version):
    return tracking.connect(home).get_model_version("finsent", version).tags


def test_first_version_that_passes_becomes_champion(mlflow_home, evaluated):
    version = evaluated()
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home))
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
    pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    weak = evaluated(champion="1", accuracy=0.3)
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert (result.decision, result.champion_before, result.champion_after) == ("refused", "1", "1")
    assert any("Accuracy" in reason and "0.3" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").aliases() == {"champion": "1"}
    assert (tags(mlflow_home, weak)["gate"], tags(mlflow_home, weak)["stage"]) == ("refused", "None")
    assert tags(mlflow_home, weak)["gate_reasons"] == " ".join(result.reasons)
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote", "refuse"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "has no evidence: run `finsent evaluate`"),
        ("not json", "cannot be read"),
        (json.dumps({"model_name": "finsent"}), "cannot be read"),
        (evidence("17").model_dump_json(), "evidence is of version 17"),
    ],
)
def test_without_usable_evidence_nothing_is_promoted(mlflow_home, evaluated, content, reason):
    version = evaluated(content=content)
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=version)
    assert result.decision == "refused"
    assert reason in result.reasons[0]
    assert result.rules[0].status == "missing"
    assert Registry(mlflow_home, "finsent").champion() is None
    assert decisions(mlflow_home)[0]["decision"] == "refuse"


def test_evidence_against_another_champion_is_void(mlflow_home, evaluated):
    evaluated()
    late = evaluated(champion=None)  # evaluated before version 1 was promoted
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version="1")
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=late)
    assert result.decision == "refused"
    assert any("stale evidence" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").champion() == "1"


def test_promotion_that_comes_second_is_refused(mlflow_home, evaluated, monkeypatch):
    evaluated()
    evaluated()
    real = aliases.set_champion

    def overtaken(registry, version, expected, *, awaiting_approval):
        real(registry, "2", None)
        real(registry, version, expected, awaiting_approval=awaiting_approval)

    monkeypatch.setattr("finsent.steps.promote.set_champion", overtaken)
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version="1")
    assert (result.decision, result.champion_before, result.champion_after) == ("refused", None, "2")
    assert "the champion of 'finsent' is '2'" in result.reasons[0]
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote", "refuse"]
    assert tags(mlflow_home, "1")["gate"] == "refused"


def test_champion_is_not_judged_again(mlflow_home, evaluated):
    evaluated()
    pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    assert (result.decision, result.reasons) == ("promoted", ("Version 1 is the champion already.",))
    assert len(decisions(mlflow_home)) == 1


def test_killed_after_the_decision_and_run_again(mlflow_home, evaluated, monkeypatch):

    version = evaluated()
    with monkeypatch.context() as dying:
        dying.setattr("finsent.steps.promote.set_champion", die)
        with pytest.raises(Killed):
            pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    assert Registry(mlflow_home, "finsent").champion() is None
    assert pipeline.promote(make_context(AUTOMATIC, mlflow_home)).decision == "promoted"
    assert Registry(mlflow_home, "finsent").champion() == version
    assert [entry["decision"] for entry in decisions(mlflow_home)] == ["promote"], "completed, not decided anew"


def test_approval_makes_the_challenger_champion(mlflow_home, evaluated):
    version = evaluated(config=WITH_APPROVAL)
    waiting = pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    assert (waiting.decision, waiting.champion_after) == ("pending_approval", None)
    assert Registry(mlflow_home, "finsent").aliases().get("challenger") == version
    assert (tags(mlflow_home, version)["approval"], tags(mlflow_home, version)["stage"]) == ("pending", "Staging")

    result = promote.approve(make_context(WITH_APPROVAL, mlflow_home), None, *SIGNED)
    assert (result.decision, result.champion_after) == ("promoted", version)
    found = tags(mlflow_home, version)
    assert (found["approval"], found["approved_by"], found["stage"]) == ("approved", "dana", "Production")
    last = audit_log.read(mlflow_home.audit_log)[-1]
    assert (last["action"], last["who"], last["why"]) == ("approve", *SIGNED)
    again = promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert again.reasons == ("Version 1 is the champion already.",)


def test_approval_is_void_once_the_champion_changed(mlflow_home, evaluated):
    first, second = evaluated(config=WITH_APPROVAL), evaluated()
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home), version=first)
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=second)
    result = promote.approve(make_context(WITH_APPROVAL, mlflow_home), first, *SIGNED)
    assert result.decision == "refused"
    assert any("stale evidence" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").aliases() == {"champion": second}
    assert (tags(mlflow_home, first)["approval"], tags(mlflow_home, first)["stage"]) == ("void", "Archived")
    assert audit_log.read(mlflow_home.audit_log)[-1]["action"] == "approval_void"


def test_approval_cut_short_can_be_given_again(mlflow_home, evaluated, monkeypatch):

    version = evaluated(config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    with monkeypatch.context() as dying:
        dying.setattr("finsent.steps.promote.set_champion", die)
        with pytest.raises(Killed):
            promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert Registry(mlflow_home, "finsent").champion() is None
    assert promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED).decision == "promoted"
    assert Registry(mlflow_home, "finsent").champion() == version


def test_rejected_version_does_not_come_back_by_itself(mlflow_home, evaluated):
    version = evaluated(config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    result = promote.reject(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert result.reasons == ("Rejected by dana: looked at the report",)
    assert tags(mlflow_home, version)["stage"] == "Archived"
    again = pipeline.promote(make_context(WITH_APPROVAL, mlflow_home), version=version)
    assert again.decision == "refused"
    assert "was rejected" in again.reasons[0]
    tracking.connect(mlflow_home).delete_model_version_tag("finsent", version, "approval")
    assert pipeline.promote(make_context(WITH_APPROVAL, mlflow_home), version=version).decision == "pending_approval"


def test_what_a_person_decided_stays_on_the_page(mlflow_home, evaluated, monkeypatch):
    version = evaluated(config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    told = []
    monkeypatch.setattr("finsent.steps.report.publish_report", lambda *given: told.append(given[2].heading))
    promote.reject(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert pipeline.promote(make_context(WITH_APPROVAL, mlflow_home), version=version).decision == "refused"
    assert told == ["Version 1 was rejected by a person"]
    assert decisions(mlflow_home)[-1]["decision"] == "refuse", "on record all the same"


@pytest.mark.parametrize("decide", [promote.approve, promote.reject])
def test_a_word_under_other_rules_is_not_taken_and_the_version_waits_on(mlflow_home, evaluated, decide):
    version = evaluated(config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    before = audit_log.read(mlflow_home.audit_log)
    other = load_config("nano", overrides=["gate.approval=required", "gate.max_flip_rate=0.5"])
    with pytest.raises(CheckFailed, match=r"gate\.max_flip_rate 0\.2, now 0\.5\). It waits on"):
        decide(make_context(other, mlflow_home), version, *SIGNED)
    assert audit_log.read(mlflow_home.audit_log) == before
    assert Registry(mlflow_home, "finsent").aliases() == {"challenger": version}
    assert promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED).decision == "promoted"


def test_rules_that_were_changed_after_the_look_are_named(mlflow_home, evaluated):
    evaluated()
    loose = load_config("nano", overrides=["gate.approval=automatic", "gate.alpha=0.2"])
    refused = pipeline.promote(make_context(loose, mlflow_home))
    assert refused.decision == "refused"
    assert refused.reasons[0].endswith("Set differently: gate.alpha 0.05, now 0.2.")


@pytest.mark.parametrize("decide", [promote.approve, promote.reject])
def test_only_what_waits_can_be_approved_or_rejected(mlflow_home, evaluated, decide):
    with pytest.raises(CheckFailed, match=r"no version of 'finsent' waits"):
        decide(make_context(WITH_APPROVAL, mlflow_home), None, *SIGNED)
    version = evaluated(config=WITH_APPROVAL)
    with pytest.raises(CheckFailed, match="does not wait for approval: none does"):
        decide(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    with pytest.raises(InputError, match="no version '8'"):
        decide(make_context(WITH_APPROVAL, mlflow_home), "8", *SIGNED)
    with pytest.raises(InputError, match="needs a name and a reason"):
        decide(make_context(WITH_APPROVAL, mlflow_home), version, "dana", " ")
    assert decisions(mlflow_home) == []


def test_a_number_written_otherwise_is_the_same_version(mlflow_home, evaluated):
    evaluated(config=WITH_APPROVAL)
    context = make_context(WITH_APPROVAL, mlflow_home)
    assert pipeline.promote(context, version="01").model_version == "1"
    assert promote.get_approval_request(context, "１").version == "1"
    assert pipeline.approve(context, "01", *SIGNED).champion_after == "1"
    assert "approved" in promote.decision_summary(context, "01")
    assert pipeline.promote(context, version="001").decision == "promoted", "the champion already"
    assert {entry["version"] for entry in audit_log.read(mlflow_home.audit_log)} == {"1"}
    rejected = evaluated(champion="1", config=WITH_APPROVAL)
    pipeline.promote(context)
    assert pipeline.reject(context, f"0{rejected}", *SIGNED).model_version == rejected


def test_what_is_no_number_of_a_version_is_none(mlflow_home, evaluated):
    evaluated()
    for given in ("1_0", "+1", " 1", "-1", "9" * 20, "2147483648", "9" * 5000):
        with pytest.raises(InputError, match=r"has no version .*Its versions: 1"):
            pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=given)
    assert decisions(mlflow_home) == []


def test_rollback_is_at_once_and_written_down(mlflow_home, evaluated):
    with pytest.raises(NoChampionError):
        pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    evaluated()
    pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    bad = evaluated(champion="1")
    assert pipeline.promote(make_context(AUTOMATIC, mlflow_home)).champion_after == bad
    result = pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert (result.model_version, result.champion_before, result.champion_after) == ("1", bad, "1")
    last = audit_log.read(mlflow_home.audit_log)[-1]
    assert (last["action"], last["from"], last["to"], last["who"]) == ("rollback", bad, "1", "dana")
    again = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=bad)
    assert "was rolled back" in again.reasons[0]
    with pytest.raises(CheckFailed, match="nothing to roll back to"):
        pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)


def test_nothing_registered_is_said(mlflow_home):
    with pytest.raises(InputError, match="run `finsent train`"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    with pytest.raises(InputError, match="has none yet"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home), version="3")


def status_decisions(home):
    return status._decisions(make_context(AUTOMATIC, home))


def test_a_audit_log_whose_end_was_cut_off_gets_no_further_entry(mlflow_home, evaluated):
    evaluated()
    pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    weak = evaluated(champion="1", accuracy=0.3)
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert status_decisions(mlflow_home)["agrees"] is True
    whole = mlflow_home.audit_log.read_bytes()
    mlflow_home.audit_log.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert audit_log.verify(mlflow_home.audit_log).length == 3  # its own chain does not tell
    with pytest.raises(CheckFailed, match=r"line 4: it ends after 3 .*cut off.*knows entry 3, of (version 2|the mirror)"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert "its end was cut off" in status_decisions(mlflow_home)["error"]
    assert len(audit_log.read(mlflow_home.audit_log)) == 3
    mlflow_home.audit_log.write_bytes(whole)
    assert pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=weak).decision == "refused"
    assert audit_log.verify(mlflow_home.audit_log).length == 4, "the same refusal, with nothing in between"


def test_a_audit_log_that_was_deleted_or_replaced_is_found(mlflow_home, evaluated):
    evaluated()
    pipeline.promote(make_context(AUTOMATIC, mlflow_home))
    better = evaluated(champion="1")
    mlflow_home.audit_log.unlink()
    with pytest.raises(CheckFailed, match="is empty or gone"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=better)
    assert Registry(mlflow_home, "finsent").champion() == "1"
    assert not mlflow_home.audit_log.exists()
    assert "is empty or gone" in status_decisions(mlflow_home)["error"]
    audit_log.append(mlflow_home.audit_log, {"action": "gate", "version": "1", "decision": "promote", "reasons": ["forged"]})
    with pytest.raises(CheckFailed, match=r"line [23]: it ends after 1 entries"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=better)
    client = tracking.connect(mlflow_home)  # and now as the message says
    for version in ("1", better):
        client.delete_model_version_tag("finsent", version, "audit_log_entry")
    client.delete_run(audit_mirror.find_run(Registry(mlflow_home, "finsent")).info.run_id)
    mlflow_home.audit_log.unlink()
    assert promote.adopt(make_context(AUTOMATIC, mlflow_home), *SIGNED).champion_after == "1"
    assert "not recorded" in pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=better).reasons[0]
    take(mlflow_home, evidence_of(mlflow_home, better, champion="1"))
    assert pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=better).decision == "promoted"


def test_a_audit_log_that_is_ahead_of_the_registry_is_in_order(mlflow_home, evaluated, monkeypatch):

    version = evaluated(config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home))
    with monkeypatch.context() as dying:
        dying.setattr(Registry, "set_tags", die)  # between audit log and tag
        with pytest.raises(Killed):
            promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert len(audit_log.read(mlflow_home.audit_log)) == 3
    assert tags(mlflow_home, version)["audit_log_entry"].startswith("1 ")
    assert status_decisions(mlflow_home)["agrees"] is True
    assert promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED).decision == "promoted"


def test_a_tag_that_finsent_did_not_write_is_refused(mlflow_home, evaluated):
    version = evaluated()
    tracking.connect(mlflow_home).set_model_version_tag("finsent", version, "audit_log_entry", "soon")
    with pytest.raises(CheckFailed, match="'soon'"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home))


def test_a_rejection_that_comes_between_an_approval_and_its_alias_stands(mlflow_home, evaluated, monkeypatch):
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    waits = evaluated(champion="1", config=WITH_APPROVAL)
    pipeline.promote(make_context(WITH_APPROVAL, mlflow_home), version=waits)
    real = promote.promote_to_champion

    def rejected_first(context, case, **more):
        monkeypatch.setattr(promote, "promote_to_champion", real)
        promote.reject(context, waits, "eve", "misreads negation")
        return real(context, case, **more)

    monkeypatch.setattr(promote, "promote_to_champion", rejected_first)
    result = promote.approve(make_context(WITH_APPROVAL, mlflow_home), waits, *SIGNED)
    assert result.decision == "refused"
    assert "was rejected meanwhile" in result.reasons[0]
    assert Registry(mlflow_home, "finsent").champion() == "1"


def test_a_rollback_whose_page_cannot_be_written_is_done_once_when_repeated(mlflow_home, evaluated, monkeypatch):
    for before in (None, "1", "2"):
        pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated(champion=before))
    with monkeypatch.context() as away:
        away.setattr(pipeline, "publish_decision", die)
        with pytest.raises(Killed):
            pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED).champion_after == "2"


def test_a_version_rolled_back_from_stays_out_although_its_tag_was_not_written(mlflow_home, evaluated, monkeypatch):
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    fallen = evaluated(champion="1")
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=fallen)
    with monkeypatch.context() as dying:
        dying.setattr(aliases, "_finish_rollback", die)
        with pytest.raises(Killed):
            pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert Registry(mlflow_home, "finsent").champion() == "1"
    assert "rolled_back" not in tags(mlflow_home, fallen)
    result = pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=fallen)
    assert result.decision == "refused"
    assert "was rolled back" in result.reasons[0]


def test_rollback_goes_to_no_version_that_the_audit_log_does_not_know_as_champion(mlflow_home, evaluated):
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    stranger = evaluated(champion="1")
    pipeline.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated(champion="1"))
    tracking.connect(mlflow_home).set_model_version_tag("finsent", "3", "replaces", stranger)
    result = pipeline.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert result.decision == "refused"
    assert f"does not know version {stranger} of 'finsent' as a champion" in result.reasons[0]
    assert Registry(mlflow_home, "finsent").champion() == "3"
