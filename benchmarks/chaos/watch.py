"""Looks at the system every second: has it recovered from each fault, how much memory does it take; and starts `up` again."""

import os
import signal
import time
from dataclasses import dataclass
from typing import Any, Final

from chaos.record import Record
from chaos.system import (
    AwayError,
    answers,
    ask,
    command_line,
    flow_pids,
    living_runs,
    own_pids,
    parent_of,
    pss_mb,
    send,
    service_pid,
    services,
    start_up,
)
from finsent.process_identity import is_running

RESTART_SECONDS: Final = 2.0
"""A service manager starts `finsent up` again after this time, whatever it ended with."""
MEMORY_SECONDS: Final = 10.0


@dataclass(frozen=True)
class View:
    """The system at one moment."""

    at: float
    pids: dict[str, int]
    """Services that live, `up` included."""
    mlflow: bool
    prefect: bool
    heard: dict[str, float]
    """When each worker was last heard by the server, in seconds since the epoch."""
    living: dict[str, str] | None
    """Flow runs at work as the server says, by id, with their state; None: it does not answer."""
    processes: dict[str, int]
    """Flow runs that have a process."""


def keep_up(record: Record) -> None:
    """Start `finsent up`, and again whenever it ends, as a service manager does."""
    while not record.down.is_set():
        entry: dict[str, Any] = {"at": record.now(), "healthy_after": None, "ended": None, "code": None}
        process, begun = start_up(record.place), time.monotonic()
        entry["pid"] = process.pid
        record.starts.append(entry)
        while process.poll() is None:
            if entry["healthy_after"] is None and _is_up(record, process.pid):
                entry["healthy_after"] = round(time.monotonic() - begun, 1)
                record.say(f"up: healthy after {entry['healthy_after']} s")
            time.sleep(0.25)
        entry |= {"ended": record.now(), "code": process.returncode}
        if not record.down.is_set():
            record.say(f"up: ended with code {process.returncode}")
            record.down.wait(RESTART_SECONDS)


def stop_up(record: Record, seconds: float = 120) -> dict[str, Any]:
    """End `finsent up` by SIGTERM and start it no more; how long it took, and which processes it left behind."""
    record.down.set()
    pid, before = (record.starts[-1]["pid"] if record.starts else 0), time.monotonic()
    if pid and pid in own_pids(record.place):
        send(pid, signal.SIGTERM)
    while pid in own_pids(record.place) and time.monotonic() - before < seconds:
        time.sleep(0.3)
    stopped = round(time.monotonic() - before, 1)
    time.sleep(3)  # a process that is ending is no orphan
    orphans = {pid: command_line(pid) for pid in own_pids(record.place)}
    return {"seconds": stopped, "orphans": [f"{pid}: {said}" for pid, said in orphans.items()]}


def _is_up(record: Record, pid: int) -> bool:
    found = services(record.place)
    return (
        found is not None
        and found.pid == pid
        and len(found.processes) >= 4
        and all(is_running(*process) for process in found.processes.values())
    )


def watch(record: Record) -> None:
    """Note recoveries and memory until `up` is ended."""
    memory_at = -MEMORY_SECONDS
    while not record.down.wait(1.0):
        try:
            view = look(record)
        except (OSError, KeyError, TypeError, ValueError) as error:  # a server that answers nonsense while it ends
            record.say(f"watch: {type(error).__name__}: {error}")
            continue
        for entry in record.faults:
            if entry["recovered"] is None and (entry["ended"] or view.at) < view.at and has_recovered(entry, view):
                entry["recovered"] = view.at
                record.say(f"{entry['name']}: recovered {view.at - entry['ended']:.1f} s after its end")
        if record.now() - memory_at >= MEMORY_SECONDS:
            memory_at = record.now()
            record.memory.append(_memory(record, view))
            record.save()


def look(record: Record) -> View:
    """The system as it is now."""
    place, at = record.place, record.now()
    pids = {name: pid for name in ("mlflow", "prefect", "worker-cpu", "worker-gpu", "up") if (pid := service_pid(place, name))}
    heard, living = {}, None
    prefect = answers(place, "prefect")
    if prefect:
        try:
            for pool in ("cpu", "gpu"):
                for worker in ask(place, f"work_pools/{pool}/workers/filter", {}):
                    heard[f"worker-{pool}"] = max(heard.get(f"worker-{pool}", 0.0), _epoch(worker["last_heartbeat_time"]))
            living = {run["id"]: f"{run['flow']} {run['state_type']}" for run in living_runs(place)}
        except AwayError:
            living = None
    return View(at, pids, answers(place, "mlflow"), prefect, heard, living, flow_pids(place))


def has_recovered(entry: dict[str, Any], view: View) -> bool:
    """Whether what a fault hit is whole again: a new process that answers, or a run that is known to be over."""
    kind, _, name = entry["name"].partition(" ")
    name = "mlflow" if "instead" in entry else name
    if "run" in entry:
        known = view.living is not None and entry["run"] not in view.living
        over = known and entry["run"] not in view.processes
        return over and ("+" not in name or "worker-gpu" in view.pids)
    whole = view.mlflow and view.living is not None and {"mlflow", "prefect", "worker-cpu", "worker-gpu"} <= set(view.pids)
    killed = set(entry.get("pids", ()))
    if kind == "kill" and name in {"mlflow", "prefect"}:
        return (
            name in view.pids and view.pids[name] not in killed and (view.mlflow if name == "mlflow" else view.living is not None)
        )
    if kind == "kill" and name.startswith("worker"):
        return name in view.pids and view.pids[name] not in killed and view.heard.get(name, 0.0) > entry["clock"]
    return bool(whole and view.pids.get("up") not in killed)


def _epoch(text: str | None) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _memory(record: Record, view: View) -> dict[str, float]:
    """PSS of `up`, servers and workers, and of flow runs, in MB; `whole`: all of them were running."""
    own = own_pids(record.place)
    flows = {pid for pid, kept in own.items() if "PREFECT__FLOW_RUN_ID" in kept}
    ups = {entry["pid"] for entry in record.starts}
    tree = {pid for pid in own if pid not in flows and (pid in ups or parent_of(pid) != os.getpid())}
    return {
        "at": record.now(),
        "servers_mb": round(sum(map(pss_mb, tree)), 1),
        "flows_mb": round(sum(map(pss_mb, flows)), 1),
        "processes": len(own),
        "whole": len(view.pids) == 5 and view.mlflow and view.prefect,
    }


def kill_all(record: Record) -> int:
    """End every process of this run, whatever state it is in; how many there were."""
    count = 0
    for _ in range(20):
        left = own_pids(record.place)
        if not left:
            break
        count = max(count, len(left))
        for pid in left:
            send(pid, signal.SIGKILL)
        time.sleep(0.3)
    return count
