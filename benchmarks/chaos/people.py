"""Those who use the system meanwhile: a desk that delivers files, an operator who changes settings and approves."""

import csv
import io
import json
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from chaos.prepare import labelled_rows
from chaos.record import Record
from chaos.system import AwayError, all_of, ask, living_runs, start_run

ADDED: Final = 4
"""The operator's own schedule runs `score` every so many periods."""
CHAIN: Final = {"retrain", "train", "evaluate", "promote", "approve"}
FORM_WAITS: Final = 30.0
"""Seconds that a form waits for its answer at least."""


def feed(record: Record) -> None:
    """Deliver tweets every third of a period, labelled ones every second period, until the month is over.

    Most files are written aside and renamed; every fifth is written in place and slowly, cut in the middle of a line meanwhile;
    every seventh is an earlier one again, under another name; one is damaged.
    """
    rng, number, labelled_at, sent = Random(7), 0, 0.0, [""]
    while not record.done.wait(record.place.period / 3 * rng.uniform(0.7, 1.3)):
        number += 1
        ids = [f"m{number:04d}-{row:02d}" for row in range(rng.randint(15, 40))]
        text = _table(
            ("id", "text"),
            [(row, f"{tweet} {row[1:]}") for row, (tweet, _) in zip(ids, labelled_rows(len(ids), number), strict=True)],
        )
        if number == 4:
            (record.place.incoming / "damaged.csv.gz").write_bytes(b"\x1f\x8b\x08\x00 this is no gzip file")
            record.facts["damaged_file"] = "damaged.csv.gz"
        if number % 7 == 0:
            how, ids, text = "again", [], rng.choice(sent[1:])
        else:
            how = "slowly" if number % 5 == 0 else "renamed"
            sent.append(text)
        _deliver(record, f"tweets-{number:04d}.csv", text, slowly=how == "slowly")
        _note(record, {"file": f"tweets-{number:04d}.csv", "at": time.time(), "how": how, "ids": ids})
        if record.now() - labelled_at > 2 * record.place.period:
            labelled_at = record.now()
            rows = _table(("text", "label"), labelled_rows(100, 10_000 + number))
            _write_aside(record.place.labelled / f"desk-{number:04d}.csv", rows)
            record.facts["labelled_files"] = record.facts.get("labelled_files", 0) + 1


