"""Who scores tweets: the aliases `challenger`, `champion`, `previous` and the tag `stage`, changed by one process at a time.

A version's life: none, candidate (it beats every floor), challenger (it passed the gate and waits), champion, previous
(the one that the champion replaced), archived.

A promotion is one write, the alias `champion`, which the registry holds on exactly one version. Before it, the new
version is tagged with the version that it `replaces`; after it, everything else is derived from those two by `settle`,
which every operation here runs first. So a process killed between any two writes leaves the old champion or the new
one, and whatever runs next finishes what is left.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Literal

from finsent.errors import NoChampionError, Refused
from finsent.registry.client import CHALLENGER, CHAMPION, PREVIOUS, Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Stage = Literal["none", "candidate", "challenger", "champion", "previous", "archived"]
NONE: Final = "None"
CANDIDATE: Final = "Candidate"
STAGING: Final = "Staging"
PRODUCTION: Final = "Production"
ARCHIVED: Final = "Archived"
NOT_CANDIDATE: Final = "not_candidate"
"""Tag that says why an evaluated version is no candidate."""
_REPLACES: Final = "replaces"
_ROLLBACK: Final = "rollback_under_way"
_LOCK_SECONDS: Final = 60.0


@contextmanager
def _alone(registry: Registry) -> Iterator["MlflowClient"]:
    """The registry's client, while no other process of this workspace changes aliases, with earlier operations finished."""
    from filelock import FileLock, Timeout

    client = registry.client
    path = registry.workspace.lock("registry")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=_LOCK_SECONDS):
            reconcile_aliases(registry)
            yield client
    except Timeout as error:
        raise Refused(f"another process has been changing the registry for a minute (lock {str(path)!r}). Try again.") from error


def stage_of(version: str, carried: Mapping[str, str], tags: Mapping[str, str]) -> Stage:
    """Where a version is in its life, by the model's aliases (alias to version) and the version's own tags.

    Aliases come first: a process that was killed may have left the tag behind, never the alias.
    """
    if carried.get(CHAMPION) == version:
        return "champion"
    if carried.get(CHALLENGER) == version:
        return "challenger"
    if carried.get(PREVIOUS) == version:
        return "previous"
    stage = tags.get("stage", NONE)
    if stage == CANDIDATE:
        return "candidate"
    return "none" if stage == NONE else "archived"


def set_candidate(registry: Registry, version: str, reasons: Sequence[str]) -> Stage:
    """Make an evaluated version a candidate, or, where there are `reasons` against it, say on it why it is none.

    Champion, challenger and previous keep their stage. An archived version that does well becomes a candidate again, unless
    it was rejected or rolled back: that is for people to undo.

    Raises:
        InputError: there is no such version.
    """
    name = registry.name
    with _alone(registry) as client:
        tags = registry.get_version(version).tags
        known = registry.aliases()
        stage = stage_of(version, known, tags)
        if reasons:
            client.set_model_version_tag(name, version, NOT_CANDIDATE, " ".join(reasons)[:5000])
        elif NOT_CANDIDATE in tags:
            client.delete_model_version_tag(name, version, NOT_CANDIDATE)
        wanted = NONE if reasons else CANDIDATE
        barred = tags.get("rolled_back") == "true" or tags.get("approval") == "rejected"
        free = stage in {"none", "candidate"} or (stage == "archived" and not reasons and not barred)
        if free and tags.get("stage") != wanted:
            client.set_model_version_tag(name, version, "stage", wanted)
        return stage_of(version, known, {"stage": wanted} if free else tags)


def set_challenger(registry: Registry, version: str) -> None:
    """Let the version wait for approval; a challenger that waited before is archived.

    Raises:
        InputError: there is no such version.
        Refused: the version is the champion.
    """
    name = registry.name
    with _alone(registry) as client:
        registry.get_version(version)
        if registry.aliases().get(CHAMPION) == version:
            raise Refused(f"version {version!r} of {name!r} is the champion and cannot be its own challenger.")
        client.set_registered_model_alias(name, CHALLENGER, version)
        reconcile_aliases(registry)


def set_champion(registry: Registry, version: str, expected_champion: str | None, *, waiting: bool = False) -> None:
    """Let the version score tweets, provided that the champion is still `expected_champion` (None: there is none).

    With `waiting`, for an approval, it must still be the challenger, too.

    Run again after a crash it finishes; where the version is the champion already it changes nothing.

    Raises:
        InputError: there is no such version.
        Refused: meanwhile another version has become champion, or this one was turned down, rolled back or waits no more.
    """
    name = registry.name
    with _alone(registry) as client:
        record, known = registry.get_version(version), registry.aliases()
        current = known.get(CHAMPION)
        if current == version:
            return
        if turned_down := manual_block_reason(registry, record):
            raise Refused(f"version {version!r} of {name!r} was {turned_down} meanwhile.")
        if waiting and known.get(CHALLENGER) != version:
            raise Refused(f"version {version!r} of {name!r} does not wait for approval any more.")
        if current != expected_champion:
            raise Refused(
                f"the champion of {name!r} is {_named(current)}, and the evidence for version {version!r} met "
                f"{_named(expected_champion)}. Evaluate the version again, then promote."
            )
        _finish_rollback(registry, current)
        client.set_model_version_tag(name, version, _REPLACES, current or "")
        client.set_registered_model_alias(name, CHAMPION, version)
        reconcile_aliases(registry)


