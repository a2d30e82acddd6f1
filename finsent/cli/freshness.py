"""The freshness alarm: shows on the Prefect server that scheduled scoring does not complete, and that it does again.

A failed flow run, so that it is red on the dashboard, and Completed once it is over: whoever looks next reads its state there.
`finsent up` looks every minute. It is no automation of Prefect's: a server on SQLite drops events, and a dropped one would raise
or hide the alarm.
"""

from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, Final, Literal
from uuid import uuid4

from finsent.cli.operations import SCORING, Operations, read_scoring
from finsent.cli.server_api import Ask, connect
from finsent.cli.verdict import moment, scoring_problem

FLOW: Final = "freshness alarm"
"""Flow whose runs are the alarms; nothing runs in them."""
OVERDUE, FRESH = "finsent.scoring.overdue", "finsent.scoring.fresh"
"""Events, for notifications of your own."""
_NAME_LENGTH: Final = 200


def watch_freshness(api: str, auth: str | None, up_since: datetime | None) -> list[str]:
    """Check once; what was said. A server that is away just now is seen to by others."""
    try:
        said = check_freshness(connect(api, auth, direct=True), up_since)
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return []
    return [] if said is None else [f"{said}."]


def check_freshness(ask: Ask, up_since: datetime | None = None) -> str | None:
    """Raise the alarm or end it; what was said, or None where nothing has changed.

    Raises:
        OSError: the server does not answer.
        ValueError: it answers with something else.
    """
    now = datetime.now(UTC)
    found = read_scoring(ask, now)
    problem = scoring_problem(found, up_since)
    ringing = ask(
        "flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
    )
    if problem and not ringing:
        said = f"ALARM: {problem}"
        state = {"type": "FAILED", "name": "Alarm", "message": f"{problem}. `finsent status` shows workers and runs."}
        flow = ask("flows/", {"name": FLOW})["id"]
        ask("flow_runs/", {"name": said[:_NAME_LENGTH], "flow_id": flow, "tags": ["finsent"], "state": state})
        ask("events", [_event(OVERDUE, now, said)])
        return said
    since = max((datetime.fromisoformat(run["state"]["timestamp"]) for run in ringing), default=None)
    if problem or since is None or (over := end_of_alarm(found, since)) is None:
        return None
    said = (
        f"scheduled scoring is in order again since {moment(now)}"
        if over == "fresh"
        else f"the alarm of {moment(since)} is over without a scoring: no schedule of {SCORING!r} is active"
    )
    state = {"type": "COMPLETED", "name": "Over", "message": f"{said[0].upper()}{said[1:]}."}
    for run in ringing:
        ask(f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    if over == "fresh":
        ask("events", [_event(FRESH, now, said)])
    return said


def end_of_alarm(found: Operations, since: datetime) -> Literal["fresh", "unscheduled"] | None:
    """Why an alarm is over that rings since then; None: a restart or an edited schedule alone makes nothing fresh."""
    if not any(item.name == SCORING and item.scheduled for item in found.deployments):
        return "unscheduled"
    return "fresh" if found.scored is not None and found.scored > since else None


def _event(name: str, now: datetime, said: str) -> dict[str, Any]:
    resource = {"prefect.resource.id": f"finsent.deployment.{SCORING}", "prefect.resource.name": SCORING}
    return {"id": str(uuid4()), "occurred": now.isoformat(), "event": name, "resource": resource, "payload": {"message": said}}
