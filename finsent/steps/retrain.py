"""Before a retraining: whether it is due, and whether an earlier one left a version without a decision."""

from finsent.monitoring.retrain_inputs import hours_since_training, new_labels, undecided_version
from finsent.monitoring.retrain_policy import RetrainDecision, decide_retrain
from finsent.steps.context import Context


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
        InputError: there is no data yet.
    """
    from finsent.data.dataset import data_version
    from finsent.training.run_dir import settings_digest

    digest = settings_digest(context.config, data_version(context.workspace).fingerprint)
    return undecided_version(context.registry, context.workspace, digest, retraining_is_due=retraining_is_due)
