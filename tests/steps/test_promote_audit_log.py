"""The audit log held against MLflow: one that was cut, deleted, replaced or is ahead, and tags of others."""

import pytest

from finsent.cli import status
from finsent.errors import CheckFailed
from finsent.registry import audit_log, audit_mirror, tracking
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from tests.steps.promotion import (
    AUTOMATIC,
    SIGNED,
    WITH_APPROVAL,
    Killed,
    die,
    evidence_of,
    tags,
    take,
)


def status_decisions(home):
    return status._decisions(make_context(AUTOMATIC, home))


def test_an_audit_log_whose_end_was_cut_off_gets_no_further_entry(mlflow_home, evaluated):
    evaluated()
    promote.promote(make_context(AUTOMATIC, mlflow_home))
    weak = evaluated(champion="1", accuracy=0.3)
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert status_decisions(mlflow_home)["agrees"] is True
    whole = mlflow_home.audit_log.read_bytes()
    mlflow_home.audit_log.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    assert audit_log.verify(mlflow_home.audit_log).length == 3  # its own chain does not tell
    with pytest.raises(CheckFailed, match=r"line 4: it ends after 3 .*cut off.*knows entry 3, of (version 2|the mirror)"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version=weak)
    assert "its end was cut off" in status_decisions(mlflow_home)["error"]
    assert len(audit_log.read(mlflow_home.audit_log)) == 3
    mlflow_home.audit_log.write_bytes(whole)
    assert promote.promote(make_context(AUTOMATIC, mlflow_home), version=weak).decision == "refused"
    assert audit_log.verify(mlflow_home.audit_log).length == 4, "the same refusal, with nothing in between"


def test_an_audit_log_that_was_deleted_or_replaced_is_found(mlflow_home, evaluated):
    evaluated()
    promote.promote(make_context(AUTOMATIC, mlflow_home))
    better = evaluated(champion="1")
    mlflow_home.audit_log.unlink()
    with pytest.raises(CheckFailed, match="is empty or gone"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version=better)
    assert Registry(mlflow_home, "finsent").champion() == "1"
    assert not mlflow_home.audit_log.exists()
    assert "is empty or gone" in status_decisions(mlflow_home)["error"]
    audit_log.append(mlflow_home.audit_log, {"action": "gate", "version": "1", "decision": "promote", "reasons": ["forged"]})
    with pytest.raises(CheckFailed, match=r"line [23]: it ends after 1 entries"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version=better)
    client = tracking.connect(mlflow_home)  # and now as the message says
    for version in ("1", better):
        client.delete_model_version_tag("finsent", version, "audit_log_entry")
    client.delete_run(audit_mirror.find_run(Registry(mlflow_home, "finsent")).info.run_id)
    mlflow_home.audit_log.unlink()
    assert promote.adopt(make_context(AUTOMATIC, mlflow_home), *SIGNED).champion_after == "1"
    assert "not recorded" in promote.promote(make_context(AUTOMATIC, mlflow_home), version=better).reasons[0]
    take(mlflow_home, evidence_of(mlflow_home, better, champion="1"))
    assert promote.promote(make_context(AUTOMATIC, mlflow_home), version=better).decision == "promoted"


def test_an_audit_log_that_is_ahead_of_the_registry_is_in_order(mlflow_home, evaluated, monkeypatch):

    version = evaluated(config=WITH_APPROVAL)
    promote.promote(make_context(WITH_APPROVAL, mlflow_home))
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
        promote.promote(make_context(AUTOMATIC, mlflow_home))
