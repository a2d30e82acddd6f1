"""The decision to retrain, case by case."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.config import MonitorConfig
from finsent.monitoring.retrain_policy import RetrainAttempt, decide_retrain, second_try

RULES = MonitorConfig(windows=5, drifted_windows=2, min_new_labels=500, cooldown_hours=24.0)
CALM, ONE, TWO = [False] * 5, [False, False, True, False, False], [False, True, False, False, True]
OLD_DRIFT = [True, True, True, False, False, False, False, False]


@pytest.mark.parametrize(
    ("drifted", "new_labels", "hours", "scheduled", "decision", "reason"),
    [
        (CALM, 0, 100, False, "skip", "No new labelled data"),
        (TWO, 0, 100, False, "skip", "No new labelled data"),
        (CALM, 0, 100, True, "skip", "No new labelled data"),
        (CALM, 499, 100, False, "skip", "499 rows newly labelled, corrected or dropped (500 call for retraining)"),
        (CALM, 500, 100, False, "retrain", "500 rows newly labelled, corrected or dropped"),
        (ONE, 10, 100, False, "skip", "1 of the latest 5 batches drifted (2 call for retraining)"),
        (TWO, 10, 100, False, "retrain", "2 of the latest 5 batches drifted"),
        (OLD_DRIFT, 10, 100, False, "skip", "0 of the latest 5 batches drifted"),
        ([True], 10, 100, False, "skip", "1 of the latest 1 batches drifted"),
        ([], 10, 100, False, "skip", "0 of the latest 0 batches drifted"),
        (TWO, 900, 23.9, False, "skip", "Cooling down: trained 23.9 h ago, not again before 24 h are over"),
        (TWO, 900, 24.0, False, "retrain", "2 of the latest 5 batches drifted"),
        (CALM, 900, float("nan"), False, "skip", "Cooling down"),
        (CALM, 900, None, False, "retrain", "900 rows newly labelled, corrected or dropped"),
        (CALM, 10, 100, True, "retrain", "The schedule asks"),
        (CALM, 10, 2, True, "skip", "Cooling down"),
    ],
)
def test_cases(drifted, new_labels, hours, scheduled, decision, reason):
    made = decide_retrain(drifted=drifted, new_labels=new_labels, hours_since_training=hours, rules=RULES, scheduled=scheduled)
    assert made.decision == decision
    assert reason in " ".join(made.reasons)


def test_every_trigger_that_fired_is_named():
    made = decide_retrain(drifted=TWO, new_labels=900, hours_since_training=100, rules=RULES, scheduled=True)
    assert made.decision == "retrain"
    assert len(made.reasons) == 3


def test_drift_without_new_labels_is_still_reported():
    made = decide_retrain(drifted=TWO, new_labels=0, hours_since_training=100, rules=RULES)
    assert "2 of the latest 5 batches drifted" in made.reasons[1]


@given(st.lists(st.booleans(), max_size=9), st.integers(0, 2000), st.floats(0, 200), st.booleans())
def test_more_drift_and_more_labels_never_turn_retrain_into_skip(drifted, new_labels, hours, scheduled):
    def made(batches, labels):
        decision = decide_retrain(
            drifted=batches, new_labels=labels, hours_since_training=hours, rules=RULES, scheduled=scheduled
        )
        assert decision.reasons
        return decision.decision

    if made(drifted, new_labels) == "retrain":
        assert made(drifted, new_labels + 1) == "retrain"
        assert made([True] * len(drifted), new_labels) == "retrain"


NOW = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("outcomes", "hours", "decision", "reason"),
    [
        ([], 9, "skip", "did not fail"),
        (["completed"], 9, "skip", "did not fail"),
        (["completed", "failed", "failed"], 9, "skip", "did not fail"),
        (["cancelled", "failed"], 99, "skip", "did not fail"),  # a person stopped it
        (["unfinished", "failed"], 9, "skip", "at work"),
        (["failed"], 0.9, "skip", "failed 1 times in a row, the last time at 2026-11-30 11:06 UTC. It is tried again from"),
        (["failed"], 1, "retrain", "attempt 2 of 5"),
        (["failed", "completed", "failed", "failed"], 1, "retrain", "attempt 2 of 5"),
        (["failed", "cancelled", "failed"], 1, "retrain", "attempt 2 of 5"),
        (["failed"] * 2, 1.9, "skip", "tried again from"),
        (["failed"] * 2, 2, "retrain", "attempt 3 of 5"),
        (["failed"] * 4, 7.9, "skip", "tried again from"),
        (["failed"] * 4, 8, "retrain", "attempt 5 of 5"),
        (["failed"] * 5, 999, "skip", "not tried again by itself"),
        (["failed"] * 9, 999, "skip", "not tried again by itself"),
    ],
)
def test_a_failed_retraining_is_tried_again_with_growing_pauses_and_an_end(outcomes, hours, decision, reason):
    attempts = [RetrainAttempt(outcome, NOW - timedelta(hours=hours + 30 * n)) for n, outcome in enumerate(outcomes)]
    made = second_try(attempts, NOW)
    assert (made.decision, reason in made.reasons[0]) == (decision, True), made.reasons
