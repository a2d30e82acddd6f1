"""The retraining policy: a pure function of what was observed, so that every decision can be replayed and explained."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
