"""A month of operation in twenty minutes: real servers, schedules of seconds, and faults of every kind; then the count.

    python benchmarks/month.py FOLDER
    python benchmarks/month.py FOLDER --database postgres
    python benchmarks/month.py FOLDER --minutes 3 --kills 4 --restarts 0 --freezes 0 --away 15 --period 30

In FOLDER, a new one, lie a workspace with a champion, the shipped deployments with short schedules, and `finsent up`, which a
service manager (this program) starts again whenever it ends. Files of tweets arrive, an operator changes settings and approves
what waits. Meanwhile processes are killed, frozen or kept from answering, `up` is restarted, the disk is full for a while; as
root, the workspace lies on a small file system of its own. The faults are drawn from `--seed`.

Afterwards the system has `--settle` seconds. Then every criterion is checked; where no version came to its approval in the month,
one is retrained and approved now, undisturbed. The report is in FOLDER/report.json, a table on
the terminal, and the exit code is 1 if a criterion was missed. Everything listens on loopback alone, and nothing that was
started is left behind, also where the run is broken off. On Linux. Postgres: Debian's package `postgresql`.
"""

import argparse
import os
import platform
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from chaos import criteria, faults, people, prepare, watch
from chaos.plan import make_plan
from chaos.record import Record


def main(arguments: list[str] | None = None) -> int:
    """Play the month; the exit code."""
    given = _arguments(arguments)
    place = prepare.make_place(given.folder, given.period, given.database, given.first_port)
    record = Record(place)
    seconds = 60 * given.minutes
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _break_off)
    limit = seconds + given.settle + 1500
    deadline = threading.Timer(limit, os.kill, (os.getpid(), signal.SIGTERM))
    deadline.daemon = True
    deadline.start()
    programs: Path | None = None
    try:
        disk = prepare.mount_disk(place)
        record.say(f"disk: {disk or 'the folder itself, which will not be filled'}")
        if given.database == "postgres":
            programs = prepare.start_postgres(place)
        record.facts |= _conditions(given, disk, limit)
        record.say("a first champion is trained ...")
        prepare.first_champion(place)
        _play(record, given, seconds, programs)
    except KeyboardInterrupt:
        record.facts["broken_off"] = f"after {record.now()} s"
        record.say("broken off: stopping what was started ...")
    finally:
        deadline.cancel()
        _clean_up(record, programs)
    return _report(record)


def _arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--database", choices=("sqlite", "postgres"), default="sqlite", help="of the Prefect server")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--restarts", type=int, default=2, help="orderly restarts of `finsent up`")
    parser.add_argument("--freezes", type=int, default=2, help="frozen processes")
    parser.add_argument("--away", type=float, default=120.0, help="seconds that MLflow and Prefect are away, each")
    parser.add_argument("--period", type=float, default=45.0, help="seconds between two scheduled scoring runs")
    parser.add_argument("--settle", type=float, default=240.0, help="seconds for the system to come to rest afterwards")
    parser.add_argument("--no-approval", action="store_true", help="of a month too short for tweets that make a better version")
    parser.add_argument("--first-port", type=int, default=5700, help="three free ports from here on are used")
    return parser.parse_args(arguments)


def _break_off(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a signal handler
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the cleaning up is not to be broken off
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _conditions(given: argparse.Namespace, disk: str, limit: float) -> dict[str, Any]:
    keys = ("minutes", "database", "seed", "kills", "restarts", "freezes", "away", "period", "settle")
    options = " ".join(f"--{key} {getattr(given, key)}" for key in keys)
    return {
        "command": f"python benchmarks/month.py FOLDER {options}",
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}",
        "disk": disk,
        "deadline_s": limit,
        "finished": False,
    }


