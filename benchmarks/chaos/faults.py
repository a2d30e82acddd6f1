"""The faults themselves: kills, orderly restarts, frozen processes, servers that are away, a full disk."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from chaos import prepare
from chaos.plan import ALONE, BOTH, SERVICES, Fault, settling
from chaos.record import Record
from chaos.system import (
    AwayError,
    below,
    command_line,
    flow_pids,
    living_runs,
    own_pids,
    parent_of,
    send,
    service_pid,
    services,
    start_run,
)

PATIENCE: Final = 240.0
"""Seconds that a fault waits for its target, a training and what comes before it; after that another process is taken."""
BREATH: Final = 6.0
"""Seconds between two kills at least."""
SERVER_WORDS: Final = {"mlflow": "guarded_server mlflow", "prefect": "guarded_server prefect"}


def inflict(record: Record, plan: tuple[Fault, ...], programs: Path | None) -> None:
    """Carry out the plan; faults that wait for their target in threads.

    Where the system comes back later than planned, what follows is later, too, so that faults do not gather behind it.
    """
    threads, late = [], 0.0
    for fault in plan:
        while record.now() < fault.at + late and not record.done.wait(0.1):
            pass
        if record.done.is_set():
            break
        entry: dict[str, Any] = {"name": fault.name, "planned": fault.at, "began": None, "ended": None, "recovered": None}
        record.faults.append(entry)
        work = lambda record, fault=fault, entry=entry: _inflict(record, fault, entry, programs)  # noqa: E731
        thread = record.guard(fault.name, work)
        threads.append(thread)
        if fault.name in ALONE:
            thread.join()
            lasting = 0.0 if fault.name.endswith(" up") else fault.seconds
            late = max(late, record.now() - fault.at - lasting - settling(fault.name))
    record.facts["late_s"] = round(late, 1)
    for thread in threads:
        thread.join()


def _inflict(record: Record, fault: Fault, entry: dict[str, Any], programs: Path | None) -> None:
    if fault.name in ALONE:
        with record.alone:
            _alone(record, fault, entry, programs)
            _until_recovered(record, entry)
    elif fault.name.startswith("freeze "):
        _freeze(record, fault, entry)
    elif fault.target in SERVICES:
        with record.alone:
            _kill_service(record, fault.target, entry)
    else:
        _kill_flow(record, fault, entry)


def _until_recovered(record: Record, entry: dict[str, Any], seconds: float = 90) -> None:
    """Keep others away until the system is up again, not for ever."""
    for _ in range(int(seconds / 0.5)):
        if entry["recovered"] is not None or record.down.wait(0.5):
            return


def _alone(record: Record, fault: Fault, entry: dict[str, Any], programs: Path | None) -> None:
    if fault.name == "kill up":
        _kill_service(record, "up", entry)
        _await_start(record, entry)
    elif fault.name == "restart up":
        pid = _await_service(record, "up")
        _began(record, entry, f"SIGTERM to up, process {pid}")
        before = time.monotonic()
        if pid and send(pid, signal.SIGTERM):
            while pid in own_pids(record.place) and time.monotonic() - before < 180:
                time.sleep(0.2)
        entry["stopped_after"] = round(time.monotonic() - before, 1)
        _await_start(record, entry)
    elif fault.name in {"mlflow away", "prefect away"}:
        _hold(record, fault.name.split(" ")[0], fault.seconds, entry)
    elif fault.name == "postgres away" and programs is not None:
        _began(record, entry, f"Postgres stopped at once, for {fault.seconds:.0f} s")
        prepare.stop_postgres(record.place, programs, "immediate")
        record.done.wait(fault.seconds)
        prepare.restart_postgres(record.place, programs)
        _ended(record, entry)
    elif fault.name == "disk full":
        _fill_disk(record, fault.seconds, entry)


def _began(record: Record, entry: dict[str, Any], said: str) -> None:
    record.hit_at = record.now()
    entry |= {"began": record.hit_at, "clock": time.time(), "said": said}
    record.say(f"{entry['name']}: {said}")


def _ended(record: Record, entry: dict[str, Any]) -> None:
    entry["ended"] = record.now()


def _await_start(record: Record, entry: dict[str, Any]) -> None:
    """A service manager starts `up` again: only then the fault is over."""
    known = len(record.starts)
    began = entry["began"] or record.now()
    while not record.down.is_set() and not any(item["at"] > began for item in record.starts[known - 1 :]):
        time.sleep(0.2)
    _ended(record, entry)


def _await_service(record: Record, name: str, seconds: float = 60) -> int | None:
    for _ in range(int(seconds / 0.3)):
        if (pid := service_pid(record.place, name)) is not None or record.down.is_set():
            return pid
        time.sleep(0.3)
    return None


def _kill_service(record: Record, name: str, entry: dict[str, Any]) -> None:
    _take_breath(record)
    pid = _await_service(record, name)
    if pid is None:
        entry["missed"] = f"no {name} within a minute"
        record.say(f"{entry['name']}: missed, {entry['missed']}")
        return
    _kill(record, [pid], entry)
    if name != "up":
        _ended(record, entry)


def _take_breath(record: Record) -> None:
    """Wait until the last fault is a while ago; before a target is chosen, which may have changed by then."""
    while record.now() - record.hit_at < BREATH and not record.done.wait(0.2):
        pass


def _kill(record: Record, pids: list[int], entry: dict[str, Any]) -> None:
    said = " and ".join(f"{pid} ({command_line(pid)})" for pid in pids)
    entry["pids"] = [pid for pid in pids if send(pid, signal.SIGKILL)]
    _began(record, entry, f"kill -9 {said}")


def _kill_flow(record: Record, fault: Fault, entry: dict[str, Any]) -> None:
    wanted = "score" if fault.target == BOTH else fault.target
    deadline, asked = time.monotonic() + PATIENCE, False
    while time.monotonic() < deadline and not record.done.is_set():
        found = _find_flow(record, wanted)
        if found is None:
            late = time.monotonic() > deadline - PATIENCE + (1.2 * record.place.period if wanted == "score" else 10)
            if late and not asked:  # its schedule does not bring one soon: an operator starts one
                asked = _ask_for(record, "retrain" if wanted in {"train", "evaluate", "promote"} else wanted)
            time.sleep(0.4)
            continue
        run, pid = found
        record.done.wait(fault.seconds)
        with record.alone:
            _take_breath(record)
            again = _find_flow(record, wanted)
            if again is None or again[0] != run:
                continue  # it has ended meanwhile: the next one
            worker = service_pid(record.place, "worker-gpu") if fault.target == BOTH else None
            _kill(record, [one for one in (worker, pid) if one], entry)
            entry["run"] = run
            _ended(record, entry)
            return
    if record.done.is_set():
        entry["missed"] = "the month was over"
        return
    entry["instead"] = f"no {wanted} within {PATIENCE:.0f} s: mlflow"
    with record.alone:
        _kill_service(record, "mlflow", entry)


def _ask_for(record: Record, deployment: str) -> bool:
    try:
        start_run(record.place, deployment)
    except AwayError:
        return False
    return True


def _find_flow(record: Record, name: str) -> tuple[str, int] | None:
    """Id of a running flow of that name (or that has it as a subflow), and its process."""
    try:
        runs = living_runs(record.place)
    except AwayError:
        return None
    pids = flow_pids(record.place)
    for run in runs:
        pid = pids.get(run["outer"])
        if run["flow"] == name and run["state_type"] == "RUNNING" and pid is not None and pid not in record.frozen:
            return run["outer"], pid
    return None


def _freeze(record: Record, fault: Fault, entry: dict[str, Any]) -> None:
    deadline, asked = time.monotonic() + 2 * PATIENCE, False
    while not record.done.is_set() and time.monotonic() < deadline:
        if _find_flow(record, fault.target) is not None:
            record.done.wait(3)  # somewhere in its work
            if (found := _find_flow(record, fault.target)) is not None:
                break
        if not asked and time.monotonic() > deadline - 2 * PATIENCE + record.place.period:
            asked = _ask_for(record, "retrain" if fault.target == "train" else fault.target)
        time.sleep(0.3)
    else:
        entry["missed"] = f"no {fault.target} in time"
        return
    run, pid = found
    with record.alone:
        stopped = below(pid)
        record.frozen |= set(stopped)
        for one in stopped:
            send(one, signal.SIGSTOP)
    entry |= {"run": run, "pids": stopped}
    _began(record, entry, f"SIGSTOP of {pid} ({command_line(pid)}) and {len(stopped) - 1} below it, for {fault.seconds:.0f} s")
    try:
        record.done.wait(fault.seconds)
    finally:
        entry["lived"] = sum(send(one, signal.SIGCONT) for one in stopped)
        record.frozen -= set(stopped)
        _ended(record, entry)
    record.say(f"{fault.name}: SIGCONT, {entry['lived']} of {len(stopped)} processes still there")


def _hold(record: Record, name: str, seconds: float, entry: dict[str, Any]) -> None:
    """Stop a server's processes, and those of every new one that a supervisor starts in its place."""
    held: set[int] = set()
    _began(record, entry, f"SIGSTOP of {name} for {seconds:.0f} s")
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and not record.done.is_set():
            for pid in _server_pids(record, name) - held:
                if send(pid, signal.SIGSTOP):
                    held.add(pid)
            time.sleep(0.2)
    finally:
        for pid in held:
            send(pid, signal.SIGCONT)
        entry["processes_held"] = len(held)
        _ended(record, entry)
    record.say(f"{entry['name']}: over, {len(held)} processes were held")


