"""Whether the operation is in order: a pure judgement over what the Prefect server says. Each problem is one sentence."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final

from finsent.cli.operations import SCORING, FlowRun, Operations

SILENT: Final = timedelta(seconds=150)
"""A worker or a run that has not been heard of for so long: each sends a heartbeat every 30 s, and an event may get lost."""
_AGAIN_AND_AGAIN: Final = 2
_LONGEST_WAIT: Final = timedelta(hours=1)  # a weekly run must not wait for two weeks
_STARTING: Final = timedelta(minutes=1)  # until a worker's first heartbeat
_PLANNING: Final = timedelta(minutes=5)  # a server that has just started, or a schedule that was changed, plans its runs


def find_problems(found: Operations, up_since: datetime | None = None, workers_since: datetime | None = None) -> tuple[str, ...]:
    """What is wrong, worst first; empty where all is well.

    Args:
        found: What the server says.
        up_since: When the servers started, where that is known: what was missed before is no problem of today.
        workers_since: When the last worker started, where that is known.
    """
    freshness = scoring_problem(found, up_since)
    starting = workers_since is not None and found.at - workers_since < _STARTING
    missing = () if starting else _missing_workers(found)
    return (*((freshness,) if freshness else ()), *missing, *(stuck_problem(found, run) for run in stuck(found)))


def scoring_problem(found: Operations, up_since: datetime | None = None) -> str | None:
    """Why predictions are not kept fresh; None where they are, or where no schedule asks for it."""
    scoring = next((item for item in found.deployments if item.name == SCORING and item.scheduled), None)
    if scoring is None:
        return None
    start = max(filter(None, (up_since, scoring.changed)))
    if scoring.next_run is None and found.at - start > _PLANNING:
        return "the Prefect server plans no run of 'score', although its schedule is active: look at its log (logs/prefect.log)"
    since = max(filter(None, (found.scored, start)))
    last = f"it last completed at {moment(found.scored)}" if found.scored else "it has not completed yet"
    ended = [attempt for attempt in found.attempts if attempt.state in {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}]
    bad = list(takewhile(lambda attempt: attempt.state != "COMPLETED", ended))
    bad = [attempt for attempt in bad if attempt.due > since]
    if len(bad) >= _AGAIN_AND_AGAIN:
        how = ", ".join(dict.fromkeys(attempt.state.lower() for attempt in bad))
        return f"the last {len(bad)} scheduled scorings ended without a result ({how}); {last}{_at_work(found)}"
    due = sorted({attempt.due for attempt in found.attempts})
    missed = [time for time in due if time > since]
    if len(missed) >= 2 and found.at - since > 2 * (missed[-1] - missed[-2]):
        return f"scheduled scoring has not completed for two periods: {last}{_at_work(found)}"
    return None


def _at_work(found: Operations) -> str:
    runs = [run for run in found.at_work if run.flow == SCORING]
    return "".join(f"; {run.name!r} is {run.state} since {moment(run.since)}" for run in runs[:1])


def _missing_workers(found: Operations) -> Iterator[str]:
    for pool in sorted({item.pool for item in found.deployments if item.pool}):
        workers = [worker for worker in found.workers if worker.pool == pool]
        if not any(worker.online for worker in workers):
            seen = max((worker.last_heartbeat for worker in workers if worker.last_heartbeat), default=None)
            last = f"last heard of at {moment(seen)}" if seen else "none was ever heard of"
            yield f"no worker of the pool {pool!r} is online ({last}): its runs wait"


def stuck(found: Operations) -> tuple[FlowRun, ...]:
    """Runs that do not get on: Running without a heartbeat, or Pending, Late or Cancelling for too long."""
    return tuple(run for run in found.at_work if _is_stuck(found, run))


def _is_stuck(found: Operations, run: FlowRun) -> bool:
    if run.state in {"Running", "Retrying"}:
        return found.at - max(run.since, run.last_sign or run.since) > SILENT
    period = next((item.period for item in found.deployments if item.name == run.flow), None)
    allowed = min(2 * period, _LONGEST_WAIT) if period else _LONGEST_WAIT
    return found.at - run.since > allowed


def stuck_problem(found: Operations, run: FlowRun) -> str:
    """Its sentence."""
    if run.last_sign and run.state in {"Running", "Retrying"}:
        return f"the run {run.name!r} is {run.state} without a heartbeat since {moment(run.last_sign)}: {run.url}"
    minutes = (found.at - run.since).total_seconds() / 60
    return f"the run {run.name!r} is {run.state} for {minutes:.0f} minutes: {run.url}"


def moment(time: datetime) -> str:
    """As shown to people."""
    return f"{time:%Y-%m-%d %H:%M} UTC"