def _table(names: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([names, *rows])
    return out.getvalue()


def _deliver(record: Record, name: str, text: str, *, slowly: bool) -> None:
    target = record.place.incoming / name
    if slowly:
        with target.open("w", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            time.sleep(5)
            file.write(text[len(text) // 2 :])
    else:
        _write_aside(target, text)


def _write_aside(target: Any, text: str) -> None:
    partial = target.with_name(f".{target.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.rename(target)


def _note(record: Record, line: dict[str, Any]) -> None:
    with record.place.ledger.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    record.facts["tweets_fed"] = record.facts.get("tweets_fed", 0) + len(line["ids"])
    record.facts["files_fed"] = record.facts.get("files_fed", 0) + 1


def operate(record: Record, seconds: float) -> None:
    """Change one setting of each kind at its time, and answer every form."""
    todo: list[tuple[float, str, Callable[[Record], str]]] = [
        (0.08, "add a schedule", _add_schedule),
        (0.15, "disable an automation", _disable_automation),
        (0.30, "pause a schedule", _pause_schedule),
        (0.45, "raise a limit", _raise_limit),
    ]
    answered: set[str] = set()
    seen: dict[str, float] = {}
    while not record.done.wait(2.0):
        try:
            if todo and record.now() >= todo[0][0] * seconds:
                _, name, action = todo[0]
                said = action(record)
                record.operator.append({"at": record.now(), "what": name, "said": said})
                record.say(f"operator: {name}: {said}")
                todo.pop(0)
            _answer_forms(record, seen, answered)
        except AwayError:
            continue  # the server is away: again in a moment
    record.facts["operator_left_out"] = [name for _, name, _ in todo]


def approve_afterwards(record: Record, seconds: float) -> None:
    """Once nothing disturbs it any more, retrain and approve what comes of it, unless a version was approved in the month."""
    until, seen, answered = record.now() + seconds, dict[str, float](), set[str]()
    while not _approved(record) and record.now() < until and not record.down.wait(2.0):
        try:
            _answer_forms(record, seen, answered)
            if not any(run["flow"] in CHAIN for run in living_runs(record.place)) and not seen:
                record.say(f"operator: retrain: {start_run(record.place, 'retrain')}")
                record.down.wait(10.0)  # until it is at work
        except AwayError:
            continue


def _approved(record: Record) -> bool:
    return any(entry["what"] == "approve" for entry in record.operator)


def _deployment(record: Record, name: str) -> dict[str, Any]:
    found: dict[str, Any] = ask(record.place, f"deployments/name/{name}/{name}")
    return found


def _add_schedule(record: Record) -> str:
    deployment = _deployment(record, "score")
    schedule = {"interval": ADDED * record.place.period, "anchor_date": "2026-01-01T00:00:05+00:00", "timezone": "UTC"}
    ask(record.place, f"deployments/{deployment['id']}/schedules", [{"schedule": schedule, "active": True}])
    return f"score, every {ADDED * record.place.period:.0f} s"


def _pause_schedule(record: Record) -> str:
    deployment = _deployment(record, "monitor")
    schedule = deployment["schedules"][0]
    ask(record.place, f"deployments/{deployment['id']}/schedules/{schedule['id']}", {"active": False}, method="PATCH")
    return "monitor's"


def _disable_automation(record: Record) -> str:
    name = "finsent-end-lost-cancellations"
    found = next(item for item in all_of(record.place, "automations") if item["name"] == name)
    ask(record.place, f"automations/{found['id']}", {"enabled": False}, method="PATCH")
    return name


def _raise_limit(record: Record) -> str:
    ask(record.place, "v2/concurrency_limits/finsent-training", {"limit": 2}, method="PATCH")
    return "finsent-training, 2"


def _answer_forms(record: Record, seen: dict[str, float], answered: set[str]) -> None:
    """Approve what waits, once it has waited for `FORM_WAITS`, by the request that the form sends."""
    paused = {"state": {"type": {"any_": ["PAUSED"]}}}
    for run in all_of(record.place, "flow_runs", flow_runs=paused, flows={"name": {"any_": ["approve"]}}):
        first = seen.setdefault(run["id"], record.now())
        if run["id"] in answered or record.now() - first < FORM_WAITS:
            continue
        form = {"verdict": "approve", "who": "month.py", "why": f"waited for {record.now() - first:.0f} s"}
        said = ask(record.place, f"flow_runs/{run['id']}/resume", {"run_input": form})
        answered.add(run["id"])
        entry = {"at": record.now(), "what": "approve", "said": f"{said['status']}: {run['name']}", "run": run["id"]}
        record.operator.append(entry)
        record.say(f"operator: approve: {entry['said']}")


def left_as_they_were(record: Record) -> list[str]:
    """What is not as the operator left it, or as it was deployed."""
    wrong, did = [], {entry["what"] for entry in record.operator}
    score, monitor = (_deployment(record, name)["schedules"] for name in ("score", "monitor"))
    own = [item for item in score if item["schedule"].get("interval") == ADDED * record.place.period]
    if "add a schedule" in did and [item["active"] for item in own] != [True]:
        wrong.append(f"the schedule added to score: {[item['schedule'] for item in own]}")
    if len(score) != 1 + ("add a schedule" in did):
        wrong.append(f"score has {len(score)} schedules")
    if [item["active"] for item in monitor] != ["pause a schedule" not in did]:
        wrong.append(f"monitor's schedules are active: {[item['active'] for item in monitor]}")
    others = {name: [item["active"] for item in _deployment(record, name)["schedules"]] for name in ("ingest", "retrain")}
    wrong += [f"{name}'s schedules are active: {active}" for name, active in others.items() if active != [True]]
    for item in all_of(record.place, "automations"):
        disabled = item["name"] == "finsent-end-lost-cancellations" and "disable an automation" in did
        if item["enabled"] == disabled:
            wrong.append(f"automation {item['name']} is {'enabled' if item['enabled'] else 'disabled'}")
    limit = ask(record.place, "v2/concurrency_limits/finsent-training")["limit"]
    if limit != (2 if "raise a limit" in did else 1):
        wrong.append(f"limit finsent-training is {limit}")
    return wrong
