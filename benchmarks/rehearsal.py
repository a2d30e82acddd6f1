"""A rehearsal as the documentation has it: a fresh clone, Debian's Postgres, and an approval clicked in a real browser.

    python benchmarks/rehearsal.py FOLDER

In FOLDER, a new one: the project is cloned and run from there, with this environment's libraries. `finsent up` starts with
Prefect's database on a Postgres server of its own (docs/operations.md). The bundled sample is ingested, trained on, evaluated and
judged by a run of the deployment `retrain`; the version waits for approval, and the form of the run `approve` for an answer, two
minutes. Then Chromium, without a window, opens the Prefect UI, enters the password, opens the run, fills in the form and sends
it. The version must be champion afterwards, with that author and reason in the audit log, and the inbox must be scored.

Pictures of dashboard, run and form are in FOLDER/pictures, to be looked at. All listens on loopback alone; nothing that was
started is left behind. Exit code 1 where a step did not come. As root, Postgres runs as its user `postgres`. On Linux.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from chaos import prepare, watch
from chaos.browser import Page, browser
from chaos.record import Record
from chaos.system import AwayError, all_of, command, own_pids

WHO, WHY = "dana", "read the report in the browser"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def main() -> int:
    """Clone, start, train, wait, approve, look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a new folder")
    parser.add_argument("--wait", type=float, default=120.0, help="seconds that the form waits")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--first-port", type=int, default=5770)
    given = parser.parse_args()
    place = prepare.make_place(given.folder, 900.0, "postgres", given.first_port)
    clone = _clone(place.folder)
    os.environ["PYTHONPATH"] = str(clone)  # before what is installed in this environment
    place = replace(place, project_folder=clone)
    _configure(place, given.epochs)
    record, programs = Record(place), None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _break_off)
    try:
        programs = prepare.start_postgres(place)
        _rehearse(record, given.wait)
    except (KeyboardInterrupt, AwayError, TimeoutError, RuntimeError, AssertionError) as error:
        record.say(f"NOT DONE: {type(error).__name__}: {error}")
    finally:
        record.down.set()
        record.facts["left"] = watch.stop_up(record)
        watch.kill_all(record)
        if programs is not None:
            prepare.stop_postgres(place, programs)
        record.save()
    record.say(f"the end: {record.facts['left']}")
    return 0 if record.facts.get("finished") and not record.facts["left"]["orphans"] else 1


def _break_off(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of a signal handler
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # the cleaning up is not to be broken off
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _clone(folder: Path) -> Path:
    """The project as it was committed last, and nothing that lies around beside it."""
    target = folder / "clone"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(prepare.PROJECT), str(target)], check=True)
    return target


def _configure(place: Any, epochs: int) -> None:
    """The bundled sample as configured sources; the gate as shipped, which asks for approval."""
    from finsent.data.sample import inbox_files, sample_sources

    sources = [source.model_dump(exclude_defaults=True) for source in sample_sources(1)]
    inbox = [{"uri": str(inbox_files(1)[0])}]
    config = {"data": {"sources": sources}, "recipe": {"epochs": epochs}, "scoring": {"sources": inbox}}
    place.config.write_text(yaml.safe_dump(json.loads(json.dumps(config))), encoding="utf-8")


