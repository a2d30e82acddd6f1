"""What a Prefect server knows of the operation: workers, runs at work, what ended badly, what comes next. Reads only."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Final
from urllib.parse import quote

from finsent.cli.server_api import Ask, read_pages

SCORING: Final = "score"
"""The deployment whose schedule keeps predictions fresh."""
_PAGE: Final = 200  # the most that Prefect's API answers with at once
_DAY: Final = timedelta(days=1)
_pages = partial(read_pages, at_most=5)


@dataclass(frozen=True)
class Worker:
    """A worker that the server has heard of."""

    name: str
    pool: str
    online: bool
    last_heartbeat: datetime | None


@dataclass(frozen=True)
class FlowRun:
    """One flow run."""

    flow: str
    name: str
    """What it is about."""
    state: str
    since: datetime
    """When it entered that state."""
    last_sign: datetime | None
    """Its process's last heartbeat; None where none is known, or none is sent."""
    url: str


@dataclass(frozen=True)
class Deployment:
    """One deployment and its schedules."""

    name: str
    pool: str | None
    next_run: datetime | None
    period: timedelta | None
    """Between its next two runs."""
    schedules: dict[str, bool]
    """By name or expression: whether it is active. All are inactive where the deployment is paused."""
    changed: datetime
    """When the deployment was made, or a schedule last changed."""

    @property
    def scheduled(self) -> bool:
        """Whether any schedule is active."""
        return any(self.schedules.values())


@dataclass(frozen=True)
class Attempt:
    """One scheduled scoring that was due."""

    due: datetime
    state: str
    """Type of its state."""


@dataclass(frozen=True)
class Operations:
    """All of it, at one moment."""

    at: datetime
    workers: tuple[Worker, ...]
    at_work: tuple[FlowRun, ...]
    """Running, pending or being cancelled; and planned ones whose time has passed."""
    waiting: tuple[FlowRun, ...]
    """Suspended until a person answers."""
    ended_badly: dict[str, dict[str, int]]
    """Failed, crashed and cancelled runs of the last day, by deployment."""
    deployments: tuple[Deployment, ...]
    scored: datetime | None
    """When a run of the scoring deployment last completed."""
    attempts: tuple[Attempt, ...]
    """Scheduled scorings that were due, latest first."""


