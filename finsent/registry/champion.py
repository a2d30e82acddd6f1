"""The champion, verified: the version that the alias names, held against the decisions in the audit log.

Whoever may write to MLflow can move or delete the alias, and deleting a version deletes its alias. So whatever acts with the
champion (scoring, monitoring, exporting, evaluating against it, promoting over it) asks here, and an alias that no decision
put where it is stops it; so does an audit log that is damaged, or older than MLflow's records of it. A workspace that has no
audit log of its own for the model reads the mirror in MLflow.

Decisions are recorded before the alias moves. Until it has, the champion before the decision is right, too: that one alone, by
the log, since the tags that say whether it has moved can be edited in MLflow.
"""

from dataclasses import dataclass
from typing import Any, Final

from finsent.errors import CheckFailed, NoChampionError
from finsent.registry import audit_log
from finsent.registry.audit_log import champion_after, champion_moves
from finsent.registry.audit_mirror import decided_entries, find_run
from finsent.registry.client import Registry
from finsent.registry.mlflow_errors import public_uri
from finsent.registry.tracking import filter_literal

PRODUCTION: Final = "Production"
"""Stage that a version gets after the alias: the decision on it has been carried out."""
_ADOPT: Final = "To let it stand as your decision: `finsent adopt --why ...`."


@dataclass(frozen=True)
class ChampionState:
    """The alias, the audit log, and whether they agree."""

    alias: str | None
    """Version that the alias names."""
    recorded: str | None
    """Version that the latest decision in the audit log makes champion; None: there is none, or no decision yet."""
    entry: dict[str, Any] | None
    """That decision."""
    lost: bool
    """Whether the recorded version was deleted, or another one has its number now."""
    problem: str | None
    """What disagrees and what to do; None where nothing does."""


def require_champion(registry: Registry) -> str:
    """Version that scores tweets.

    Raises:
        NoChampionError: no version was promoted yet.
        CheckFailed: the alias is not where the audit log's decisions put it.
    """
    version = current_champion(registry)
    if version is None:
        raise NoChampionError(f"{registry.name!r} has no champion yet: run `finsent promote`, after train and evaluate.")
    return version


def current_champion(registry: Registry) -> str | None:
    """Version that scores tweets, or None before the first promotion.

    Raises:
        CheckFailed: the alias is not where the audit log's decisions put it.
    """
    state = champion_state(registry)
    if state.problem is not None:
        raise CheckFailed(state.problem)
    return state.alias


def champion_state(registry: Registry) -> ChampionState:
    """Compare the alias `champion` with the audit log's decisions. Reads only.

    Raises:
        CheckFailed: the audit log, or its mirror, is damaged, or lacks an entry that MLflow knows of.
        ServiceError: MLflow does not answer.
    """
    alias, allowed = registry.champion(), _allowed(registry)
    entry = next(iter(allowed.values()), None)
    recorded = champion_after(entry) if entry else None
    lost = recorded is not None and not is_there(registry, entry)
    if entry is None:
        problem = None if alias is None else _never_decided(registry, alias)
    elif alias not in allowed:
        if registry.champion() != alias:  # promoted since it was read
            return champion_state(registry)
        problem = _moved_by_hand(registry, alias, entry, lost=lost)
    elif alias is not None and not is_there(registry, allowed[alias]):
        problem = _replaced(registry, alias, allowed[alias] or entry)
    else:
        problem = None
    return ChampionState(alias, recorded, entry, lost, problem)


def _allowed(registry: Registry) -> dict[str | None, dict[str, Any] | None]:
    """Where the alias may be, by the decision that put it there; the newest decision's champion first. Empty without any."""
    entries = decided_entries(registry)
    moves = list(champion_moves(entries))
    if not moves:
        return {}
    before, found = moves[0].get("champion"), dict[str | None, dict[str, Any] | None]()
    for move in moves:
        if move.get("champion") != before:
            break
        found.setdefault(champion_after(move), move)  # the newest, or one that it competes with: only one can win
        if _carried_out(registry, move, entries):
            return found
    found.setdefault(before, next((move for move in moves if champion_after(move) == before), None))
    return found


