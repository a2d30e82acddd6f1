"""What the retraining policy needs to know of registry, audit log and the table `tweets`."""

from datetime import UTC, datetime

from finsent.data import tables
from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.workspace import Workspace

TRAINING_DIGEST = "training_digest"
"""Version tag: digest of the settings and data that the version was trained with."""
_DECISIONS = {audit_log.GATE, audit_log.APPROVE, audit_log.REJECT, audit_log.APPROVAL_VOID, audit_log.ROLLBACK}


def new_labels(registry: Registry, workspace: Workspace) -> int:
    """Rows of `tweets` that the latest training did not have; all of them if nobody knows what was trained on.

    Since the latest training and not the champion's: a challenger that was refused has seen them, and training on them again
    would give it again.
    """
    import pyarrow.compute as pc

    newest = registry.find_latest()
    since, current = data_version_tag(newest.tags) if newest else None, tables.version(workspace, "tweets")
    if current is None or since == current:
        return 0
    now = tables.read(workspace, "tweets", columns=["id"])["id"]
    if since is None or since > current:
        return len(now)
    before = tables.read(workspace, "tweets", version=since, columns=["id"])["id"]
    return len(now) - int(pc.sum(pc.is_in(now, value_set=before)).as_py() or 0)


def hours_since_training(registry: Registry) -> float | None:
    """Hours since the newest version was registered; None before the first."""
    newest = registry.find_latest()
    if newest is None:
        return None
    return max(0.0, (datetime.now(UTC).timestamp() - float(newest.creation_timestamp) / 1000) / 3600)


def data_version_tag(tags: dict[str, str]) -> int | None:
    """Version of `tweets` that a model version was trained on; None for an imported adapter."""
    noted = tags.get("data_version", "")
    return int(noted) if noted.isdecimal() else None


def undecided_version(registry: Registry, workspace: Workspace, digest: str, *, retraining_is_due: bool) -> str | None:
    """The newest version where it was trained here and no decision on it is in the audit log: its retraining died before.

    It is worth going on with if settings and data are still the same (`digest`), or if nothing calls for a newer training.
    """
    newest = registry.find_latest()
    if newest is None or TRAINING_DIGEST not in newest.tags:  # none yet, or imported
        return None
    if newest.tags[TRAINING_DIGEST] != digest and retraining_is_due:
        return None
    version = str(newest.version)
    for entry in audit_log.read(workspace.audit_log):
        if entry.get("model") == registry.name and entry.get("version") == version and entry.get("action") in _DECISIONS:
            return None
    return version