def _play(record: Record, given: argparse.Namespace, seconds: float, programs: Path | None) -> None:
    started = record.guard("up", watch.keep_up)
    while not (record.starts and record.starts[-1]["healthy_after"]) and started.is_alive() and record.now() < 600:
        time.sleep(0.5)
    record.begun, record.facts["begun"] = time.monotonic(), time.time()
    for entry in record.starts:  # before the month begins
        entry["at"] = 0.0
    plan = make_plan(
        seconds,
        given.kills,
        given.seed,
        away=given.away,
        restarts=given.restarts,
        freezes=given.freezes,
        postgres=programs is not None,
    )
    record.facts["plan"] = [[fault.at, fault.name, fault.seconds] for fault in plan]
    record.say(f"the month begins: {len(plan)} faults in {seconds:.0f} s")
    record.guard("watch", watch.watch)
    parts = [
        record.guard("feeder", people.feed),
        record.guard("operator", lambda record: people.operate(record, seconds)),
        record.guard("faults", lambda record: faults.inflict(record, plan, programs)),
    ]
    before = os.times()
    while record.now() < seconds:
        time.sleep(0.5)
    while parts[2].is_alive() and record.now() < seconds * 1.2:  # faults that came late
        time.sleep(0.5)
    record.facts["played_s"] = record.now()
    record.done.set()
    for part in parts:
        part.join(60)
    record.facts["own_cpu_s"] = round(sum(os.times()[:2]) - sum(before[:2]), 1)
    record.say("the month is over: the system comes to rest ...")
    seen = criteria.settle(record, given.settle)
    record.facts |= {"settled_after": seen["settled_after"], "inside": seen["inside"], "flow_runs": criteria.flow_states(record)}
    record.criteria += criteria.judge(record, seen, given.kills)
    if not given.no_approval:
        people.approve_afterwards(record, given.settle + 180)
        record.criteria += criteria.judge_approval(record)
    record.say("finsent up is ended ...")
    stopped = watch.stop_up(record)
    record.facts["stop"] = stopped
    record.criteria.append(criteria.criterion("0 orphans after finsent up", not stopped["orphans"], stopped["orphans"]))
    record.facts["finished"] = True


def _clean_up(record: Record, programs: Path | None) -> None:
    """Leave nothing behind, however it ended."""
    record.done.set()
    record.down.set()
    record.facts["killed_at_the_end"] = watch.kill_all(record)
    if programs is not None:
        prepare.stop_postgres(record.place, programs)
    record.save()
    prepare.unmount_disk(record.place)


def _report(record: Record) -> int:
    """The tables; the exit code."""
    print(f"\n{'fault':28}{'at':>8}{'lasted':>9}{'whole again':>13}{'next scoring':>14}")
    for entry in record.faults:
        if entry["began"] is None:
            print(f"{entry['name']:28}{'':>8}  {entry.get('missed', 'not begun')}")
            continue
        lasted = f"{entry['ended'] - entry['began']:.0f} s" if entry["ended"] is not None else "?"
        whole = f"{entry['recovered'] - entry['ended']:.0f} s" if entry["recovered"] is not None else "never"
        scored = f"{entry['scored_after']:.0f} s{' *' if entry['disturbed'] else '  '}" if "scored_after" in entry else "never"
        print(f"{entry['name']:28}{entry['began']:>6.0f} s{lasted:>9}{whole:>13}{scored:>14}  {entry.get('instead', '')}")
    print("* another fault that ends scoring runs came first")
    print("\nstarts of finsent up, healthy after: " + ", ".join(f"{entry['healthy_after']} s" for entry in record.starts))
    for flow, states in record.facts.get("flow_runs", {}).items():
        print(f"  {flow:10} {', '.join(f'{number} {state}' for state, number in states.items())}")
    print()
    for item in record.criteria:
        print(f"{'held  ' if item['held'] else 'MISSED'}  {item['name']}: {item['said'][:400]}")
    missed = [item for item in record.criteria if not item["held"]]
    failed = missed or not record.facts.get("finished") or record.facts.get("broke_off")
    for said in record.facts.get("broke_off", ()):
        print(f"MISSED  {said}")
    print(f"\n{'not held' if failed else 'held'}; the report: {record.place.folder / 'report.json'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
