"""Ends what nothing works on any more: flow runs, their tasks and MLflow runs whose process is gone, and the slots they hold.

Prefect's own automation (`automations.yaml`) waits for heartbeats, and forgets which runs it watched while its server was down.
So `finsent up` looks itself: before its workers start, and every minute while it runs. A run whose process lives is never
touched: flows label their run with their process, a worker starts a process for each run, and of other machines' runs
heartbeats tell.
"""

import time
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from finsent.cli.limits import Orphaned, free_orphaned_slots
from finsent.cli.server_api import Ask, read_pages
from finsent.cli.services_file import RunningServices, connect_to
from finsent.errors import ServiceError
from finsent.monitoring.retrain_policy import NO_SLOT
from finsent.process_identity import PROCESS_LABEL, is_alive, is_of_another_boot, seconds_since

GRACE: Final = 300.0
"""How long a run may be silent of which nothing else is known; as in `automations.yaml`."""
_CLAIM: Final = 100.0  # for a run that our worker claimed and did not start; its slot's lease ends a little later
_SETTLED: Final = 20.0  # seconds; a run that was resumed a moment ago has the label of its former process
_UNFINISHED: Final = ("PENDING", "RUNNING", "CANCELLING")  # flow runs that are scheduled or paused need no process
_BROKEN_OFF: Final = ("CRASHED", "CANCELLED", "FAILED")

Fate = Literal["KEEP", "CRASHED", "CANCELLED"]
Run = Mapping[str, Any]
"""A flow run, task run, deployment or MLflow run as its server describes it."""


def fate(state: str, alive: bool | None, silent: float, grace: float, *, is_ours: bool = False) -> Fate:
    """What becomes of an unfinished flow run.

    Args:
        state: type of its state.
        alive: whether its process runs; None: unknown, as of one on another machine.
        silent: seconds since its last sign of life.
        grace: longest silence of a run whose process is unknown.
        is_ours: this home's worker starts it, of which Pending would show a process soon.
    """
    patience = min(grace, _CLAIM) if is_ours and state == "PENDING" else grace
    if alive or (alive is None and silent <= patience):
        return "KEEP"
    return "CANCELLED" if state == "CANCELLING" else "CRASHED"


def surplus(missed: Iterable[Run]) -> tuple[list[Run], list[Run]]:
    """Of scheduled runs whose time has passed the newest of each schedule, which catches up for all, and the others."""
    newest: dict[tuple[str, str], Run] = {}
    others = []
    for run in sorted(missed, key=lambda run: datetime.fromisoformat(run["expected_start_time"])):
        schedule = (run["deployment_id"], (run["created_by"] or {}).get("id") or "")
        if schedule in newest:
            others.append(newest[schedule])
        newest[schedule] = run
    return list(newest.values()), others


def end_lost_runs(
    services: RunningServices,
    *,
    workers_stopped: bool = False,
    grace: float = GRACE,
    orphaned: MutableMapping[str, Orphaned] | None = None,
) -> list[str]:
    """End what is lost on the servers of this home; a sentence for each that says what and why.

    Args:
        services: the servers, which are up.
        workers_stopped: no worker of this home runs, as before a start: runs that only they can have started are over, slots are
            counted anew, and of the scheduled runs that were missed the newest of each schedule is left.
        grace: see `fate`.
        orphaned: see `free_orphaned_slots`, which is left out without it.

    Raises:
        ServiceError: a server does not answer, or not as expected.
    """
    ask_mlflow, ask = connect_to(services, timeout=30.0)
    try:
        uptime = seconds_since(services.processes["prefect"][1])  # which may have ended just now
        ended = end_flow_runs(ask, uptime=uptime, workers_stopped=workers_stopped, grace=grace)
        said = [f"flow run {run['name']!r} was {run['state_name']} and is over: {why}." for run, why in ended]
        if workers_stopped:
            count_slots(ask)
            said += skip_missed_runs(ask, since=uptime)
        if orphaned is not None:
            leases = Path(services.home) / "prefect" / "concurrency_leases"
            said += free_orphaned_slots(ask, leases, orphaned, time.monotonic())
        return said + end_mlflow_runs(ask_mlflow, ask, {run["id"] for run, _ in ended})
    except (OSError, ValueError, TypeError, LookupError, HTTPException) as error:
        raise ServiceError(f"lost runs could not be looked for: {error}") from error


