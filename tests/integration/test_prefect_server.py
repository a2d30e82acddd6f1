"""A real Prefect server and worker: `prefect.yaml` deploys from here, schedules fire, a deployment run completes.

With SQLAlchemy 2.1 the server starts, deploys, and never schedules anything: only this test would notice.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from finsent.cli import limits, lost_runs
from finsent.cli.lost_runs import count_slots, end_flow_runs, skip_missed_runs
from finsent.cli.operations_status import read_status, render_operations
from finsent.cli.output import as_text
from finsent.process_identity import PROCESS_LABEL, start_time, this_process
from tests.integration.prefect_servers import ENDED, ROOT, Server, client_of, provisioned, wait_for

pytestmark = pytest.mark.integration


def test_every_deployment_is_there_and_ready(server: Server) -> None:
    deployments = {item["name"]: item for item in server.ask("deployments/filter")}
    assert set(deployments) == {
        "ingest",
        "train",
        "tune",
        "evaluate",
        "promote",
        "approve",
        "score",
        "monitor",
        "retrain",
        "maintain",
    }
    assert deployments["retrain"]["concurrency_limit"] == 1 or deployments["retrain"]["global_concurrency_limit"]["limit"] == 1
    assert not [name for name, item in deployments.items() if item["pull_steps"]], "flows come from the installed package"


def test_strangers_get_nothing(server: Server) -> None:
    """Tried further, on both servers, in test_strangers.py; what a request must bring in test_guarded_server.py."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync import client

    api = server.env["PREFECT_API_URL"]
    assert requests.get(f"{api}/health", timeout=20).json() is True
    for path in ("admin/version", "csrf-token?client=x", "variables/name/finsent_home"):
        assert requests.get(f"{api}/{path}", timeout=20).status_code == 401
    auth = {"Authorization": server.headers["Authorization"]}
    assert requests.post(f"{api}/flow_runs/filter", json={}, headers=auth, timeout=20).status_code == 403, "without a token"
    for foreign, code in (({"Host": "evil.example"}, 400), ({"Origin": "http://127.0.0.1:1"}, 403)):
        answer = requests.post(f"{api}/flow_runs/filter", json={}, headers={**server.headers, **foreign}, timeout=20)
        assert answer.status_code == code
        assert "access-control-allow-origin" not in answer.headers
    with pytest.raises(InvalidStatus, match="HTTP 403"):
        client.connect(f"{api.replace('http', 'ws')}/events/in", origin="http://127.0.0.1:1", proxy=None)


def test_schedules_create_runs(server: Server) -> None:
    scheduled = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    runs = wait_for("scheduled runs", lambda: server.ask("flow_runs/filter", **scheduled))
    assert {run["state_name"] for run in runs} <= {"Scheduled", "Late"}


def test_triggers_and_automations_are_on_the_server(server: Server) -> None:
    automations = server.ask("automations/filter")
    expected = {event for item in automations for event in item["trigger"].get("expect", [])}
    assert {
        "finsent.model.promoted",
        "finsent.approval.requested",
        "finsent.retrain.requested",
        "prefect.flow-run.*",
    } <= expected


def test_a_request_for_approval_starts_the_run_that_asks_about_that_version(server: Server) -> None:
    code = "from flows.tasks import emit_approval_requested as emit; emit('finsent', '17', '3', ['better'])"
    subprocess.run([sys.executable, "-c", code], env=server.env, check=True, capture_output=True, text=True, cwd=ROOT)
    asked = {"flows": {"name": {"any_": ["approve"]}}}
    (run,) = wait_for("the run that asks", lambda: server.ask("flow_runs/filter", **asked))
    assert run["parameters"]["version"] == "17"


