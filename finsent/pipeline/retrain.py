"""Whether to retrain now: what the registry and the table `tweets` know, handed to the pure decision."""

from collections.abc import Sequence
from datetime import UTC, datetime

from finsent.data import tables
from finsent.home import Home
from finsent.monitoring.decision import RetrainDecision, decide_retrain
from finsent.steps.context import Context


def retrain_decision(context: Context, *, drifted: Sequence[bool] = (), scheduled: bool = False) -> RetrainDecision:
    """Retrain or skip, with reasons. `drifted` are the champion's scored batches, oldest first; `scheduled`: the calendar asks.

    New labels are counted since the latest training, not since the champion's: a challenger that was refused has seen
    them, and training on them again would give it again.
    """
    newest = context.registry.find_latest()
    trained_on = data_version_tag(newest.tags) if newest else None
    return decide_retrain(
        drifted=drifted,
        new_labels=_new_rows(context.workspace, trained_on),
        hours_since_training=_hours_since(newest.creation_timestamp) if newest else None,
        rules=context.config.monitor,
        scheduled=scheduled,
    )


def data_version_tag(tags: dict[str, str]) -> int | None:
    """Version of `tweets` that a model version was trained on; None for an adapter that was imported."""
    noted = tags.get("data_version", "")
    return int(noted) if noted.isdecimal() else None


def _new_rows(home: Home, since: int | None) -> int:
    """Rows of `tweets` that are not in its version `since`; all of them if nobody knows what was trained on."""
    import pyarrow.compute as pc

    current = tables.version(home, "tweets")
    if current is None or since == current:
        return 0
    now = tables.read(home, "tweets", columns=["id"])["id"]
    if since is None or since > current:
        return len(now)
    before = tables.read(home, "tweets", version=since, columns=["id"])["id"]
    return len(now) - int(pc.sum(pc.is_in(now, value_set=before)).as_py() or 0)


def _hours_since(milliseconds: int) -> float:
    return max(0.0, (datetime.now(UTC).timestamp() - milliseconds / 1000) / 3600)