def end_flow_runs(ask: Ask, *, uptime: float, workers_stopped: bool, grace: float) -> list[tuple[Run, str]]:
    """End the flow runs that are lost and their tasks; the runs, each with the reason.

    Args:
        ask: how to ask the Prefect API.
        uptime: seconds since the server started: before, it could hear no heartbeat.
        workers_stopped: see `end_lost_runs`, as for `grace`.
        grace: see `fate`.
    """
    runs = read_pages(ask, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": _UNFINISHED}}}})
    known = {run["id"]: run for run in runs}
    ours = _pools_of_our_own(ask, {run["work_pool_name"] for run in runs})
    local = _runs_by_process() if runs else set()
    ended = []
    for run in runs:
        leader = _leader(ask, run, known)
        settled = _age(run["state"]["timestamp"])
        label = leader["labels"].get(PROCESS_LABEL) if leader["state_type"] != "PENDING" else None  # of an earlier attempt
        alive = True if {run["id"], leader["id"]} & local else is_alive(label) if label else None
        is_ours = leader["work_pool_name"] in ours
        claimed = leader["state_type"] == "PENDING" and not workers_stopped  # its process may be about to start
        if alive is None and is_ours and not claimed and (not label or is_of_another_boot(label)):
            alive = False  # this home's workers alone started it, which makes the machine certain
        if alive is False and not workers_stopped and settled < _SETTLED:
            continue
        silent = min(settled, uptime, _silence(ask, (run, leader), grace)) if alive is None else settled
        if (becomes := fate(run["state_type"], alive, silent, grace, is_ours=is_ours)) == "KEEP":
            continue
        if ask(f"flow_runs/{run['id']}")["state"]["id"] != run["state"]["id"]:
            continue  # its process suspended it and ended between the two looks: Prefect would crash one that is paused, too
        why = "its process is gone" if alive is False else f"no sign of life for {silent:.0f} s"
        if _set_state(ask, "flow_runs", run, becomes, f"lost: {why}"):
            ended.append((run, why))
    _end_tasks(ask, [run["id"] for run, _ in ended])
    return ended


def _leader(ask: Ask, run: Run, known: dict[str, Run]) -> Run:
    """The flow run whose process runs this one: itself where it has one of its own, else the nearest above that has."""
    while not (run["work_pool_name"] or PROCESS_LABEL in run["labels"]) and (parent := run["parent_task_run_id"]):
        above = ask(f"task_runs/{parent}")["flow_run_id"]
        known[above] = run = known.get(above) or ask(f"flow_runs/{above}")
    return run


def _runs_by_process() -> set[str]:
    """Ids of the flow runs for which a worker's process runs on this machine."""
    import psutil

    found = set()
    for process in psutil.process_iter():
        try:
            # not the children of such a process, which inherit the variable
            if any(part.startswith("prefect.") for part in process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.environ().get("PREFECT__FLOW_RUN_ID", ""))
        except (psutil.Error, OSError):
            continue  # ended meanwhile, or another user's
    return found


def _pools_of_our_own(ask: Ask, pools: Iterable[str | None]) -> set[str]:
    """Those pools that no worker but this home's was ever seen at."""
    named = {pool: ask(f"work_pools/{quote(pool, safe='')}/workers/filter", {}) for pool in pools if pool}
    return {pool for pool, workers in named.items() if all(worker["name"] == worker_name(pool) for worker in workers)}


def worker_name(pool: str) -> str:
    """Name of this home's worker at a pool."""
    return f"finsent-{pool}"


def _silence(ask: Ask, runs: Iterable[Run], grace: float) -> float:
    """Seconds since the runs' last heartbeat; endless where that is longer ago than `grace`."""
    since = (datetime.now(UTC) - timedelta(seconds=grace)).isoformat()
    of = {"id": [f"prefect.flow-run.{run['id']}" for run in runs]}
    wanted = {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": of, "occurred": {"since": since}, "order": "DESC"}
    heard = ask("events/filter", {"filter": wanted, "limit": 1})["events"]
    return _age(heard[0]["occurred"]) if heard else float("inf")


def _age(moment: str) -> float:
    return (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()


def _set_state(ask: Ask, kind: Literal["flow_runs", "task_runs"], run: Run, state: str, why: str) -> bool:
    """Whether the server took it: a flow run that has ended meanwhile stays as it is."""
    body = {"state": {"type": state, "name": state.capitalize(), "message": why}, "force": kind == "task_runs"}
    return bool(ask(f"{kind}/{run['id']}/set_state", body)["status"] == "ACCEPT")


def _end_tasks(ask: Ask, ended: Sequence[str]) -> None:
    """End the tasks of flow runs that were ended now, or broke off a while ago: their last events are on record by then."""
    settled = (datetime.now(UTC) - timedelta(seconds=_SETTLED)).isoformat()
    undone = {"state": {"type": {"any_": [*_UNFINISHED, "SCHEDULED", "PAUSED"]}}}
    before = {"state": {"type": {"any_": _BROKEN_OFF}}, "end_time": {"before_": settled}}
    for flow_runs in (before, {"id": {"any_": ended}}):
        for task in read_pages(ask, "task_runs/filter", {"flow_runs": flow_runs, "task_runs": undone}):
            _set_state(ask, "task_runs", task, "CRASHED", "lost: its flow run is over")


def count_slots(ask: Ask) -> None:
    """Have each deployment's limit count the runs that are left.

    Prefect gives a slot back twice where its lease ends before its run does.
    """
    unfinished = read_pages(ask, "flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": _UNFINISHED}}}})
    for deployment in read_pages(ask, "deployments/filter", {}):
        limit = deployment["global_concurrency_limit"]
        held = sum(run["deployment_id"] == deployment["id"] for run in unfinished)
        if limit and limit["active_slots"] != held:
            ask(f"v2/concurrency_limits/{limit['id']}", {"active_slots": held}, method="PATCH")