def read_operations(ask: Ask, ui: str, now: datetime | None = None) -> Operations:
    """Ask the server for everything.

    Raises:
        OSError: it does not answer.
        ValueError: it answers with something else.
    """
    now = now or datetime.now(UTC)
    flows = {flow["id"]: flow["name"] for flow in _pages(ask, "flows/filter", {})}
    described = _pages(ask, "deployments/filter", {})
    planned = _runs(ask, {"state": {"type": {"any_": ["SCHEDULED"]}}}, "EXPECTED_START_TIME_ASC")
    active = _runs(ask, {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING", "PAUSED"]}}})
    taken = {run["id"] for run in active}  # some since the request before
    late = [run for run in planned if run["state"]["name"] == "Late" and run["id"] not in taken]
    signs = {run["id"]: _last_sign(ask, run["id"]) for run in active if run["state_type"] == "RUNNING"}

    def shown(run: dict[str, Any]) -> FlowRun:
        url = f"{ui}/runs/flow-run/{run['id']}"
        since = run["expected_start_time"] if run["state_type"] == "SCHEDULED" else run["state"]["timestamp"]
        flow = flows.get(run["flow_id"], "-")
        return FlowRun(flow, run["name"], run["state"]["name"], _time(since), signs.get(run["id"]), url)

    names = {item["id"]: item["name"] for item in described}
    ended = _runs(
        ask,
        {"state": {"type": {"any_": ["FAILED", "CRASHED", "CANCELLED"]}}, "end_time": {"after_": (now - _DAY).isoformat()}},
        "END_TIME_DESC",
    )
    counts: dict[str, Counter[str]] = {}
    for run in ended:
        name = names.get(run["deployment_id"]) or flows.get(run["flow_id"], "-")
        counts.setdefault(name, Counter())[run["state_type"].lower()] += 1
    scored, attempts = _scorings(ask, described, now)
    return Operations(
        at=now,
        workers=_workers(ask),
        at_work=tuple(shown(run) for run in (*active, *late) if run["state_type"] != "PAUSED"),
        waiting=tuple(shown(run) for run in active if run["state_type"] == "PAUSED"),
        ended_badly={name: dict(counts[name]) for name in sorted(counts)},
        deployments=tuple(_deployment(item, planned, now) for item in sorted(described, key=lambda item: str(item["name"]))),
        scored=scored,
        attempts=attempts,
    )


def read_scoring(ask: Ask, now: datetime) -> Operations:
    """Of the same only what `verdict.scoring_problem` needs: a question that is asked every minute."""
    described = _pages(ask, "deployments/filter", {"deployments": {"name": {"any_": [SCORING]}}})
    own = {"any_": [item["id"] for item in described]}
    chosen = {"state": {"type": {"any_": ["SCHEDULED"]}}, "deployment_id": own}
    planned = _runs(ask, chosen, "EXPECTED_START_TIME_ASC") if described else []
    deployments = tuple(_deployment(item, planned, now) for item in described)
    scored, attempts = _scorings(ask, described, now)
    return Operations(now, (), (), (), {}, deployments, scored, attempts)


def _workers(ask: Ask) -> tuple[Worker, ...]:
    found = []
    for pool in _pages(ask, "work_pools/filter", {}):
        for worker in _pages(ask, f"work_pools/{quote(pool['name'], safe='')}/workers/filter", {}):
            seen = worker.get("last_heartbeat_time")
            found.append(Worker(worker["name"], pool["name"], worker["status"] == "ONLINE", _time(seen) if seen else None))
    return tuple(found)


def _deployment(described: dict[str, Any], planned: Sequence[dict[str, Any]], now: datetime) -> Deployment:
    own = [run["expected_start_time"] for run in planned if run["deployment_id"] == described["id"] and run["auto_scheduled"]]
    to_come = sorted({time for time in map(_time, own) if time > now})
    schedules = described["schedules"]
    return Deployment(
        name=described["name"],
        pool=described["work_pool_name"],
        next_run=to_come[0] if to_come else None,
        period=next((after - before for before, after in pairwise(to_come)), None),
        schedules={_schedule_name(item): item["active"] and not described["paused"] for item in schedules},
        changed=max(_time(described["created"]), *(_time(item["updated"] or item["created"]) for item in schedules))
        if schedules
        else _time(described["created"]),
    )


def _schedule_name(item: dict[str, Any]) -> str:
    rule = item["schedule"]
    return str(item.get("slug") or rule.get("cron") or rule.get("rrule") or f"every {rule.get('interval')} s")


def _scorings(ask: Ask, described: Sequence[dict[str, Any]], now: datetime) -> tuple[datetime | None, tuple[Attempt, ...]]:
    """When scoring last completed, and the scheduled ones that were due: the newest page of them."""
    own = [item["id"] for item in described if item["name"] == SCORING]
    if not own:
        return None, ()
    chosen = {"deployment_id": {"any_": own}, "expected_start_time": {"before_": now.isoformat()}}
    found = ask("flow_runs/filter", {"flow_runs": chosen, "sort": "EXPECTED_START_TIME_DESC", "limit": _PAGE})
    completed = [_time(run["end_time"]) for run in found if run["state_type"] == "COMPLETED" and run["end_time"]]
    due = (Attempt(_time(run["expected_start_time"]), run["state_type"]) for run in found if run["auto_scheduled"])
    return max(completed, default=None), tuple(due)


def _last_sign(ask: Ask, run: str) -> datetime | None:
    chosen = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}
    found = ask("events/filter", {"filter": {**chosen, "order": "DESC"}, "limit": 1})["events"]
    return _time(found[0]["occurred"]) if found else None


def _runs(ask: Ask, chosen: dict[str, Any], sort: str = "EXPECTED_START_TIME_DESC") -> list[dict[str, Any]]:
    return _pages(ask, "flow_runs/filter", {"flow_runs": chosen, "sort": sort})


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