def _server_pids(record: Record, name: str) -> set[int]:
    own = own_pids(record.place)
    leaders = {pid for pid in own if SERVER_WORDS[name] in command_line(pid)}
    recorded = services(record.place)
    if recorded is not None and recorded.processes.get(name, (0, 0.0))[0] in own:
        leaders.add(recorded.processes[name][0])
    return {child for pid in leaders for child in below(pid)} | {pid for pid in own if parent_of(pid) in leaders}


def _fill_disk(record: Record, seconds: float, entry: dict[str, Any]) -> None:
    filler = record.place.folder / "disk" / "filler"
    if not (record.place.folder / "disk").is_mount():
        entry["missed"] = "no file system of its own could be mounted: not root"
        record.say(f"{entry['name']}: missed, {entry['missed']}")
        return
    _began(record, entry, f"no byte left for {seconds:.0f} s")
    end = time.monotonic() + seconds
    block = b"\0" * (1 << 16)
    try:
        with filler.open("ab", buffering=0) as file:
            with suppress(OSError):
                os.posix_fallocate(file.fileno(), 0, max(_free(filler) - (1 << 20), 1))
            file.seek(0, os.SEEK_END)
            while time.monotonic() < end and not record.done.is_set():
                with suppress(OSError):  # full, as it should be
                    while file.write(block):
                        pass
                for size in (4096, 512):
                    with suppress(OSError):
                        while file.write(block[:size]):
                            pass
                record.done.wait(0.5)
    finally:
        filler.unlink(missing_ok=True)
        _ended(record, entry)
    record.say("disk full: over")


def _free(path: Path) -> int:
    found = os.statvfs(path.parent)
    return found.f_bavail * found.f_frsize
