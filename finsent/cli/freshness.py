"""The freshness alarm: shows on the Prefect server that scheduled scoring does not complete, and that it does again.

A failed flow run, so that it is red on the dashboard, and Completed once it is over: whoever looks next reads its state there.
`finsent up` looks every minute. It is no automation of Prefect's: a server on SQLite drops events, and a dropped one would raise
or hide the alarm.
"""

from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any, Final
from uuid import uuid4

from finsent.cli.operations import SCORING, read_scoring
from finsent.cli.prefect_api import Ask, connect
from finsent.cli.verdict import moment, scoring_problem

FLOW: Final = "freshness alarm"
"""Flow whose runs are the alarms; nothing runs in them."""
OVERDUE, FRESH = "finsent.scoring.overdue", "finsent.scoring.fresh"
"""Events, for notifications of your own."""
_NAME_LENGTH: Final = 200


def watch_freshness(api: str, auth: str | None, up_since: datetime | None) -> list[str]:
    """Check once; what was said. A server that is away just now is seen to by others."""
    try:
        said = check_freshness(connect(api, auth), up_since)
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
    problem = scoring_problem(read_scoring(ask, now), up_since)
    ringing = ask(
        "flow_runs/filter", {"flows": {"name": {"any_": [FLOW]}}, "flow_runs": {"state": {"type": {"any_": ["FAILED"]}}}}
    )
    if bool(ringing) is (problem is not None):
        return None
    if problem:
        said = f"ALARM: {problem}"
        state = {"type": "FAILED", "name": "Alarm", "message": f"{problem}. `finsent status` shows workers and runs."}
        flow = ask("flows/", {"name": FLOW})["id"]
        ask("flow_runs/", {"name": said[:_NAME_LENGTH], "flow_id": flow, "tags": ["finsent"], "state": state})
    else:
        said = f"scheduled scoring is in order again since {moment(now)}"
        over = {"state": {"type": "COMPLETED", "name": "Over", "message": f"{said[0].upper()}{said[1:]}."}, "force": True}
        for run in ringing:
            ask(f"flow_runs/{run['id']}/set_state", over)
    ask("events", [_event(OVERDUE if problem else FRESH, now, said)])
    return said


def _event(name: str, now: datetime, said: str) -> dict[str, Any]:
    resource = {"prefect.resource.id": f"finsent.deployment.{SCORING}", "prefect.resource.name": SCORING}
    return {"id": str(uuid4()), "occurred": now.isoformat(), "event": name, "resource": resource, "payload": {"message": said}}