def _carried_out(registry: Registry, move: dict[str, Any], entries: list[dict[str, Any]]) -> bool:
    """Whether the alias has been where the decision put it.

    A later entry met its version as champion, the version was tagged so, or it is lost since.
    """
    after = champion_after(move)
    if any(entry["seq"] > move["seq"] and entry.get("champion") == after for entry in entries):
        return True
    record = registry.find_version(after)
    return record is None or record.tags.get("stage") == PRODUCTION or not is_there(registry, move)


def is_there(registry: Registry, entry: dict[str, Any] | None) -> bool:
    """Whether the registry has the very version that the decision is about.

    A number can be given twice, when a registered model is deleted and made anew; an artifact's digest cannot.
    """
    record = registry.find_version(champion_after(entry)) if entry else None
    decided = entry.get("manifest_sha256") if entry else None
    return record is not None and decided in {None, record.tags.get("manifest_sha256")}


def _other_name(registry: Registry, entry: dict[str, Any]) -> str | None:
    """Another registered model that has the version which the decision is about, under the same number."""
    decided = f"tags.manifest_sha256 = {filter_literal(str(entry.get('manifest_sha256')))}"
    found = registry.client.search_model_versions(decided)
    return next((str(v.name) for v in found if v.name != registry.name and str(v.version) == champion_after(entry)), None)


def _never_decided(registry: Registry, alias: str) -> str:
    digest = registry.get_version(alias).tags.get("manifest_sha256")
    for move in champion_moves(audit_log.read(registry.workspace.audit_log)):
        if digest and move.get("manifest_sha256") == digest and move.get("model") != registry.name:
            return (
                f"the alias 'champion' of {registry.name!r} is on version {alias}, which the audit log's entry {move['seq']} "
                f"decided on as a version of {move.get('model')!r}: if the registered model was renamed in MLflow, rename it "
                f"back. {_ADOPT}"
            )
    return (
        f"the alias 'champion' of {registry.name!r} is on version {alias}, and neither the audit log "
        f"{str(registry.workspace.audit_log)!r} nor its mirror in MLflow has a decision that put it there: it was set by hand. "
        f"To undo that, delete the alias in MLflow, then `finsent promote`. {_ADOPT}"
    )


def _moved_by_hand(registry: Registry, alias: str | None, entry: dict[str, Any], *, lost: bool) -> str:
    name, recorded = registry.name, champion_after(entry)
    by = f"the audit log's entry {entry['seq']} ({entry['action']}, {entry['at'][:16]} UTC)"
    put_back = f"To put it back: `finsent promote --version {recorded}`."
    if alias is None and lost:
        if renamed := _other_name(registry, entry):
            return (
                f"version {recorded} of {name!r}, champion by {by}, is version {recorded} of {renamed!r} now: the registered "
                f"model was renamed in MLflow. Rename it back to {name!r} there: decisions are recorded under that name."
            )
        if find_run(registry) is None:
            return (
                f"version {recorded} of {name!r} is champion by {by}, and MLflow at "
                f"{public_uri(registry.workspace.tracking_uri)!r} has neither it nor its copy of the audit log: "
                "that store is empty or new. Restore it from a backup. To begin without a champion: `finsent adopt --why ...`."
            )
        return (
            f"version {recorded} of {name!r}, champion by {by}, was deleted in MLflow, and the alias 'champion' with it. To "
            "bring the version before it back: `finsent rollback --why ...`. To go on without a champion, so that the "
            "gate compares the next version with none: `finsent adopt --why ...`."
        )
    if alias is None:
        return f"the alias 'champion' of {name!r} is gone from version {recorded}, champion by {by}. {put_back}"
    if recorded is None:
        return f"the alias 'champion' of {name!r} is on version {alias}, and by {by} there is no champion: set by hand. {_ADOPT}"
    back = f"Version {recorded} was deleted in MLflow." if lost else put_back
    return (
        f"the alias 'champion' of {name!r} is on version {alias}, and by {by} version {recorded} is the champion: it was moved "
        f"by hand. {back} {_ADOPT}"
    )


def _replaced(registry: Registry, alias: str, entry: dict[str, Any]) -> str:
    return (
        f"version {alias} of {registry.name!r} is another one than the audit log's entry {entry['seq']} made champion: the "
        f"decision was about the manifest {str(entry.get('manifest_sha256'))[:12]!r}. The registered model was deleted and made "
        f"anew, or the tag 'manifest_sha256' was changed. To undo that, delete the alias in MLflow. {_ADOPT}"
    )
