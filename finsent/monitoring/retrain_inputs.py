"""What the retraining policy needs to know of registry, audit log and the table `tweets`."""

import logging
from datetime import UTC, datetime
from typing import Final

from finsent.data import tables
from finsent.data.dataset import fingerprint_table
from finsent.data.table_access import UnreadableVersionError
from finsent.errors import one_line
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
    """Rows of `tweets` that are new, corrected or dropped since the latest training; all if what that had cannot be told.

    Since the latest training and not the champion's: a challenger that was refused has seen them, and training on them again
    would give it again.
    """
    newest = registry.find_latest(trained_here=True)
    since, current = trained_data_version(workspace, newest.tags) if newest else None, tables.version(workspace, "tweets")
    if current is None or since == current:
        return 0
    now = tables.read(workspace, "tweets", columns=["id", "label"])
    if since is None:
        return len(now)
    try:
        before = tables.read(workspace, "tweets", version=since, columns=["id", "label"])
    except UnreadableVersionError as error:
        _log.warning("every row counts as new since the latest training: %s", one_line(error))
        return len(now)
    labelled = now.join(before, ["id", "label"], join_type="left anti", use_threads=False)
    dropped = before.join(now, "id", join_type="left anti", use_threads=False)
    return len(labelled) + len(dropped)


def hours_since_training(registry: Registry) -> float | None:
    """Hours since the newest version that was trained here was registered; None before the first.

    None as well if that lies more than an hour ahead, which is more than clocks of two machines differ by: a clock was wrong, and
    nothing would be trained until it is reached.
    """
    newest = registry.find_latest(trained_here=True)
    if newest is None:
        return None
    hours = (datetime.now(UTC).timestamp() - float(newest.creation_timestamp) / 1000) / 3600
    if hours < -1:
        _log.warning(
            "version %s of %s was registered %.1f h in the future by this machine's clock, which was wrong then or is now: "
            "the cooldown is left out",
            newest.version,
            registry.name,
            -hours,
        )
        return None
    return max(0.0, hours)


def trained_data_version(workspace: Workspace, tags: dict[str, str]) -> int | None:
    """Version of `tweets` that a model version was trained on; None for an imported adapter, or if it is other data here.

    A table that was begun anew counts its versions from 0 again: the fingerprint tells. Where it cannot be computed, since the
    version can no longer be read, nothing could be compared with that version either: None.
    """
    noted, fingerprint = tags.get("data_version", ""), tags.get("data_fingerprint")
    current = tables.version(workspace, "tweets")
    if not noted.isdecimal() or current is None or int(noted) > current:
        return None
    version = int(noted)
    commits = tables.commit_history(workspace, "tweets", version=version)
    recorded = next((str(commit["fingerprint"]) for commit in commits if "fingerprint" in commit), None)
    try:  # computed only where somebody else has committed, or the table is another
        same = fingerprint in {None, recorded} or fingerprint == fingerprint_table(workspace, version)
    except UnreadableVersionError as error:
        _log.warning("the data of the training counts as unknown: %s", one_line(error))
        return None
    return version if same else None


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
        ours = entry.get("model") == registry.name and entry.get("version") == version
        # an entry of a registry before this one may be about another version of that number
        same = entry.get("manifest_sha256") in {None, newest.tags.get("manifest_sha256")}
        if ours and same and entry.get("action") in _DECISIONS:
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
