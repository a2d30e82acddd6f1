"""What must hold after the month: each criterion with a figure, and the time that scoring took to come back after each fault."""

import json
import statistics
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

from chaos.people import left_as_they_were
from chaos.plan import HEAVY
from chaos.record import Record
from chaos.system import LIVING, AwayError, all_of, finsent, flow_names, flow_pids, living_runs

GROWTH: Final = 1.25
"""Servers and workers may take this much more memory in the last quarter than in the second one."""


def criterion(name: str, held: bool, said: Any) -> dict[str, Any]:
    """One line of the report."""
    return {"name": name, "held": bool(held), "said": said if isinstance(said, str) else json.dumps(said)}


def settle(record: Record, seconds: float) -> dict[str, Any]:
    """Wait until what the system does by itself is done, at most so many seconds; what was seen last."""
    begun, seen = record.now(), {}
    while True:
        seen = {"inside": inspect(record), "living": _living(record)}
        open_faults = [entry["name"] for entry in record.faults if entry["ended"] is not None and entry["recovered"] is None]
        missing = [item["name"] for item in (*judge_rows(seen["inside"]), *_ended(seen)) if not item["held"]]
        seen["settled_after"] = round(record.now() - begun, 1)
        if not missing and not open_faults and _scored_lately(record):
            return seen
        if seen["settled_after"] > seconds or record.down.is_set():
            return seen
        record.say(f"settling: {', '.join([*missing, *open_faults]) or 'scoring after the last fault'}")
        record.down.wait(5)


def inspect(record: Record) -> dict[str, Any]:
    """Rows, audit log, champion and MLflow's runs, read past the servers."""
    program, place = Path(__file__).with_name("inspection.py"), record.place
    arguments = [sys.executable, str(program), str(place.home), str(place.ledger)]
    try:
        done = subprocess.run(arguments, env=place.environment, capture_output=True, text=True, timeout=120, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"error": "no end within 120 s"}
    except ValueError:
        return {"error": done.stderr[-1500:]}
    return found


def _living(record: Record) -> dict[str, Any]:
    """Flow runs at work as the server says, those of them without a process, and slots that none of the others accounts for."""
    try:
        runs, limits = living_runs(record.place), all_of(record.place, "v2/concurrency_limits")
    except AwayError as error:
        return {"error": str(error)}
    processes = flow_pids(record.place)
    dead = [f"{run['flow']} {run['name']!r} {run['state_name']}" for run in runs if run["outer"] not in processes]
    alive = [run for run in runs if run["outer"] in processes]
    due = Counter(f"deployment:{run['deployment_id']}" for run in alive if run["deployment_id"])
    due["finsent-training"] = sum(run["flow"] in {"train", "tune"} for run in alive)
    held = {item["name"]: item["active_slots"] - due[item["name"]] for item in limits}
    return {
        "alive": [run["id"] for run in alive],
        "dead": dead,
        "slots": {name: number for name, number in held.items() if number > 0},
    }


def judge_rows(inside: dict[str, Any]) -> list[dict[str, Any]]:
    """The criteria about rows, by what `inspection.py` counted."""
    if "error" in inside:
        return [criterion("the workspace can be read", False, inside["error"])]
    keys = ("never_received", "never_scored", "scored_twice", "not_of_a_champion")
    shown = {key: inside[key] for key in keys if inside[key]}
    lost = inside["number_never_received"] + inside["number_never_scored"]
    twice = inside["received_twice"] + inside["number_scored_twice"]
    return [
        criterion("0 rows lost", lost == 0, f"{inside['fed']} fed, {inside['received']} received, {lost} lost {shown or ''}"),
        criterion("0 rows doubled", twice == 0, f"{inside['predictions']} predictions, {twice} doubled"),
        criterion("every prediction by a champion of its time", not inside["not_of_a_champion"], inside["not_of_a_champion"]),
        criterion("the champion has scored all", inside["not_by_champion"] == 0, f"{inside['not_by_champion']} rows wait"),
    ]


def _ended(seen: dict[str, Any]) -> list[dict[str, Any]]:
    living, inside = seen["living"], seen["inside"]
    dead = [run for run in inside.get("mlflow_running", ()) if run["flow_run"] not in living.get("alive", ())]
    unknown = {"dead": [living.get("error")], "slots": {"?": living.get("error")}} if "error" in living else living
    return [
        criterion("0 flow runs at work that do not live", not unknown["dead"], unknown["dead"]),
        criterion("0 MLflow runs RUNNING that do not live", "mlflow_running" in inside and not dead, dead),
        criterion("0 slots held beyond runs that live", not unknown["slots"], unknown["slots"]),
    ]


def _scored_lately(record: Record) -> bool:
    """Whether a scheduled scoring run was completed after the last fault."""
    last = max((entry["ended"] for entry in record.faults if entry["ended"] is not None), default=0.0)
    return any(at > last for at in scored_at(record))


def scored_at(record: Record) -> list[float]:
    """When scheduled scoring runs were completed, in seconds since the month began."""
    from datetime import datetime

    try:
        flow_runs = {"state": {"type": {"any_": ["COMPLETED"]}}}
        runs = all_of(record.place, "flow_runs", flow_runs=flow_runs, flows={"name": {"any_": ["score"]}})
    except AwayError:
        return []
    epoch = record.facts["begun"]
    ends = [datetime.fromisoformat(run["end_time"]).timestamp() - epoch for run in runs if run["auto_scheduled"]]
    return sorted(round(end, 1) for end in ends)


