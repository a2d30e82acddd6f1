"""Approval and rejection in a real registry: what a person may decide, and what stands when others were faster."""

import resource
import signal

import pytest

from finsent.config import load_config
from finsent.errors import CheckFailed, InputError, ServiceError
from finsent.registry import audit_log, promotion, tracking
from finsent.registry.aliases import DecidedMeanwhile
from finsent.registry.champion import champion_state
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from tests.steps.promotion import (
    AUTOMATIC,
    SIGNED,
    WITH_APPROVAL,
    Killed,
    decisions,
    die,
    tags,
)


def test_approval_makes_the_challenger_champion(mlflow_home, evaluated):
    version = evaluated(config=WITH_APPROVAL)
    waiting = promote.promote(make_context(WITH_APPROVAL, mlflow_home))
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
    promote.promote(make_context(WITH_APPROVAL, mlflow_home), version=first)
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=second)
    result = promote.approve(make_context(WITH_APPROVAL, mlflow_home), first, *SIGNED)
    assert result.decision == "refused"
    assert any("stale evidence" in reason for reason in result.reasons)
    assert Registry(mlflow_home, "finsent").aliases() == {"champion": second}
    assert (tags(mlflow_home, first)["approval"], tags(mlflow_home, first)["stage"]) == ("void", "Archived")
    assert audit_log.read(mlflow_home.audit_log)[-1]["action"] == "approval_void"


def test_approval_cut_short_can_be_given_again(mlflow_home, evaluated, monkeypatch):

    version = evaluated(config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
    with monkeypatch.context() as dying:
        dying.setattr("finsent.steps.promote.set_champion", die)
        with pytest.raises(Killed):
            promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert Registry(mlflow_home, "finsent").champion() is None
    assert promote.approve(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED).decision == "promoted"
    assert Registry(mlflow_home, "finsent").champion() == version


def test_rejected_version_does_not_come_back_by_itself(mlflow_home, evaluated):
    version = evaluated(config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
    result = promote.reject(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert result.reasons == ("Rejected by dana: looked at the report",)
    assert tags(mlflow_home, version)["stage"] == "Archived"
    again = promote.promote(make_context(WITH_APPROVAL, mlflow_home), version=version)
    assert again.decision == "refused"
    assert "was rejected" in again.reasons[0]
    tracking.connect(mlflow_home).delete_model_version_tag("finsent", version, "approval")
    assert promote.promote(make_context(WITH_APPROVAL, mlflow_home), version=version).decision == "pending_approval"


def test_what_a_person_decided_stays_on_the_page(mlflow_home, evaluated, monkeypatch):
    version = evaluated(config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
    told = []
    monkeypatch.setattr("finsent.steps.report.publish_report", lambda *given: told.append(given[2].heading))
    promote.reject(make_context(WITH_APPROVAL, mlflow_home), version, *SIGNED)
    assert promote.promote(make_context(WITH_APPROVAL, mlflow_home), version=version).decision == "refused"
    assert told == ["Version 1 was rejected by a person"]
    assert decisions(mlflow_home)[-1]["decision"] == "refuse", "on record all the same"


@pytest.mark.parametrize("decide", [promote.approve, promote.reject])
def test_a_word_under_other_rules_is_not_taken_and_the_version_waits_on(mlflow_home, evaluated, decide):
    version = evaluated(config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
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
    refused = promote.promote(make_context(loose, mlflow_home))
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


@pytest.mark.parametrize(
    ("frozen", "after", "other", "champion", "tagged"),
    [
        ("approve", "its entry", "reject", "1", "rejected"),
        ("approve", "judging", "reject", "1", "rejected"),
        ("reject", "judging", "approve", "2", "approved"),
    ],
)
def test_a_decision_that_was_frozen_leaves_the_others_be(
    mlflow_home, evaluated, monkeypatch, frozen, after, other, champion, tagged
):
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    waits = evaluated(champion="1", config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home), version=waits)
    real = promotion.record_decision

    def decided_meanwhile(registry, *arguments):
        monkeypatch.setattr(promotion, "record_decision", real)
        if after == "its entry":
            real(registry, *arguments)
        getattr(promote, other)(context, waits, "eve", "decided meanwhile")
        if after == "judging":
            real(registry, *arguments)

    monkeypatch.setattr(promotion, "record_decision", decided_meanwhile)
    context = make_context(WITH_APPROVAL, mlflow_home)
    if frozen == "approve":
        result = promote.approve(context, waits, *SIGNED)
        assert result.decision == "refused"
        assert "meanwhile" in result.reasons[0]
    else:
        with pytest.raises(DecidedMeanwhile, match=r"the champion of 'finsent' is '2' now, and was '1': somebody else decided"):
            promote.reject(context, waits, *SIGNED)
    assert context.registry.champion() == champion
    assert tags(mlflow_home, waits)["approval"] == tagged
    assert champion_state(context.registry).problem is None


def test_a_full_disk_is_no_damaged_artifact_and_voids_no_approval(mlflow_home, evaluated, monkeypatch):
    context, version = make_context(WITH_APPROVAL, mlflow_home), evaluated(config=WITH_APPROVAL)
    promote.promote(context)
    entries, download = len(audit_log.read(mlflow_home.audit_log)), Registry.download_adapter

    def download_without_room(*args: object) -> object:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
        try:
            return download(*args)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)

    with monkeypatch.context() as full:
        full.setattr(Registry, "download_adapter", download_without_room)
        with pytest.raises(ServiceError, match=r"version '1' .* cannot be fetched: File too large. Make room"):
            promote.approve(context, version, *SIGNED)
    assert len(audit_log.read(mlflow_home.audit_log)) == entries
    assert promote.approve(context, version, *SIGNED).champion_after == version