def test_a_deployment_run_completes_through_the_worker(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "tweets.csv"
    rows = [f"shares of firm {i} rise {i}% on results,Bullish" for i in range(30)]
    file.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    command = [sys.executable, "-m", "prefect", "deployment", "run", "ingest/ingest"]
    parameters = ["--param", f"sources={json.dumps([{'uri': str(file)}])}"]
    subprocess.run([*command, *parameters], env=server.env, check=True, capture_output=True, text=True)
    by_hand = {"flows": {"name": {"any_": ["ingest"]}}, "flow_runs": {"state": {"type": {"any_": [*ENDED]}}}}
    runs = wait_for("the run's end", lambda: server.ask("flow_runs/filter", **by_hand))
    assert [(run["state_type"], run["state"]["message"]) for run in runs] == [("COMPLETED", None)]
    artifacts = server.ask("artifacts/filter", artifacts={"key": {"any_": ["data-report"]}})
    assert "30 rows read" in artifacts[0]["data"]
    assert (server.home / "tables" / "tweets").is_dir()
    assert os.environ.get("PREFECT_API_URL") is None


def test_status_knows_what_runs_and_the_freshness_alarm_rings_and_resolves(server: Server) -> None:
    """The alarm itself on a quiet server; when it rings is decided in tests/cli/test_verdict.py."""
    from finsent.cli import freshness
    from finsent.cli.services_file import RunningServices, services_path, write_services
    from finsent.cli.services_file import Server as Known

    api, auth = server.env["PREFECT_API_URL"], server.env["PREFECT_API_AUTH_STRING"]

    def whole() -> Any:
        found = read_status(server.home, Known(api, None, auth)) or {}
        planned = [item["next_run"] for item in found.get("deployments", ()) if item["schedules"]]
        return found if found.get("workers") and None not in planned else None

    status = wait_for("the worker's first heartbeat and planned runs of all schedules", whole)
    assert [(item["name"], item["pool"], item["online"]) for item in status["workers"]] == [("finsent-cpu", "cpu", True)]
    assert status["problems"] == ["no worker of the pool 'gpu' is online (none was ever heard of): its runs wait"]
    score = next(item for item in status["deployments"] if item["name"] == "score")
    assert (score["period_seconds"], score["schedules"]) == (900.0, {"quarter-hourly": True})
    assert "score" in as_text(render_operations(status))
    with subprocess.Popen(["sleep", "60"]) as worker:
        up_now = RunningServices(os.getpid(), "", api.removesuffix("/api"))
        write_services(server.home, replace(up_now, processes={"worker-gpu": (worker.pid, start_time(worker.pid) or 0.0)}))
        seen = [read_status(server.home, Known(api, None, auth))]
        worker.kill()
    seen.append(read_status(server.home, Known(api, None, auth)))
    services_path(server.home).unlink()
    assert [found and found["problems"][:1] for found in seen] == [[], ["the process 'worker-gpu' of `finsent up` has ended"]]

    (score_id,) = [item["id"] for item in server.ask("deployments/filter") if item["name"] == "score"]
    alarms: list[str | None] = []
    with pytest.MonkeyPatch.context() as patch:
        for problem in ("the last 2 scheduled scorings ended without a result", "the last 3", None, None, None):
            patch.setattr(freshness, "scoring_problem", lambda *_, said=problem: said)
            alarms.append(freshness.check_freshness(server.api))
            if len(alarms) == 3:  # a scoring that completes
                done = server.ask(f"deployments/{score_id}/create_flow_run", state={"type": "SCHEDULED"})["id"]
                for state in ("RUNNING", "COMPLETED"):
                    server.ask(f"flow_runs/{done}/set_state", state={"type": state}, force=True)
    server.ask(f"flow_runs/{done}", "DELETE")
    assert alarms[1] is alarms[2] is alarms[4] is None, "it is said once, and over only when a scoring has completed since"
    assert alarms[0] == "ALARM: the last 2 scheduled scorings ended without a result"
    assert str(alarms[3]).startswith("scheduled scoring is in order again since")
    (shown,) = server.ask("flow_runs/filter", flows={"name": {"any_": [freshness.FLOW]}})
    assert (shown["name"], shown["state_type"], shown["state_name"]) == (alarms[0], "COMPLETED", "Over")
    assert freshness.check_freshness(server.api) is None, "nothing was due since the server started"


def test_runs_of_an_earlier_life_are_ended_and_those_that_live_are_not(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pool `gpu`, which has no worker here, as before a start: its slots are free again at once."""
    host, pid, started, *where = this_process().split()
    dead = {"labels": {PROCESS_LABEL: " ".join((host, pid, f"{float(started) - 999:.2f}", *where))}}
    deployments = {item["name"]: item["id"] for item in server.ask("deployments/filter")}
    flow = server.ask("flows/", name="by hand")["id"]

    def deployed(name: str, *states: str) -> str:
        run = str(server.ask(f"deployments/{deployments[name]}/create_flow_run", name=f"lost {name}")["id"])
        for state in states:
            answer = server.ask(f"flow_runs/{run}/set_state", state={"type": state})
            assert answer["status"] == "ACCEPT", answer
        return run

    def by_hand(name: str, state: str, **more: Any) -> str:
        return str(server.ask("flow_runs/", name=name, flow_id=flow, state={"type": state}, **more)["id"])

    lost = deployed("train", "PENDING", "RUNNING")
    task = server.ask("task_runs/", flow_run_id=lost, task_key="fit", dynamic_key="0", state={"type": "RUNNING"})["id"]
    runs = {
        lost: "CRASHED",
        by_hand("subflow", "RUNNING", parent_task_run_id=task): "CRASHED",
        deployed("tune", "PENDING"): "CRASHED",
        by_hand("killed", "RUNNING", **dead): "CRASHED",
        by_hand("being cancelled", "CANCELLING", **dead): "CANCELLED",
        by_hand("in a terminal", "RUNNING", labels={PROCESS_LABEL: this_process()}): "RUNNING",
        by_hand("elsewhere", "RUNNING", labels={PROCESS_LABEL: "elsewhere 1 1.0"}): "RUNNING",
        by_hand("waits for an approval", "PAUSED", **dead): "PAUSED",
        (asks := by_hand("suspends itself meanwhile", "RUNNING", **dead)): "PAUSED",
        deployed("evaluate"): "SCHEDULED",
    }
    assert slots(server) == {"train": 1, "tune": 1}
    look = lost_runs._runs_by_process

    def suspended_meanwhile() -> set[str]:
        server.ask(f"flow_runs/{asks}/set_state", state={"type": "PAUSED", "name": "Suspended"}, force=True)
        return look()

    monkeypatch.setattr(lost_runs, "_runs_by_process", suspended_meanwhile)

    ended = end_flow_runs(server.api, uptime=1e6, workers_stopped=True, grace=150)

    found = {run["id"]: run for run in server.ask("flow_runs/filter", flow_runs={"id": {"any_": list(runs)}})}
    assert {run: found[run]["state_type"] for run in runs} == runs
    assert {run["id"] for run, _ in ended} == {run for run, state in runs.items() if state in ENDED}
    assert found[lost]["state"]["message"] == "lost: its process is gone"
    assert [item["state_type"] for item in server.ask("task_runs/filter", task_runs={"id": {"any_": [task]}})] == ["CRASHED"]
    assert slots(server) == {}
    monkeypatch.undo()
    (silent,) = end_flow_runs(server.api, uptime=1e6, workers_stopped=False, grace=0)
    assert silent[0]["name"] == "elsewhere"
    assert "no sign of life" in silent[1]

    monkeypatch.setattr(lost_runs, "_SETTLED", 0.0)
    begun, claimed = deployed("train", "PENDING", "RUNNING"), deployed("tune", "PENDING")
    (gone,) = end_flow_runs(server.api, uptime=0.0, workers_stopped=False, grace=150)
    assert (gone[0]["id"], gone[1]) == (begun, "its process is gone"), "it died before it had its label; the other one may start"
    for run in (*runs, begun, claimed):
        server.ask(f"flow_runs/{run}", "DELETE")


def slots(server: Server) -> dict[str, int]:
    """Slots held, by deployment."""
    found = server.ask("deployments/filter")
    return {item["name"]: held for item in found if (held := item["global_concurrency_limit"]["active_slots"])}


def test_slots_without_a_lease_are_given_back(server: Server) -> None:
    """As after Prefect was killed, or the disk was full, between a slot and its lease."""

    def active() -> int:
        return int(server.ask("v2/concurrency_limits/finsent-training", "GET")["active_slots"])

    def look(seconds: float) -> list[str]:
        return limits.free_orphaned_slots(server.api, leases, seen, seconds)

    leases, seen = Path(server.env["PREFECT_HOME"]) / "concurrency_leases", dict[str, limits.Orphaned]()
    limit = server.ask("v2/concurrency_limits/finsent-training", "GET")["id"]
    server.ask(f"v2/concurrency_limits/{limit}", "PATCH", limit=5)
    lease = server.ask("v2/concurrency_limits/increment-with-lease", names=["finsent-training"], slots=1)["lease_id"]
    assert look(0) == []
    server.ask("v2/concurrency_limits/increment", names=["finsent-training"], slots=2)
    assert look(10) == look(99) == []
    assert active() == 3
    (said,) = look(101)
    assert "'finsent-training': 2 of its slots had no lease" in said
    assert look(300) == look(600) == []
    assert active() == 1, "of what a lease holds nothing is given back"

    server.ask("v2/concurrency_limits/increment", names=["finsent-training"], slots=1)
    damaged = leases / "damaged.json"
    unknown = {"expiration": "2999-01-01T00:00:00+00:00", "resource_ids": [], "metadata": 1}
    for text in ("", "[]", "{}", '{"expiration": null}', json.dumps(unknown)):
        damaged.write_text(text, encoding="utf-8")
        assert look(700) == look(900) == [], "it may be the lease of these slots"
    damaged.unlink()
    old = {"expiration": "2020-01-01T00:00:00+00:00", "resource_ids": [limit], "metadata": {"slots": 1}}
    damaged.write_text(json.dumps(old), encoding="utf-8")  # one that the server does not know to be over
    assert look(1000) == []
    assert len(look(1100)) == 1
    damaged.unlink()
    server.ask("v2/concurrency_limits/decrement-with-lease", lease_id=lease)
    assert active() == 0
    server.ask(f"v2/concurrency_limits/{limit}", "PATCH", limit=1)


def test_of_missed_runs_the_newest_is_left(server: Server) -> None:
    """As after hours of standstill, with one that the server cancelled as it started, since a lost run held the slot."""
    (deployment,) = server.ask("deployments/filter", deployments={"name": {"any_": ["score"]}})
    limit = deployment["global_concurrency_limit"]["id"]
    server.ask(f"v2/concurrency_limits/{limit}", "PATCH", active_slots=1)
    now = datetime.now(UTC)
    due = {"deployments": {"name": {"any_": ["score"]}}, "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
    wait_for("scheduled runs", lambda: server.ask("flow_runs/filter", **due)[2:])
    coming = server.ask("flow_runs/filter", sort="EXPECTED_START_TIME_ASC", **due)
    missed = {hours: run["id"] for hours, run in zip((3, 2, 1), coming, strict=False)}
    for hours, run in missed.items():
        past = {"scheduled_time": (now - timedelta(hours=hours)).isoformat()}
        server.ask(f"flow_runs/{run}/set_state", state={"type": "SCHEDULED", "state_details": past}, force=True)
    full = {"type": "CANCELLED", "message": "Deployment concurrency limit reached."}
    for hours in (1, 3):
        server.ask(f"flow_runs/{missed[hours]}/set_state", state=full, force=True)

    count_slots(server.api)
    (said,) = skip_missed_runs(server.api, since=60)

    assert "scheduled runs that were missed" in said
    assert "score" not in slots(server)
    (left,) = server.ask("flow_runs/filter", flow_runs={"id": {"any_": list(missed.values())}})
    assert (left["id"], left["state_type"]) == (missed[1], "SCHEDULED")
    assert abs(datetime.fromisoformat(left["next_scheduled_start_time"]) - now) < timedelta(minutes=1)
    server.ask(f"flow_runs/{left['id']}", "DELETE")


def test_a_retraining_that_crashed_is_tried_again_once(server: Server) -> None:
    from flows.second_try import try_again

    (deployment,) = server.ask("deployments/filter", deployments={"name": {"any_": ["retrain"]}})
    path, parameters = f"deployments/{deployment['id']}/create_flow_run", {"only_if_due": True}
    lost = server.ask(path, parameters=parameters)["id"]
    for state in ("PENDING", "RUNNING", "CRASHED"):
        server.ask(f"flow_runs/{lost}/set_state", state={"type": state})
    full = server.ask(path)["id"]
    cancelled = {"type": "CANCELLED", "message": "Deployment concurrency limit reached."}
    server.ask(f"flow_runs/{full}/set_state", state=cancelled, force=True)

    now = datetime.now(UTC)
    with client_of(server):
        assert try_again.fn(now) is None
        again = try_again.fn(now + timedelta(hours=1, seconds=5))
        assert try_again.fn(now + timedelta(hours=1, seconds=9)) == again

    (run,) = server.ask("flow_runs/filter", flow_runs={"id": {"any_": [again]}})
    assert (run["deployment_id"], run["parameters"], run["state_type"]) == (deployment["id"], parameters, "SCHEDULED")
    for done in (lost, full, again):
        server.ask(f"flow_runs/{done}", "DELETE")


def trigger_ids(server: Server) -> dict[str, str]:
    return {item["name"]: item["trigger"]["id"] for item in server.ask("automations/filter")}


def test_what_operators_decided_outlives_restarts_and_new_files(server: Server, files: Path) -> None:
    def change(path: str, **body: Any) -> None:
        server.ask(path, "PATCH", **body)

    def read(name: str) -> Any:
        (found,) = server.ask("deployments/filter", deployments={"name": {"any_": [name]}})
        return found

    score, monitor, train = read("score"), read("monitor"), read("train")
    change(
        f"deployments/{score['id']}",
        schedules=[
            {"slug": "quarter-hourly", "active": False},
            {"slug": "by hand", "schedule": {"cron": "5 5 * * *", "timezone": "UTC"}},
        ],
    )
    change(f"deployments/{monitor['id']}", paused=True)
    change(f"deployments/{train['id']}", concurrency_limit=3, parameters={"resume": "abc"})
    change("v2/concurrency_limits/finsent-training", limit=2)
    automations = {item["name"]: item["id"] for item in server.ask("automations/filter")}
    for name in ("finsent-crash-lost-runs", "score: score the inbox when a version becomes champion"):
        change(f"automations/{automations[name]}", enabled=False)
    before = trigger_ids(server)

    said = "\n".join(provisioned(server, files))
    assert "deployed" not in said
    kept = ("schedules.quarter-hourly.active is False", "paused is True", "switched off", "parameters.resume is added")
    assert [part for part in kept if part not in said] == []
    assert trigger_ids(server) == before

    text = (files / "prefect.yaml").read_text(encoding="utf-8")
    text = (
        text.replace("*/15 * * * *", "*/10 * * * *")
        .replace("Measure drift", "Look for drift")
        .replace("register one", "keep one")
    )
    (files / "prefect.yaml").write_text(text, encoding="utf-8")
    text = (files / "automations.yaml").read_text(encoding="utf-8")
    (files / "automations.yaml").write_text(text.replace("heartbeat has stopped", "heart has stopped"), encoding="utf-8")
    said = "\n".join(provisioned(server, files))
    assert "deployed: train/train, score/score, monitor/monitor." in said

    schedules = {item["schedule"]["cron"]: item["active"] for item in read("score")["schedules"]}
    assert schedules == {"*/10 * * * *": False, "5 5 * * *": True}
    assert (read("monitor")["paused"], read("monitor")["description"][:14]) == (True, "Look for drift")
    assert (read("train")["global_concurrency_limit"]["limit"], read("train")["parameters"]) == (3, {"resume": "abc"})
    now = {item["name"]: item for item in server.ask("automations/filter")}
    assert not any(
        now[name]["enabled"] for name in ("finsent-crash-lost-runs", "score: score the inbox when a version becomes champion")
    )
    assert now["finsent-crash-lost-runs"]["description"].endswith("heart has stopped.")
    changed = {name for name, number in trigger_ids(server).items() if number != before[name]}
    assert changed == {"finsent-crash-lost-runs"}
    limits = {limit["name"]: limit["limit"] for limit in server.ask("v2/concurrency_limits/filter")}
    assert limits["finsent-training"] == 2
