"""`prefect.yaml` and `automations.yaml`: everything named in them exists and is of the right form. No server is needed."""

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from finsent.cli.lost_runs import GRACE
from finsent.cli.services_file import HEARTBEAT_SECONDS
from finsent.cli.up import POOLS

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
DEPLOYMENTS: list[dict[str, Any]] = PROJECT["deployments"]
STEPS = {"ingest", "train", "evaluate", "promote", "approve", "score", "monitor", "retrain", "tune", "maintain"}


def named(name: str) -> dict[str, Any]:
    return next(deployment for deployment in DEPLOYMENTS if deployment["name"] == name)


def test_every_step_has_its_deployment() -> None:
    assert {deployment["name"] for deployment in DEPLOYMENTS} == STEPS
    assert len(DEPLOYMENTS) == len(STEPS)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_entrypoints_import_and_take_the_parameters(deployment: dict[str, Any]) -> None:
    from prefect import Flow

    module, _, function = deployment["entrypoint"].rpartition(".")
    flow = getattr(import_module(module), function)
    assert isinstance(flow, Flow)
    assert flow.name == deployment["name"]
    accepted = set(inspect.signature(flow.fn).parameters)
    schedules = [schedule.get("parameters", {}) for schedule in deployment.get("schedules", [])]
    for parameters in [deployment.get("parameters", {}), *schedules]:
        assert set(parameters) <= accepted
    assert "settings" in accepted


def test_flows_can_run_without_any_parameter() -> None:
    for deployment in DEPLOYMENTS:
        module, _, function = deployment["entrypoint"].rpartition(".")
        signature = inspect.signature(getattr(import_module(module), function).fn)
        assert all(parameter.default is not inspect.Parameter.empty for parameter in signature.parameters.values())


def test_pools_are_those_that_up_provides() -> None:
    assert {deployment["work_pool"]["name"] for deployment in DEPLOYMENTS} == set(POOLS)
    assert named("train")["work_pool"]["name"] == named("retrain")["work_pool"]["name"] == "gpu"


@pytest.mark.parametrize("name", ["train", "retrain", "score", "tune", "maintain"])
def test_these_never_run_twice_at_once(name: str) -> None:
    assert named(name)["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW", "grace_period_seconds": 120}


def test_no_run_of_a_pool_keeps_another_from_its_worker() -> None:
    """Trainings wait for each other within their runs, so each deployment may take one place and no more."""
    for pool, places in POOLS.items():
        ours = [deployment for deployment in DEPLOYMENTS if deployment["work_pool"]["name"] == pool]
        assert all(deployment["concurrency_limit"]["limit"] == 1 for deployment in ours)
        assert places >= len(ours)


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda deployment: deployment["name"])
def test_schedules_parse_and_have_names(deployment: dict[str, Any]) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    for schedule in deployment.get("schedules", []):
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"]).cron == schedule["cron"]
        assert schedule["slug"]


def test_scoring_monitoring_and_retraining_are_scheduled() -> None:
    assert {deployment["name"] for deployment in DEPLOYMENTS if deployment.get("schedules")} >= {
        "ingest",
        "score",
        "monitor",
        "retrain",
        "maintain",
    }


def test_events_that_deployments_wait_for_are_those_that_flows_emit() -> None:
    from flows import tasks

    waited = {deployment["name"]: trigger["expect"] for deployment in DEPLOYMENTS for trigger in deployment.get("triggers", [])}
    asked = {"approve": [tasks.APPROVAL_REQUESTED]}
    assert waited == {"score": [tasks.PROMOTED], "retrain": [tasks.RETRAIN_REQUESTED], **asked}


def test_automations_of_deployments_say_what_they_do() -> None:
    triggers = {deployment["name"]: trigger for deployment in DEPLOYMENTS for trigger in deployment.get("triggers", [])}
    assert all(trigger["name"].startswith(f"{name}: ") and trigger["description"] for name, trigger in triggers.items())


def test_threads_are_limited_and_no_machine_is_named() -> None:
    assert all(deployment["work_pool"]["job_variables"]["env"]["OMP_NUM_THREADS"] == "1" for deployment in DEPLOYMENTS)
    assert PROJECT["pull"] == [], "flows come from the installed package, so there is no path to pull from"
    text = (ROOT / "prefect.yaml").read_text(encoding="utf-8") + (ROOT / "automations.yaml").read_text(encoding="utf-8")
    assert not any(path in text for path in ("/home/", "/root/", "/Users/", "/tmp/", str(ROOT)))


def test_automations_are_of_prefects_form() -> None:
    from prefect.events.schemas.automations import AutomationCore

    described = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    automations = [AutomationCore.model_validate(item) for item in described]
    assert [automation.name for automation in automations] == ["finsent-crash-lost-runs", "finsent-end-lost-cancellations"]
    assert {automation.actions[0].type for automation in automations} == {"change-flow-run-state"}
    waits = [automation.trigger.within.total_seconds() for automation in automations]
    assert min(waits) > 2 * HEARTBEAT_SECONDS, "one heartbeat may be missed"
    assert waits[0] == GRACE == 10 * HEARTBEAT_SECONDS, "a server that is away for some minutes hears nobody"


def test_runs_send_heartbeats_as_often_as_the_automation_waits_for() -> None:
    """Whatever the worker's environment says: with Prefect's default of 180 s one lost event would crash a run."""
    for deployment in DEPLOYMENTS:
        assert deployment["work_pool"]["job_variables"]["env"]["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"] == str(HEARTBEAT_SECONDS)


def test_a_run_that_waits_for_a_person_is_not_taken_for_lost() -> None:
    from flows.approve import approve

    crash, _ = yaml.safe_load((ROOT / "automations.yaml").read_text(encoding="utf-8"))["automations"]
    assert crash["name"] == "finsent-crash-lost-runs"
    assert crash["trigger"]["match_related"] == {"prefect.resource.role": "flow", "prefect.resource.name": f"!{approve.name}"}
    waiting = [path.stem for path in (ROOT / "flows").glob("*.py") if "suspend_flow_run(" in path.read_text(encoding="utf-8")]
    assert waiting == ["approve"]