def manual_block_reason(registry: Registry, record: "ModelVersion") -> str | None:
    """How people turned the version down, in words that follow "was"; None if they did not."""
    begun = registry.client.get_registered_model(record.name).tags.get(_ROLLBACK, "").split()
    # a rollback that was killed before it tagged the version counts as done once its alias has moved
    if begun[:1] == [str(record.version)] and registry.aliases().get(CHAMPION) == begun[-1]:
        return "rolled back"
    if record.tags.get("rolled_back") == "true":
        return "rolled back"
    return "rejected" if record.tags.get("approval") == "rejected" else None


def archive_challenger(registry: Registry, version: str, to: Literal["Candidate", "Archived"] = ARCHIVED) -> None:
    """Archive a version, or let it be a candidate again; if it waits as challenger it no longer does.

    Raises:
        InputError: there is no such version.
        Refused: the version is the champion.
    """
    name = registry.name
    with _alone(registry) as client:
        registry.get_version(version)
        known = registry.aliases()
        if known.get(CHAMPION) == version:
            raise Refused(f"version {version!r} of {name!r} is the champion. Use `finsent rollback` to replace it.")
        # the tag first: while the alias is there, the next operation takes the tag back and can do all of it again
        client.set_model_version_tag(name, version, "stage", to)
        if known.get(CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def rollback(registry: Registry, planned: tuple[str, str] | None = None) -> tuple[str, str]:
    """Give the alias back to the version that the champion replaced; returns (from, to).

    With `planned`, what `rollback_plan` said, only if that is still so.

    `previous` then points one further back, so that a second rollback goes on rather than returning. A rollback that
    was killed half-way is finished, not repeated.

    Raises:
        NoChampionError: nothing to roll back.
        Refused: the champion replaced no version, that one is deleted, or the champion changed since it was planned.
    """
    name = registry.name
    with _alone(registry) as client:
        current, target = _rollback_plan(registry)
        if planned is not None and planned != (current, target):
            raise Refused(f"the champion of {name!r} changed meanwhile: {planned[0]} before, {current} now. Decide again.")
        client.set_registered_model_tag(name, _ROLLBACK, f"{current} {target}")
        client.set_registered_model_alias(name, CHAMPION, target)
        reconcile_aliases(registry)
        _finish_rollback(registry, target)
        return current, target


def _finish_rollback(registry: Registry, champion: str | None) -> None:
    """Tag the version that was rolled back from, where the alias has moved and that is left to do."""
    client, name = registry.client, registry.name
    begun = client.get_registered_model(name).tags.get(_ROLLBACK, "").split()
    if len(begun) == 2 and champion == begun[1]:
        client.set_model_version_tag(name, begun[0], "rolled_back", "true")
        client.delete_registered_model_tag(name, _ROLLBACK)


def plan_rollback(registry: Registry) -> tuple[str, str]:
    """What `rollback` would do, as (from, to); raises as it would."""
    with _alone(registry):
        return _rollback_plan(registry)


def _rollback_plan(registry: Registry) -> tuple[str, str]:
    client, name = registry.client, registry.name
    known = registry.aliases()
    current = known.get(CHAMPION)
    if current is None:
        raise NoChampionError(f"{name!r} has no champion to roll back from.")
    begun = client.get_registered_model(name).tags.get(_ROLLBACK, "").split()
    if len(begun) == 2 and current in begun:
        return begun[0], begun[1]
    target = known.get(PREVIOUS)
    if target is None:
        raise Refused(f"champion {current!r} of {name!r} replaced no version that is still there: nothing to roll back to.")
    return current, target


def reconcile_aliases(registry: Registry) -> None:
    """Bring `previous`, `challenger` and the stage tags in line with the champion; changes nothing where they are."""
    client, name = registry.client, registry.name
    known = registry.aliases()
    champion = known.get(CHAMPION)
    if champion is not None:
        previous = _replaced_by(registry, champion)
        if previous is not None and known.get(PREVIOUS) != previous:
            client.set_registered_model_alias(name, PREVIOUS, previous)
        if previous is None and PREVIOUS in known:
            client.delete_registered_model_alias(name, PREVIOUS)
        if known.get(CHALLENGER) == champion:
            client.delete_registered_model_alias(name, CHALLENGER)
    challenger = known.get(CHALLENGER)
    wanted = {champion: PRODUCTION} if challenger in {None, champion} else {champion: PRODUCTION, challenger: STAGING}
    for stage in (PRODUCTION, STAGING):
        for version in client.search_model_versions(f"name='{name}' and tags.stage='{stage}'"):
            if wanted.get(str(version.version)) is None:
                _archive(client, version)
    for number, stage in wanted.items():
        if number is not None and client.get_model_version(name, number).tags.get("stage") != stage:
            client.set_model_version_tag(name, number, "stage", stage)


def _archive(client: "MlflowClient", version: "ModelVersion") -> None:
    if version.tags.get("approval") == "pending":  # another waits in its place
        client.set_model_version_tag(version.name, str(version.version), "approval", "void")
    client.set_model_version_tag(version.name, str(version.version), "stage", ARCHIVED)


def _replaced_by(registry: Registry, champion: str) -> str | None:
    client, name = registry.client, registry.name
    from mlflow.exceptions import MlflowException

    version = client.get_model_version(name, champion).tags.get(_REPLACES)
    if not version:
        return None
    try:
        client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # deleted since
            return None
        raise
    return str(version)


def _named(version: str | None) -> str:
    return "none" if version is None else repr(version)