def skip_missed_runs(ask: Ask, *, since: float) -> list[str]:
    """Delete the scheduled runs that were missed, but for the newest of each schedule, which is run now.

    A server that starts cancels missed runs at once where a lost run still holds the slot: those that it cancelled in the last
    `since` seconds count as missed.
    """
    now = datetime.now(UTC)
    late = {"state": {"type": {"any_": ["SCHEDULED"]}}, "next_scheduled_start_time": {"before_": now.isoformat()}}
    cancelled = {"state": {"type": {"any_": ["CANCELLED"]}}, "end_time": {"after_": (now - timedelta(seconds=since)).isoformat()}}
    found = [
        *read_pages(ask, "flow_runs/filter", {"flow_runs": late}),
        *(run for run in read_pages(ask, "flow_runs/filter", {"flow_runs": cancelled}) if run["state"]["message"] == NO_SLOT),
    ]
    newest, others = surplus(run for run in found if run["auto_scheduled"] and run["run_count"] == 0)
    for run in others:
        ask(f"flow_runs/{run['id']}", method="DELETE")
    for run in newest:
        if run["state_type"] == "CANCELLED":
            state = {"type": "SCHEDULED", "name": "Scheduled", "state_details": {"scheduled_time": now.isoformat()}}
            ask(f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    left_out = f"scheduled runs that were missed and are left out: {len(others)}; the newest of each schedule runs now."
    return [left_out] if others else []


def end_mlflow_runs(ask: Ask, ask_prefect: Ask, ended: set[str]) -> list[str]:
    """End the running MLflow runs whose process is gone, or whose flow run is over where the process is another machine's."""
    experiments = ask("experiments/search", {"max_results": 1000}).get("experiments", [])
    wanted = {
        "experiment_ids": [experiment["experiment_id"] for experiment in experiments],
        "filter": "attributes.status = 'RUNNING'",
        "max_results": 1000,
    }
    said = []
    for run in ask("runs/search", wanted).get("runs", []) if experiments else []:
        tags = _tags(run)
        alive, flow = is_alive(tags.get("process", "")), tags.get("prefect.flow_run_id")
        if alive is None and flow:
            over = {"id": {"any_": [flow]}, "state": {"type": {"any_": [*_BROKEN_OFF, "COMPLETED"]}}}
            alive = None if flow not in ended and not read_pages(ask_prefect, "flow_runs/filter", {"flow_runs": over}) else False
        if alive is False:
            now = ask(f"runs/get?run_id={run['info']['run_id']}")["run"]
            if now["info"]["status"] != "RUNNING" or _tags(now).get("process") != tags.get("process"):
                continue  # it ended, or a training resumed it
            name = run["info"].get("run_name")
            update = {"run_id": run["info"]["run_id"], "status": "KILLED", "end_time": int(time.time() * 1000)}
            ask("runs/update", update)
            said.append(f"MLflow run {name!r} ({update['run_id']}) was RUNNING and is over: its process is gone.")
    return said


def _tags(run: Run) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
