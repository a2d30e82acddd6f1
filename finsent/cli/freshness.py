"""The freshness alarm: says on the Prefect server that scheduled scoring does not complete, and that it does again.

An artifact holds its state, so that whoever looks next knows it: `finsent up` every minute, and the flow `monitor` on servers of
your own. It is no automation of Prefect's: a server on SQLite drops events, and a dropped one would raise or hide the alarm.
"""

from datetime import UTC, datetime
from http.client import HTTPException
from typing import Final
from uuid import uuid4

from finsent.cli.operations import SCORING, read_scoring
from finsent.cli.prefect_api import Ask, connect
from finsent.cli.verdict import moment, scoring_problem

KEY: Final = "scoring-freshness"
"""Of the artifact."""
OVERDUE, FRESH = "finsent.scoring.overdue", "finsent.scoring.fresh"
"""Events, for notifications of your own."""
_ALARM: Final = "ALARM"


def watch_freshness(api: str, auth: str | None, up_since: datetime | None) -> list[str]:
    """Check once; what was said. A server that is away just now is seen to by others."""
    try:
        said = check_freshness(connect(api, auth), up_since)
    except (OSError, ValueError, LookupError, TypeError, HTTPException):
        return []
    return [] if said is None else [f"{said}."]


def check_freshness(ask: Ask, up_since: datetime | None = None) -> str | None:
    """Raise the alarm or take it back; what was said, or None where nothing has changed.

    Raises:
        OSError: the server does not answer.
        ValueError: it answers with something else.
    """
    now = datetime.now(UTC)
    problem = scoring_problem(read_scoring(ask, now), up_since)
    known = ask("artifacts/latest/filter", {"artifacts": {"key": {"any_": [KEY]}}, "limit": 1})
    ringing = bool(known) and str(known[0]["description"]).startswith(_ALARM)
    if ringing is (problem is not None):
        return None
    text = f"{_ALARM}: {problem}" if problem else f"Scheduled scoring is in order again since {moment(now)}"
    advice = "\n\n`finsent status` shows workers and runs, `finsent doctor` looks for the cause." if problem else ""
    ask("artifacts/", {"key": KEY, "type": "markdown", "data": f"# {text}{advice}", "description": text})
    event = {
        "id": str(uuid4()),
        "occurred": now.isoformat(),
        "event": OVERDUE if problem else FRESH,
        "resource": {"prefect.resource.id": f"finsent.deployment.{SCORING}", "prefect.resource.name": SCORING},
        "payload": {"message": text},
    }
    ask("events", [event])
    return text
