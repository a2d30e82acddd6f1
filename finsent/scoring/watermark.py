"""How far scoring is through: up to which version of the inbox every row has a prediction, or is in quarantine.

Recorded in the commit of a run's last chunk, so that both are there or neither. A run after it reads what came since then, in
both tables. Where that cannot be told, because somebody else changed or restored a table, or log entries are gone, it reads the
whole tables: it is slower, and finds the same rows.
"""

import json
import logging
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

from finsent.data.predictions import ModelIdentity, predicted_in_line
from finsent.data.table_access import COMMIT_ID, commits_after, delta_errors, open_table
from finsent.data.table_changes import UnknownChangesError, appended_rows, commit_stamp
from finsent.data.table_schemas import SCHEMAS, CommitMetadata
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

MODEL_COLUMNS: Final = ("model_name", "model_version", "model_digest")
_LATEST_COMMITS: Final = 64  # looked through first; of a run that was killed there may be many more


@dataclass(frozen=True)
class Watermark:
    """Every inbox row up to a version has a prediction by a champion of one registry, or is in quarantine."""

    inbox: int
    """That version."""
    stamp: str
    """What its commit is told by: in a table that was restored, another commit has its number."""
    since: int
    """Version of `predictions` after which rows may have been predicted that came to the inbox later."""
    line: str
    """Whose predictions: `ModelIdentity.line_key`."""
    model: str = ""
    """Digest of the model that `backfilled` is about."""
    backfilled: str | None = None
    """Time since which each row received, up to that version, has a prediction by this model; None where that is not known."""

    @property
    def backfilled_since(self) -> datetime | None:
        """The same as a time."""
        return None if self.backfilled is None else datetime.fromisoformat(self.backfilled)

    @property
    def metadata(self) -> CommitMetadata:
        """What records it with a commit."""
        return {"scored_through": json.dumps(asdict(self))}


@dataclass(frozen=True)
class Arrivals:
    """What came after the watermark."""

    recorded: Watermark
    rows: "pa.Table"
    """Rows of the inbox: columns id, text, received_at."""
    predicted: "pa.Table | None"
    """Predictions since then, without their probabilities. None where ids of the rows may have been in the tables before: another
    writer put them in, or they were scored and removed from the inbox."""


def watermark_at(home: Workspace, inbox_version: int, model: ModelIdentity, backfilled: datetime | None) -> Watermark | None:
    """The watermark of a run that looked at this version of the inbox; None where the log no longer has its commit."""
    stamp = commit_stamp(home, "inbox", inbox_version)
    since = None if backfilled is None else backfilled.isoformat()
    return None if stamp is None else Watermark(inbox_version, stamp, -1, model.line_key, model.digest, since)


def find_arrivals(home: Workspace, inbox_version: int, model: ModelIdentity) -> Arrivals | None:
    """What came to the inbox after the watermark, up to a version; None where the whole tables have to be read."""
    recorded = read_watermark(home, model)
    if recorded is None:
        return None
    try:
        columns = ["id", "text", "received_at"]
        new = appended_rows(home, "inbox", columns, after=recorded.inbox, upto=inbox_version, stamp=recorded.stamp)
        # looked at even where nothing came: somebody may have removed predictions, to have them made again
        columns = ["id", "text_hash", "scored_at", *MODEL_COLUMNS]
        asked = columns if len(new.rows) else []
        done = appended_rows(home, "predictions", asked, after=recorded.since).rows
    except UnknownChangesError as why:
        _log.info("the whole tables are read to find what is due: %s", why)
        return None
    if not asked:
        done = SCHEMAS["predictions"].empty_table().select(columns)
    return Arrivals(recorded, new.rows, done.filter(predicted_in_line(model)) if new.new_ids else None)


def read_watermark(home: Workspace, model: ModelIdentity) -> Watermark | None:
    """The newest that was recorded by a champion of the model's registry; None where there is none yet."""
    with delta_errors(home, "predictions"):
        handle = open_table(home, "predictions")
        if handle is None:
            return None
        for after in (int(handle.version()) - _LATEST_COMMITS, -1):
            commits = commits_after(handle, after)
            recorded = (
                _parse(commit["scored_through"]) for commit in commits if COMMIT_ID in commit and "scored_through" in commit
            )
            if found := next((mark for mark in recorded if mark is not None and mark.line == model.line_key), None):
                return found
            if after < 0:
                break
    return None


def others_watermarks(home: Workspace, model: ModelIdentity, since: datetime) -> list[Watermark]:
    """The newest of each other registry that scored into the same tables since then."""
    with delta_errors(home, "predictions"):
        handle = open_table(home, "predictions")
        commits = commits_after(handle, -1) if handle is not None else []
    found: dict[str, Watermark] = {}
    for commit in commits:  # the newest first
        recorded = _parse(commit["scored_through"]) if COMMIT_ID in commit and "scored_through" in commit else None
        if recorded is not None and commit.get("timestamp", 0) >= since.timestamp() * 1000:
            found.setdefault(recorded.line, recorded)
    return [mark for line, mark in found.items() if line != model.line_key]


def _parse(text: str) -> Watermark | None:
    """The watermark; None for one of a later release that says more or something else."""
    try:
        return Watermark(**json.loads(text))
    except (TypeError, ValueError):
        return None