def time_to_scoring(faults: list[dict[str, Any]], done: list[float], limit: float) -> list[str]:
    """Note at each fault when a scheduled scoring run was completed after its end; those after which it took too long.

    Where another fault that ends scoring runs comes before that, the time counts anew from the end of that one, which must have
    begun within the limit: `scored_net` is the time since the last of them.
    """
    late = []
    over = sorted((entry for entry in faults if entry["ended"] is not None), key=lambda entry: entry["ended"])
    for entry in over:
        after = next((at for at in done if at > entry["ended"]), None)
        entry["scored"], since, in_time = after, entry["ended"], True
        for other in over:
            heavy = other["name"] in HEAVY and "instead" not in other
            if heavy and other["ended"] > since and other["began"] < (after or float("inf")):
                in_time = in_time and other["began"] - since <= limit
                since = other["ended"]
        entry["disturbed"] = since > entry["ended"]
        if after is not None:
            entry |= {"scored_after": round(after - entry["ended"], 1), "scored_net": round(after - since, 1)}
        if not in_time or after is None or after - since > limit:
            late.append(f"{entry['name']} at {entry['began']} s: {entry.get('scored_after', 'never')}")
    return late


def judge(record: Record, seen: dict[str, Any], kills: int) -> list[dict[str, Any]]:
    """All criteria that can be judged while the servers run."""
    inside, limit, done = seen["inside"], 2 * record.place.period, scored_at(record)
    late = time_to_scoring(record.faults, done, limit)
    gaps = [later - sooner for sooner, later in pairwise([0.0, *done])]
    record.facts["scheduled_scoring"] = {"completed": len(done), "longest_without_s": round(max(gaps, default=0.0), 1)}
    open_faults = [entry["name"] for entry in record.faults if entry["ended"] is not None and entry["recovered"] is None]
    missed = [f"{entry['name']}: {entry['missed']}" for entry in record.faults if "missed" in entry]
    killed = sum(len(entry["pids"]) for entry in record.faults if entry["name"].startswith("kill ") and "pids" in entry)
    one = inside.get("champion") is not None and inside.get("champion") == inside.get("recorded_champion")
    return [
        *judge_rows(inside),
        criterion(
            "the audit log verifies",
            inside.get("audit_problem", "?") is None,
            f"{inside.get('audit_entries')} entries, problem: {inside.get('audit_problem')}",
        ),
        criterion(
            "one champion, the audit log's", one, f"alias {inside.get('champion')}, audit log {inside.get('recorded_champion')}"
        ),
        *_ended(seen),
        criterion(f"scheduled scoring within {limit:.0f} s of each fault", not late, [record.facts["scheduled_scoring"], *late]),
        criterion("recovered from each fault", not open_faults, open_faults),
        criterion(f"{kills} kills and every other fault", killed >= kills and not missed, f"{killed} kills; missed: {missed}"),
        _operator(record),
        _memory(record),
        *_commands(record),
    ]


def _operator(record: Record) -> dict[str, Any]:
    try:
        wrong = left_as_they_were(record)
    except AwayError as error:
        wrong = [str(error)]
    wrong += [f"not done: {name}" for name in record.facts.get("operator_left_out", ())]
    return criterion("schedules, pauses, automations, limits as the operator left them", not wrong, wrong)


def judge_approval(record: Record) -> list[dict[str, Any]]:
    """A version was trained, evaluated and approved by its form, and what was approved last is champion."""
    approved = [f"{entry['at']} s: {entry['said']}" for entry in record.operator if entry["what"] == "approve"]
    until = record.now() + 2 * record.place.period
    while not _promoted(inside := inspect(record)) and approved and record.now() < until:
        record.down.wait(5)
    said = f"{approved or 'none'}; champion: version {inside.get('champion')}, problem: {inside.get('audit_problem', '?')}"
    return [criterion("a version was retrained and approved by its form", bool(approved) and _promoted(inside), said)]


def _promoted(inside: dict[str, Any]) -> bool:
    """Whether the alias and the audit log agree on a champion that is not the first one."""
    agree = inside.get("champion") == inside.get("recorded_champion") and inside.get("audit_problem", "?") is None
    return agree and inside.get("champion") not in {None, "1"}


def _memory(record: Record) -> dict[str, Any]:
    samples = [item["servers_mb"] for item in record.memory if item["whole"]]
    quarter = len(samples) // 4
    if quarter < 5:
        return criterion("memory does not grow", True, f"too short to tell: {samples}")
    early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
    said = f"median {early:.0f} MB in the second quarter, {late:.0f} MB in the last, at most {max(samples):.0f} MB"
    return criterion("memory does not grow", late <= early * GROWTH, said)


def _commands(record: Record) -> list[dict[str, Any]]:
    """What finsent itself says; again for two periods where it is not green, since a run that is at work may make it so."""
    found = []
    for name, arguments in (
        ("status", ("status", "--json")),
        ("doctor", ("doctor", "--json")),
        ("ledger verify", ("ledger", "verify")),
    ):
        until = record.now() + 2 * record.place.period
        code, said, errors = finsent(record.place, *arguments)
        while code != 0 and record.now() < until:
            record.down.wait(10)
            code, said, errors = finsent(record.place, *arguments)
        record.facts[name] = said
        problems = f"{said.get('problems', '')} {errors}" if code else ""
        found.append(criterion(f"finsent {name} is green", code == 0, f"exit code {code} {problems}".strip()))
    return found


def flow_states(record: Record) -> dict[str, dict[str, int]]:
    """How many runs of each flow ended in which state."""
    try:
        names, runs = flow_names(record.place), all_of(record.place, "flow_runs")
    except AwayError:
        return {}
    counted = Counter(
        (names.get(run["flow_id"], "?"), run["state_name"]) for run in runs if run["state_type"] not in {"SCHEDULED", *LIVING}
    )
    found: dict[str, dict[str, int]] = {}
    for (flow, state), number in sorted(counted.items()):
        found.setdefault(flow, {})[state] = number
    return found
