"""When the operation is in order and when it is not: the decision table of `finsent status` and of the freshness alarm."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from finsent.cli.freshness import end_of_alarm
from finsent.cli.operations import Attempt, Deployment, FlowRun, Operations, Worker
from finsent.cli.verdict import find_problems, scoring_problem, stuck

NOW = datetime(2026, 11, 30, 12, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
WEEK = timedelta(days=7)


def minutes(count: float) -> datetime:
    """So many minutes ago."""
    return NOW - timedelta(minutes=count)


def deployment(name: str = "score", period: timedelta | None = QUARTER, **changed: Any) -> Deployment:
    next_run = NOW + period if period else None
    facts = {"pool": "gpu", "next_run": next_run, "period": period, "schedules": {"x": True}, "changed": minutes(9000)}
    return Deployment(name, **(facts | changed))


def attempts(*states: str, latest: float = 1) -> tuple[Attempt, ...]:
    """Scheduled scorings, latest first, a quarter of an hour apart."""
    return tuple(Attempt(minutes(latest + 15 * number), state) for number, state in enumerate(states))


def run(state: str, since: float, *, sign: float | None = None, flow: str = "score") -> FlowRun:
    return FlowRun(flow, f"{flow} something", state, minutes(since), None if sign is None else minutes(sign), "http://ui/1")


def found(**changed: Any) -> Operations:
    facts: dict[str, Any] = {
        "at": NOW,
        "workers": (Worker("finsent-gpu", "gpu", True, minutes(0.3)),),
        "at_work": (),
        "waiting": (),
        "ended_badly": {},
        "deployments": (deployment(),),
        "scored": minutes(14),
        "attempts": attempts("COMPLETED", "COMPLETED", "COMPLETED"),
    }
    return Operations(**(facts | changed))


PAUSED = deployment(schedules={"x": False}, next_run=None, period=None)
OLD = {"scored": minutes(46)}


@pytest.mark.parametrize(
    ("facts", "up_since", "problem"),
    [
        ({}, None, None),
        ({"attempts": attempts("CANCELLED", "COMPLETED")}, None, None),
        ({"attempts": attempts("RUNNING", "CRASHED", "COMPLETED"), "scored": minutes(29)}, None, None),
        ({"attempts": attempts("CANCELLED", "CANCELLED", "COMPLETED"), "scored": minutes(0.5)}, None, None),  # made up for since
        ({"attempts": attempts("CANCELLED", "CANCELLED", "COMPLETED"), "scored": minutes(29)}, None, "last 2 .* (cancelled)"),
        ({"attempts": attempts("SCHEDULED", "FAILED", "CRASHED", "COMPLETED"), "scored": minutes(40)}, None, "(failed, crashed)"),
        ({"attempts": attempts("FAILED", "FAILED"), "scored": None}, None, "it has not completed yet"),
        (
            {"attempts": attempts("SCHEDULED", "SCHEDULED", "SCHEDULED", "COMPLETED"), **OLD},
            None,
            "not completed for two periods",
        ),
        ({"attempts": attempts("RUNNING", "CANCELLED", "COMPLETED"), "scored": minutes(31)}, None, "for two periods"),
        ({"attempts": attempts("SCHEDULED", "SCHEDULED"), **OLD, "deployments": (PAUSED,)}, None, None),
        ({"attempts": attempts("CANCELLED", "CANCELLED"), **OLD, "deployments": (PAUSED,)}, None, None),
        ({"attempts": (), "deployments": ()}, None, None),
        # the machine was off, or the schedule was paused until a moment ago
        ({"attempts": attempts("SCHEDULED", "COMPLETED"), "scored": minutes(3000)}, minutes(3), None),
        ({"attempts": attempts("SCHEDULED"), **OLD, "deployments": (deployment(changed=minutes(4)),)}, None, None),
        ({"attempts": attempts("SCHEDULED", "SCHEDULED", "SCHEDULED"), "scored": minutes(3000)}, minutes(33), "for two periods"),
        ({"attempts": attempts("CRASHED", "CANCELLED", "COMPLETED"), "scored": minutes(29)}, minutes(0.5), None),
        # a schedule that sleeps at night: one run was due since
        ({"attempts": attempts("RUNNING"), "scored": minutes(900)}, None, None),
        ({"deployments": (deployment(period=None),), "attempts": ()}, minutes(9), "plans no run of 'score'"),
        ({"deployments": (deployment(period=None),), "attempts": (), "scored": None}, minutes(2), None),
    ],
)
def test_predictions_are_fresh_or_not(facts: dict[str, Any], up_since: datetime | None, problem: str | None) -> None:
    said = scoring_problem(found(**facts), up_since)
    if problem is None:
        assert said is None
    else:
        assert said is not None
        assert all(part in said for part in problem.split(" .* "))


def test_what_scores_meanwhile_is_named() -> None:
    late = found(
        attempts=attempts("CANCELLED", "CANCELLED", "RUNNING"), scored=minutes(60), at_work=(run("Running", 31, sign=0),)
    )
    assert "'score something' is Running since 2026-11-30 11:30 UTC" in str(scoring_problem(late))


@pytest.mark.parametrize(
    ("workers", "problem"),
    [
        ((Worker("a", "gpu", False, minutes(9)), Worker("b", "gpu", True, minutes(0))), None),
        ((Worker("a", "gpu", False, minutes(9)),), "pool 'gpu' is online (last heard of at 2026-11-30 11:52 UTC)"),
        ((Worker("a", "cpu", True, minutes(0)),), "pool 'gpu' is online (none was ever heard of)"),
    ],
)
def test_every_pool_has_a_worker(workers: tuple[Worker, ...], problem: str | None) -> None:
    said = find_problems(found(workers=workers))
    assert len(said) == (problem is not None)
    assert problem is None or problem in said[0]
    assert find_problems(found(workers=workers), workers_since=minutes(0.5)) == (), "it has just started"


@pytest.mark.parametrize(
    ("which", "is_stuck"),
    [
        (run("Running", 200, sign=0.5), False),
        (run("Running", 200, sign=2.6), True),
        (run("Running", 2), False),
        (run("Running", 3), True),  # and never sent one
        (run("Pending", 29), False),
        (run("Pending", 31), True),
        (run("Late", 31), True),
        (run("Cancelling", 31), True),
        (run("Late", 59, flow="retrain"), False),
        (run("Late", 61, flow="retrain"), True),
        (run("Pending", 61, flow="train"), True),
    ],
)
def test_runs_that_do_not_get_on_are_stuck(which: FlowRun, is_stuck: bool) -> None:
    every = found(
        at_work=(which,), deployments=(deployment(), deployment("retrain", WEEK), deployment("train", None, schedules={}))
    )
    assert bool(stuck(every)) is is_stuck
    assert len(find_problems(every)) == is_stuck
    assert all(which.url in problem for problem in find_problems(every))


def test_a_run_that_waits_for_a_person_is_no_problem() -> None:
    assert find_problems(found(waiting=(run("Suspended", 5000, flow="approve"),))) == ()


@pytest.mark.parametrize(
    ("facts", "over"),
    [
        ({"scored": minutes(5)}, "fresh"),
        ({"scored": minutes(46)}, None),  # the servers were started again, or the schedule was edited: no scoring since
        ({"scored": None}, None),
        ({"scored": minutes(46), "deployments": (PAUSED,)}, "unscheduled"),
        ({"scored": None, "deployments": ()}, "unscheduled"),
    ],
)
def test_an_alarm_is_over_when_scoring_has_completed_since(facts: dict[str, Any], over: str | None) -> None:
    assert end_of_alarm(found(**facts), since=minutes(20)) == over
