"""The retraining policy: a pure function of what was observed, so that every decision can be replayed and explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import takewhile
from typing import Final, Literal

from finsent.config import MonitorConfig


@dataclass(frozen=True)
class RetrainDecision:
    """Whether to retrain, and the reasons as sentences."""

    decision: Literal["retrain", "skip"]
    reasons: tuple[str, ...]


def decide_retrain(
    *,
    drifted: Sequence[bool],
    new_labels: int,
    hours_since_training: float | None,
    rules: MonitorConfig,
    scheduled: bool = False,
) -> RetrainDecision:
    """Retrain when a trigger fires and nothing blocks it.

    Triggers: `drifted_windows` of the latest `windows` batches drifted, `min_new_labels` rows new, corrected or dropped, or
    `scheduled`. Blocks, whatever the trigger: no such row (the same rows give the same model), and the cooldown.

    Args:
        drifted: the scored batches, oldest first.
        new_labels: labelled rows that are new, corrected or dropped since the latest training.
        hours_since_training: None if nothing was ever trained.
        rules: thresholds.
        scheduled: a schedule asks for a retraining.
    """
    latest = tuple(drifted)[-rules.windows :]
    enough_drift = sum(latest) >= rules.drifted_windows
    enough_labels = new_labels >= rules.min_new_labels
    drift = f"{sum(latest)} of the latest {len(latest)} batches drifted ({rules.drifted_windows} call for retraining)."
    labels = f"{new_labels:,} rows newly labelled, corrected or dropped ({rules.min_new_labels:,} call for retraining)."

    if new_labels <= 0:
        found = [drift] if enough_drift else []
        same = "No new labelled data since the latest training, none corrected or dropped: it would give the same model."
        return RetrainDecision("skip", (same, *found))
    triggers = [reason for fired, reason in ((enough_drift, drift), (enough_labels, labels)) if fired]
    if scheduled:
        triggers.append("The schedule asks for a retraining.")
    if not triggers:
        return RetrainDecision("skip", (drift, labels))
    if hours_since_training is not None and not hours_since_training >= rules.cooldown_hours:
        wait = f"Cooling down: trained {hours_since_training:.1f} h ago, not again before {rules.cooldown_hours:g} h are over."
        return RetrainDecision("skip", (wait, *triggers))
    return RetrainDecision("retrain", tuple(triggers))


FIRST_PAUSE: Final = timedelta(hours=1)
"""Before a retraining that failed is tried again; doubled with each attempt."""
MAX_ATTEMPTS: Final = 5
"""The first one included."""
NO_SLOT: Final = "Deployment concurrency limit reached."
"""The message of Prefect at a run that it cancelled since another of its deployment was at work."""


@dataclass(frozen=True)
class RetrainAttempt:
    """One run of the retraining on its schedule or by an event, and what became of it."""

    outcome: Literal["completed", "failed", "cancelled", "unfinished"]
    """Failed also where its process died; cancelled by a person, and nobody starts it again."""
    ended: datetime
    """Of an unfinished one, its start."""


def second_try(attempts: Sequence[RetrainAttempt], now: datetime) -> RetrainDecision:
    """Whether a retraining that failed is tried again now: after 1, 2, 4 and 8 hours, then not before another has completed.

    Args:
        attempts: newest first.
        now: aware of its time zone, as the attempts are.
    """
    if any(attempt.outcome == "unfinished" for attempt in attempts):
        return RetrainDecision("skip", ("A retraining is at work.",))
    failed = list(takewhile(lambda attempt: attempt.outcome == "failed", attempts))
    if not failed:
        return RetrainDecision("skip", ("The latest retraining did not fail.",))
    times = f"The retraining failed {len(failed)} times in a row, the last time at {failed[0].ended:%Y-%m-%d %H:%M} UTC"
    if len(failed) >= MAX_ATTEMPTS:
        return RetrainDecision("skip", (f"{times}, and is not tried again by itself: mend the cause, then `finsent retrain`.",))
    again = failed[0].ended + FIRST_PAUSE * 2 ** (len(failed) - 1)
    if now < again:
        return RetrainDecision("skip", (f"{times}. It is tried again from {again:%Y-%m-%d %H:%M} UTC on.",))
    return RetrainDecision("retrain", (f"{times}. It is tried again now, as attempt {len(failed) + 1} of {MAX_ATTEMPTS}.",))
