"""Rollback in a real registry: at once, written down, and finished after a kill."""

import sqlite3
from contextlib import closing

import pytest

from finsent.errors import CheckFailed, NoChampionError
from finsent.registry import aliases, audit_log, tracking
from finsent.registry.champion import champion_state
from finsent.registry.client import Registry
from finsent.steps import promote
from finsent.steps.context import make_context
from tests.steps.promotion import (
    AUTOMATIC,
    SIGNED,
    Killed,
    die,
    tags,
)


def test_rollback_is_at_once_and_written_down(mlflow_home, evaluated):
    with pytest.raises(NoChampionError):
        promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    evaluated()
    promote.promote(make_context(AUTOMATIC, mlflow_home))
    bad = evaluated(champion="1")
    assert promote.promote(make_context(AUTOMATIC, mlflow_home)).champion_after == bad
    result = promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert (result.model_version, result.champion_before, result.champion_after) == ("1", bad, "1")
    last = audit_log.read(mlflow_home.audit_log)[-1]
    assert (last["action"], last["from"], last["to"], last["who"]) == ("rollback", bad, "1", "dana")
    again = promote.promote(make_context(AUTOMATIC, mlflow_home), version=bad)
    assert "was rolled back" in again.reasons[0]
    with pytest.raises(CheckFailed, match="nothing to roll back to"):
        promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)


def test_a_rollback_whose_page_cannot_be_written_is_done_once_when_repeated(mlflow_home, evaluated, monkeypatch):
    for before in (None, "1", "2"):
        promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated(champion=before))
    with monkeypatch.context() as away:
        away.setattr(promote, "publish_decision", die)
        with pytest.raises(Killed):
            promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED).champion_after == "2"


def test_a_version_rolled_back_from_stays_out_although_its_tag_was_not_written(mlflow_home, evaluated, monkeypatch):
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    fallen = evaluated(champion="1")
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=fallen)
    with monkeypatch.context() as dying:
        dying.setattr(aliases, "_finish_rollback", die)
        with pytest.raises(Killed):
            promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert Registry(mlflow_home, "finsent").champion() == "1"
    assert "rolled_back" not in tags(mlflow_home, fallen)
    result = promote.promote(make_context(AUTOMATIC, mlflow_home), version=fallen)
    assert result.decision == "refused"
    assert "was rolled back" in result.reasons[0]


def test_rollback_goes_to_no_version_that_the_audit_log_does_not_know_as_champion(mlflow_home, evaluated):
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    stranger = evaluated(champion="1")
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated(champion="1"))
    tracking.connect(mlflow_home).set_model_version_tag("finsent", "3", "replaces", stranger)
    result = promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED)
    assert result.decision == "refused"
    assert f"does not know version {stranger} of 'finsent' as a champion" in result.reasons[0]
    assert Registry(mlflow_home, "finsent").champion() == "3"


def test_a_rollback_does_not_wait_for_the_page_of_a_run_that_is_gone_for_good(mlflow_home, evaluated, caplog):
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=evaluated())
    bad = evaluated(champion="1")
    promote.promote(make_context(AUTOMATIC, mlflow_home), version=bad)
    run = Registry(mlflow_home, "finsent").get_version(bad).run_id
    with closing(sqlite3.connect(mlflow_home.root / "mlflow.db")) as store, store:
        store.execute("DELETE FROM runs WHERE run_uuid = ?", (run,))
    assert promote.rollback(make_context(AUTOMATIC, mlflow_home), *SIGNED).champion_after == "1"
    assert "The rollback goes on without that page" in caplog.text


def test_a_rollback_that_lost_to_another_decision_is_none(mlflow_home, evaluated, monkeypatch):
    context = make_context(AUTOMATIC, mlflow_home)
    promote.promote(context, version=evaluated())
    promote.promote(context, version=evaluated(champion="1"))
    third = evaluated(champion="2")

    def promote_third(*_: object) -> None:
        monkeypatch.undo()
        assert promote.promote(context, version=third).champion_after == third

    monkeypatch.setattr(promote, "publish_decision", promote_third)
    with pytest.raises(CheckFailed, match="the champion of 'finsent' changed meanwhile"):
        promote.rollback(context, *SIGNED)
    state = champion_state(Registry(mlflow_home, "finsent"))
    assert (state.alias, state.recorded, state.problem) == (third, third, None)
    assert audit_log.read(mlflow_home.audit_log)[-1]["decision"] == "refuse"
