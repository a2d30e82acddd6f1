"""The part of `finsent status` about the Prefect server: its facts and what is wrong, as one JSON object and as text."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any

from finsent.cli.operations import read_operations
from finsent.cli.output import Renderable, section, stack, table
from finsent.cli.server_api import connect
from finsent.cli.services_file import Server, read_services
from finsent.cli.verdict import find_problems, stuck
from finsent.process_identity import is_running, seconds_since, start_time


def read_status(root: Path, server: Server | None) -> dict[str, Any] | None:
    """Everything that the server knows, and `problems`. None where no server is known; only `problems` where it is not used."""
    if server is None:
        return None
    if server.problem is not None:
        return _unknown(f"the Prefect server at {server.url} {server.problem}: nothing runs by schedule")
    running = read_services(root)
    own = running if running and running.prefect_api == server.url else None
    try:
        found = read_operations(connect(server.url, server.auth, direct=server.auth is not None), server.url.removesuffix("/api"))
    except (OSError, ValueError, LookupError, TypeError, HTTPException) as error:
        return _unknown(f"the Prefect server at {server.url} does not say what runs ({type(error).__name__}: {error})")
    up_since = _moment(start_time(own.pid)) if own else None
    workers = [began for name, (_, began) in own.processes.items() if name.startswith("worker-")] if own else []
    dead = [name for name, (pid, began) in own.processes.items() if not is_running(pid, began)] if own else []
    ended = (f"the process {name!r} of `finsent up` has ended" for name in dead)
    problems = [*ended, *find_problems(found, up_since, _moment(max(workers, default=None)))]
    restarts = own.restarts if own else {}
    lost = stuck(found)
    return {
        "problems": problems,
        "workers": [{**asdict(worker), "restarts": restarts.get(f"worker-{worker.pool}", 0)} for worker in found.workers],
        "restarts": restarts,
        "runs": [{**asdict(run), "stuck": run in lost} for run in found.at_work],
        "waiting": [asdict(run) for run in found.waiting],
        "ended_badly": found.ended_badly,
        "deployments": [
            {
                "name": item.name,
                "pool": item.pool,
                "next_run": item.next_run,
                "period_seconds": item.period.total_seconds() if item.period else None,
                "schedules": item.schedules,
            }
            for item in found.deployments
        ],
        "last_scored": found.scored,
    }


def _moment(started: float | None) -> datetime | None:
    return None if started is None else datetime.now(UTC) - timedelta(seconds=seconds_since(started))


def _unknown(problem: str) -> dict[str, Any]:
    return {"problems": [problem]}


def render_operations(status: dict[str, Any] | None) -> Renderable:
    """Workers, runs, what ended badly and what comes next; nothing where no server is known, or it is not used."""
    if status is None or "workers" not in status:
        return ""
    workers = [
        (item["name"], item["pool"], "yes" if item["online"] else "NO", _at(item["last_heartbeat"]), item["restarts"])
        for item in status["workers"]
    ]
    runs = [
        (item["flow"], item["name"], item["state"] + (" (STUCK)" if item["stuck"] else ""), _at(item["since"]))
        for item in status["runs"]
    ]
    waiting = [(item["name"], _at(item["since"]), item["url"]) for item in status["waiting"]]
    ended = status["ended_badly"]
    deployments = [
        (item["name"], _at(item["next_run"]), _schedules(item["schedules"]), *_counts(ended.get(item["name"], {})))
        for item in status["deployments"]
    ]
    others = [(name, "-", "-", *_counts(counts)) for name, counts in ended.items() if name not in {row[0] for row in deployments}]
    columns = ("deployment", "next run (UTC)", "schedules", "failed", "crashed", "cancelled")
    return stack(
        section(
            "Workers", table(("name", "pool", "online", "last heartbeat (UTC)", "restarts"), workers) if workers else "  none"
        ),
        section("Runs at work", table(("flow", "run", "state", "since (UTC)"), runs) if runs else "  none"),
        section("Waits for a person", table(("run", "since (UTC)", "form"), waiting)) if waiting else "",
        section("Deployments (failed, crashed and cancelled runs of the last 24 hours)", table(columns, deployments + others)),
    )


def _at(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M}" if time else "-"


def _schedules(schedules: dict[str, bool]) -> str:
    return ", ".join(name if active else f"{name} (PAUSED)" for name, active in schedules.items()) or "-"


def _counts(counts: dict[str, int]) -> tuple[int, int, int]:
    return counts.get("failed", 0), counts.get("crashed", 0), counts.get("cancelled", 0)
