"""What the retraining policy needs to know of registry, audit log and the table `tweets`."""

import logging
from datetime import UTC, datetime
from typing import Final

from finsent.data import tables
from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

TRAINING_DIGEST: Final = "training_digest"
"""Version tag: digest of the settings and data that the version was trained with."""
TRAINED_BY: Final = "trained_by"
"""Version tag: the outermost flow that trained it."""
FINISH_ATTEMPTS: Final = "finish_attempts"
"""Version tag: how often a retraining went on with this version instead of training; absent before the first time."""
MAX_FINISH_ATTEMPTS: Final = 3
"""A version that cannot be evaluated even so is left undecided, and retraining goes on with a new one."""
_DECISIONS = {audit_log.GATE, audit_log.APPROVE, audit_log.REJECT, audit_log.APPROVAL_VOID, audit_log.ROLLBACK}


def new_labels(registry: Registry, workspace: Workspace) -> int:
    """Rows of `tweets` that the latest training did not have; all of them if nobody knows what was trained on.

    Since the latest training and not the champion's: a challenger that was refused has seen them, and training on them again
    would give it again.
    """
    import pyarrow.compute as pc

    newest = registry.find_latest(trained_here=True)
    since, current = data_version_tag(newest.tags) if newest else None, tables.version(workspace, "tweets")
    if current is None or since == current:
        return 0
    now = tables.read(workspace, "tweets", columns=["id"])["id"]
    if since is None or since > current:
        return len(now)
    before = tables.read(workspace, "tweets", version=since, columns=["id"])["id"]
    return len(now) - int(pc.sum(pc.is_in(now, value_set=before)).as_py() or 0)


def hours_since_training(registry: Registry) -> float | None:
    """Hours since the newest version that was trained here was registered; None before the first."""
    newest = registry.find_latest(trained_here=True)
    if newest is None:
        return None
    return max(0.0, (datetime.now(UTC).timestamp() - float(newest.creation_timestamp) / 1000) / 3600)


def data_version_tag(tags: dict[str, str]) -> int | None:
    """Version of `tweets` that a model version was trained on; None for an imported adapter."""
    noted = tags.get("data_version", "")
    return int(noted) if noted.isdecimal() else None


def undecided_version(registry: Registry, workspace: Workspace, digest: str, *, retraining_is_due: bool) -> str | None:
    """The newest version where a retraining trained it and no decision on it is in the audit log: that retraining died before.

    It is worth finishing if settings and data are still the same (`digest`), or if nothing calls for a newer training; and not
    after `MAX_FINISH_ATTEMPTS` that brought no decision, for the version may be one that cannot be evaluated.
    """
    newest = registry.find_latest()
    if newest is None or newest.tags.get(TRAINED_BY) != "retrain":  # none yet, imported, or somebody's experiment
        return None
    if newest.tags.get(TRAINING_DIGEST) != digest and retraining_is_due:
        return None
    version = str(newest.version)
    for entry in audit_log.read(workspace.audit_log):
        if entry.get("model") == registry.name and entry.get("version") == version and entry.get("action") in _DECISIONS:
            return None
    if finish_attempts(newest.tags) >= MAX_FINISH_ATTEMPTS:
        _log.warning(
            "version %s of %s is still undecided after %d attempts and is left so; to try once more: finsent evaluate %s",
            version,
            registry.name,
            MAX_FINISH_ATTEMPTS,
            version,
        )
        return None
    return version


def finish_attempts(tags: dict[str, str]) -> int:
    """How often a retraining went on with a version instead of training, by the version's tags."""
    noted = tags.get(FINISH_ATTEMPTS, "")
    return int(noted) if noted.isdecimal() else 0
