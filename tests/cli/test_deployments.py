"""What a file changed and what an operator decided, merged. On a real server: tests/integration/test_prefect_server.py."""

from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse

from finsent.cli.deployments import deployed, describe, differences, merge
from finsent.errors import InputError

NEW_YEAR = "2026-01-01T00:00:40"
WEEKLY = {"cron": "0 3 * * 1", "slug": "weekly"}
FILE = {"name": "retrain", "tags": ["finsent"], "schedules": {"weekly": WEEKLY}, "concurrency_limit": {"limit": 1}}
OFF = {"schedules": {"weekly": {**WEEKLY, "active": False}}}
ADDED = {"schedules": {"weekly": WEEKLY, "id 7": {"cron": "5 5 * * *"}}}


@pytest.mark.parametrize(
    ("what", "base", "wanted", "found", "merged"),
    [
        ("nothing", FILE, FILE, FILE, FILE),
        ("a new deployment's default", {}, FILE, FILE, FILE),
        ("a schedule switched off", FILE, FILE, FILE | OFF, FILE | OFF),
        ("a schedule added", FILE, FILE, FILE | ADDED, FILE | ADDED),
        ("a schedule deleted", FILE, FILE, FILE | {"schedules": {}}, FILE | {"schedules": {}}),
        ("a deployment paused", FILE, FILE, FILE | {"paused": True}, FILE | {"paused": True}),
        ("a limit raised", FILE, FILE, FILE | {"concurrency_limit": {"limit": 4}}, FILE | {"concurrency_limit": {"limit": 4}}),
        ("parameters set", FILE, FILE, FILE | {"parameters": {"a": None}}, FILE | {"parameters": {"a": None}}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_the_file_did_not_change_stays_as_it_is(what: str, base: Any, wanted: Any, found: Any, merged: Any) -> None:
    assert merge(base, wanted, found) == merged, what


def test_what_the_file_changed_is_applied_and_all_else_is_kept() -> None:
    later = {**WEEKLY, "cron": "0 5 * * 1"}
    wanted = FILE | {"schedules": {"weekly": later, "daily": {"cron": "0 1 * * *"}}, "tags": ["new"], "description": "words"}
    found = FILE | {
        "schedules": {"weekly": {**WEEKLY, "active": False, "timezone": "UTC"}, "id 7": {"cron": "5 5 * * *"}},
        "paused": True,
        "concurrency_limit": {"limit": 4},
    }
    assert merge(FILE, wanted, found) == {
        "name": "retrain",
        "tags": ["new"],
        "description": "words",
        "paused": True,
        "concurrency_limit": {"limit": 4},
        "schedules": {
            "weekly": {**later, "active": False, "timezone": "UTC"},
            "daily": {"cron": "0 1 * * *"},
            "id 7": {"cron": "5 5 * * *"},
        },
    }


def test_what_the_file_no_longer_says_is_taken_back() -> None:
    base = FILE | {"schedules": {"weekly": WEEKLY, "daily": {"cron": "0 1 * * *"}}, "paused": True, "parameters": {"a": 1}}
    found = base | {"parameters": {"a": 1, "b": 2}}
    assert merge(base, FILE | {"parameters": {}}, found) == FILE | {"parameters": {"b": 2}}
    assert merge(FILE, FILE | {"schedules": {}}, FILE | ADDED)["schedules"] == {"id 7": {"cron": "5 5 * * *"}}


def test_of_an_earlier_release_pauses_and_added_schedules_are_kept() -> None:
    """It left no record. What the file says counts, and what it does not speak of stays."""
    found = FILE | {"schedules": {**OFF["schedules"], **ADDED["schedules"]}, "paused": True, "concurrency_limit": {"limit": 4}}
    found["schedules"]["weekly"] = {**WEEKLY, "cron": "0 9 * * 1", "active": False}
    merged = merge({}, FILE, found)
    assert merged["schedules"] == {"weekly": {**WEEKLY, "active": False}, "id 7": {"cron": "5 5 * * *"}}
    assert (merged["paused"], merged["concurrency_limit"]) == (True, {"limit": 1})


def test_differences_are_named_by_their_place() -> None:
    found = FILE | {"schedules": {"weekly": {**WEEKLY, "active": False}, "id 7": {"cron": "5 5 * * *"}}, "paused": True}
    assert differences(FILE, found) == ["paused is True", "schedules.id 7 is added", "schedules.weekly.active is False"]
    assert differences(FILE, FILE | {"schedules": {}}) == ["schedules.weekly is removed"]
    assert differences(FILE, FILE) == []


def test_a_definition_leaves_out_what_holds_anyway() -> None:
    said = {
        "paused": False,
        "schedules": [{**WEEKLY, "active": True, "parameters": {}}],
        "triggers": [{"enabled": True, "expect": ["x"]}],
    }
    plain = describe({"name": "retrain", "entrypoint": "a.b", "concurrency_limit": 1, **said}, "file")
    assert plain == {
        "name": "retrain",
        "entrypoint": "a.b",
        "concurrency_limit": {"limit": 1},
        "schedules": {"weekly": WEEKLY},
        "parameters": {},
        "triggers": {"retrain__automation_1": {"expect": ["x"]}},
    }
    assert describe({"name": "retrain", "parameters": {"active": True, "none": None}}, "file")["parameters"] == {
        "active": True,
        "none": None,
    }


def test_a_key_that_is_not_deployed_here_is_refused() -> None:
    with pytest.raises(InputError, match="file: 'pull' is not deployed by finsent"):
        describe({"name": "x", "entrypoint": "a.b", "pull": []}, "file")


@pytest.mark.parametrize("schedules", [[{"cron": "0 3 * * 1"}], [{**WEEKLY}, {"interval": 60, "slug": "weekly"}]])
def test_a_schedule_without_a_name_of_its_own_is_refused(schedules: list[dict[str, Any]]) -> None:
    """The server's would have another name: it would be there twice after the next start, and a pause undone."""
    with pytest.raises(InputError, match=r"file: the schedule \{.*\} has no slug of its own.* Give it one"):
        describe({"name": "x", "entrypoint": "a.b", "schedules": schedules}, "file")


def on_server(**schedule: Any) -> dict[str, Any]:
    item = DeploymentSchedule.model_validate({"deployment_id": uuid4(), "active": True, "slug": "often", "schedule": schedule})
    response = DeploymentResponse(name="x", flow_id=uuid4(), entrypoint="a.b", schedules=[item])
    return {"schedules": deployed(response)["schedules"]}


@pytest.mark.parametrize(
    ("file", "server", "said"),
    [
        ({"interval": 180}, {"interval": 180.0, "anchor_date": "2026-01-01T00:00:40Z", "timezone": "UTC"}, []),
        (
            {"interval": 180, "anchor_date": "2026-01-01T01:00:40+01:00"},
            {"interval": 180, "anchor_date": f"{NEW_YEAR}Z"},
            [],
        ),
        ({"interval": 180, "anchor_date": NEW_YEAR}, {"interval": 180, "anchor_date": f"{NEW_YEAR}Z"}, []),
        (
            {"interval": 180, "anchor_date": f"{NEW_YEAR}Z"},
            {"interval": 240, "anchor_date": "2026-01-01T00:00:41Z"},
            ["schedules.often.anchor_date is '2026-01-01T00:00:41+00:00'", "schedules.often.interval is 240.0"],
        ),
    ],
)
def test_another_spelling_is_no_decision(file: dict[str, Any], server: dict[str, Any], said: list[str]) -> None:
    wanted = describe({"name": "x", "schedules": [{**file, "slug": "often"}]}, "file")["schedules"]
    assert differences({"schedules": wanted}, on_server(**server)) == said