def _rehearse(record: Record, wait: float) -> None:
    place = record.place
    where = _run(record, [sys.executable, "-c", "import finsent, flows; print(finsent.__file__, flows.__file__)"])
    assert where.count(str(place.project)) == 2, f"the clone is not what runs: {where}"
    record.guard("up", watch.keep_up)
    _until(record, "finsent up", lambda: bool(record.starts and record.starts[-1]["healthy_after"]), 300)
    url = place.database.replace(place.database.split(":")[2].split("@")[0], "...")
    record.say(f"up on {url}")
    record.say(_prefect(record, "deployment", "run", "retrain/retrain"))
    ended = _until(record, "the retraining", lambda: _newest(record, "retrain", *ENDED), 1500)
    record.say(f"retrain: {ended['state_name']}: {ended['state']['message']}")
    form = _until(record, "the form", lambda: _newest(record, "approve", "PAUSED"), 180)
    began = time.monotonic()
    record.say(f"the form waits: run {form['name']!r}")
    while time.monotonic() - began < wait:
        time.sleep(1)
    still = _newest(record, "approve", "PAUSED", *ENDED)
    assert still["state_name"] == "Suspended", f"the run is {still['state_name']} after {wait:.0f} s"
    with browser(place.folder) as page:
        _approve(record, page, form["id"])
        decided = _until(record, "the decision", lambda: _newest(record, "approve", *ENDED), 180)
        record.say(f"approve: {decided['state_name']}: {decided['state']['message']}")
        scored = _until(record, "scoring by the new champion", lambda: _scored(record), 300)
        record.say(f"score: {scored['name']}")
        page.open(f"http://127.0.0.1:{place.prefect_port}/dashboard")
        time.sleep(5)
        page.picture("6-dashboard-afterwards")
    assert decided["state_name"] == "Promoted", f"the run ended {decided['state_name']}"
    history = json.loads(_run(record, command(place, "history", "--json")))
    last = history["entries"][-1]
    assert (last["action"], last["who"], last["why"]) == ("approve", WHO, WHY), f"the audit log ends with {last}"
    status = json.loads(_run(record, command(place, "status", "--json")))
    assert status["versions"]["champion"]["version"] == last["version"]
    record.facts |= {"status": status, "finished": True}
    record.say(f"version {last['version']} is champion by {last['who']}: {last['why']!r}")


def _approve(record: Record, page: Page, run: str) -> None:
    """What a person does in the Prefect UI."""
    site = f"http://127.0.0.1:{record.place.prefect_port}"
    page.open(f"{site}/dashboard")
    password = record.place.home / "server_password"
    if password.exists():
        page.wait_until("!!document.querySelector('input[type=password]')", "the password's field")
        page.picture("0-password")
        page.click_on("input[type=password]")
        page.type(f"finsent:{password.read_text(encoding='utf-8').strip()}")
        page.press("Enter")
        page.wait_until("!document.querySelector('input[type=password]')", "the password to be taken")
    page.wait_for("Work Pools")
    time.sleep(6)
    page.picture("1-dashboard")
    page.open(f"{site}/runs/flow-run/{run}")
    page.wait_for("Suspended")
    time.sleep(4)
    page.picture("2-run")
    page.click("Resume")
    page.wait_for("Verdict")
    time.sleep(2)
    page.picture("3-form")
    page.choose(".p-modal select", "approve")
    for number, text in enumerate((WHO, WHY)):
        page.click_on(".p-modal textarea", number)
        page.type(text)
    page.picture("4-form-filled-in")
    page.click("Submit")
    page.wait_until("!document.querySelector('.p-modal textarea')", "the form to be taken")
    time.sleep(3)
    page.picture("5-sent")


def _run(record: Record, arguments: list[str]) -> str:
    done = subprocess.run(
        arguments,
        env=record.place.environment,
        cwd=record.place.project,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(
            f"{' '.join(arguments[1:4])} ended with code {done.returncode}: {done.stdout[-500:]}{done.stderr[-1500:]}"
        )
    return done.stdout


def _prefect(record: Record, *arguments: str) -> str:
    """Prefect's own command, told where the server is, as docs/operations.md has it."""
    from chaos.system import start_run

    return f"run {start_run(record.place, arguments[-1].split('/')[0])} of {arguments[-1]}"


def _newest(record: Record, flow: str, *states: str) -> Any:
    """The newest run of a flow, once it is in one of the states."""
    try:
        runs = all_of(record.place, "flow_runs", flows={"name": {"any_": [flow]}}, sort="EXPECTED_START_TIME_DESC")
    except AwayError:
        return None
    begun = [run for run in runs if run["state_type"] != "SCHEDULED"]
    return begun[0] if begun and begun[0]["state_type"] in states else None


def _scored(record: Record) -> Any:
    """The newest scoring run, if it has scored; before there was a champion, runs are skipped."""
    run = _newest(record, "score", "COMPLETED")
    return run if run and run["state_name"] != "Skipped" else None


def _until(record: Record, what: str, found: Callable[[], Any], seconds: float) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        if record.starts and record.starts[-1]["pid"] not in own_pids(record.place) and record.facts.get("broke_off"):
            raise RuntimeError(f"finsent up broke off: {record.facts['broke_off']}")
        time.sleep(1)
    return result


if __name__ == "__main__":
    sys.exit(main())
