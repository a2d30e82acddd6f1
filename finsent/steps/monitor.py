"""The monitoring step: drift of the champion's latest batches, and whether a retraining is due or an earlier one unfinished."""

from dataclasses import dataclass
from typing import Literal

from finsent.data import tables
from finsent.data.dataset import data_version
from finsent.monitoring.batch_drift import Window, batch_drift
from finsent.monitoring.retrain_inputs import (
    finish_attempts,
    hours_since_training,
    new_labels,
    trained_data_version,
    undecided_version,
)
from finsent.monitoring.retrain_policy import RetrainDecision, decide_retrain
from finsent.registry.champion import current_champion, require_champion
from finsent.steps.context import Context
from finsent.training.run_dir import settings_digest


@dataclass(frozen=True)
class BatchDrift:
    """The champion's latest batches, each compared with its references."""

    model_version: str
    windows: tuple[Window, ...]
    """Oldest first; at most `monitor.windows`."""


@dataclass(frozen=True)
class MonitorReport:
    """Drift of the latest batches and the decision."""

    model_version: str
    windows: tuple[Window, ...]
    drift: dict[str, float]
    """Population stability index by feature of the latest batch."""
    decision: Literal["retrain", "skip"]
    reasons: tuple[str, ...]


def monitor(context: Context) -> MonitorReport:
    """Look for drift and decide whether to retrain. Writes nothing.

    Raises:
        NoChampionError: no version was promoted yet.
        CheckFailed: the alias is not where the audit log's decisions put it.
    """
    return decide(context, compare_batches(context))


def compare_batches(context: Context) -> BatchDrift:
    """Compare the champion's latest batches with the rows that it was trained on and with its first batch.

    Raises:
        NoChampionError: no version was promoted yet.
        CheckFailed: the alias is not where the audit log's decisions put it.
    """
    version = require_champion(context.registry)
    trained_on = trained_data_version(context.workspace, context.registry.get_version(version).tags)
    windows = batch_drift(context.workspace, context.registry.identity(version), trained_on, context.config.monitor)
    return BatchDrift(version, windows)


def decide(context: Context, found: BatchDrift) -> MonitorReport:
    """Apply the retraining policy to the drift that was found."""
    decision = decide_retrain(
        drifted=[window.drifted for window in found.windows],
        new_labels=new_labels(context.registry, context.workspace),
        hours_since_training=hours_since_training(context.registry),
        rules=context.config.monitor,
    )
    drift = dict(found.windows[-1].psi) if found.windows else {}
    return MonitorReport(found.model_version, found.windows, drift, decision.decision, decision.reasons)


def check_due(context: Context) -> RetrainDecision:
    """Whether a scheduled retraining has anything new to train on, and why or why not."""
    return decide_retrain(
        drifted=(),
        new_labels=new_labels(context.registry, context.workspace),
        hours_since_training=hours_since_training(context.registry),
        rules=context.config.monitor,
        scheduled=True,
    )


def find_undecided(context: Context, *, retraining_is_due: bool) -> str | None:
    """Version of an earlier retraining that died between registration and decision; None if there is none to go on with.

    Raises:
        CheckFailed: the alias is not where the audit log's decisions put it: whatever is trained now would be refused.
    """
    current_champion(context.registry)
    if tables.version(context.workspace, "tweets") is None:
        return None
    digest = settings_digest(context.config, data_version(context.workspace).fingerprint)
    return undecided_version(context.registry, context.workspace, digest, retraining_is_due=retraining_is_due)


def count_attempt(context: Context, version: str) -> None:
    """Note at the version that a retraining goes on with it; before it is evaluated, since that may kill the process."""
    attempts = finish_attempts(context.registry.get_version(version).tags) + 1
    context.registry.set_tags(version, {"finish_attempts": attempts})
