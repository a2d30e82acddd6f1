"""Aliases and stages: who is `champion`, `challenger` and `previous`, changed by one process at a time and crash-safe.

Stages of a version: none, candidate (it beats every baseline), challenger (it passed the gate and awaits approval),
champion, previous (the version that the champion replaced), archived.

A promotion is one write: the alias `champion`, which the registry holds on exactly one version. Before it, the new
version is tagged with the version that it `replaces`. `reconcile_aliases` derives everything else from those two, and every
operation here runs it first. So a process killed between any two writes leaves the old champion or the new one, and the
next operation finishes what is left.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import takewhile
from typing import TYPE_CHECKING, Final, Literal, TypeVar

from finsent.errors import CheckFailed, NoChampionError
from finsent.files import locked
from finsent.registry import audit_log
from finsent.registry.audit_log import ROLLBACK
from finsent.registry.champion import PRODUCTION, ChampionState, champion_state
from finsent.registry.client import CHALLENGER, CHAMPION, PREVIOUS, Registry, VersionTag
from finsent.registry.tracking import filter_literal

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

Stage = Literal["none", "candidate", "challenger", "champion", "previous", "archived"]
NONE: Final = "None"
CANDIDATE: Final = "Candidate"
STAGING: Final = "Staging"
ARCHIVED: Final = "Archived"
NOT_CANDIDATE: Final = "not_candidate"
"""Tag with the reason why an evaluated version is no candidate."""
_REPLACES: Final = "replaces"
_ROLLBACK: Final = "rollback_in_progress"
_LOCK_SECONDS: Final = 60.0

T = TypeVar("T")


@contextmanager
def _exclusive(registry: Registry) -> Iterator[tuple["MlflowClient", str]]:
    """Client and model name, under the workspace's registry lock, after earlier operations were finished."""
    client, path = registry.client, registry.workspace.lock("registry")
    message = f"another process has been changing the registry for a minute (lock {str(path)!r}). Try again."
    with locked(path, _LOCK_SECONDS, message):
        reconcile_aliases(registry)
        yield client, registry.name


class DecidedMeanwhile(CheckFailed):
    """Another decision came first, and stands."""


@contextmanager
def while_undecided(
    registry: Registry, version: str, *, champion: str | None, awaits_approval: bool, refusal: bool
) -> Iterator[None]:
    """Hold the registry's lock while a decision on the version is recorded: what it rests on is looked at again under it.

    A process may have been frozen since it looked. An entry about what is not so any more would take the champion away.

    Raises:
        DecidedMeanwhile: the champion is not `champion` any more (a gate's refusal minds only whether it is the version
            itself), or the version does not await approval any more.
    """
    with _exclusive(registry) as (_, name):
        known = registry.aliases()
        now = known.get(CHAMPION)
        if now == version if refusal and not awaits_approval else now != champion:
            problem = f"the champion of {name!r} is {_named(now)} now, and was {_named(champion)}"
        elif awaits_approval and known.get(CHALLENGER) != version:
            problem = f"version {version!r} of {name!r} does not wait for approval any more"
        else:
            yield
            return
    raise DecidedMeanwhile(f"{problem}: somebody else decided meanwhile, which stands. See `finsent history`, then decide anew.")


@contextmanager
def while_unchanged(registry: Registry, look: Callable[[Registry], T], seen: T) -> Iterator[None]:
    """Hold the registry's lock while a person's decision is recorded that rests on what `look` returned before.

    Raises:
        DecidedMeanwhile: it returns something else now.
    """
    with _exclusive(registry) as (_, name):
        if (now := look(registry)) == seen:
            yield
            return
    raise DecidedMeanwhile(
        f"what decides who is champion of {name!r} changed meanwhile: {seen} before, {now} now. See `finsent history`, then "
        "decide anew."
    )


def stage_of(version: str, carried: Mapping[str, str], tags: Mapping[str, str]) -> Stage:
    """Stage of a version, by the model's aliases (alias to version) and the version's own tags.

    Aliases take precedence: a process that was killed may have left the tag behind, never the alias.
    """
    for alias, stage in ((CHAMPION, "champion"), (CHALLENGER, "challenger"), (PREVIOUS, "previous")):
        if carried.get(alias) == version:
            return stage  # type: ignore[return-value]
    tagged = tags.get("stage", NONE)
    if tagged == CANDIDATE:
        return "candidate"
    return "none" if tagged == NONE else "archived"


def set_candidate(registry: Registry, version: str, reasons: Sequence[str]) -> Stage:
    """Make an evaluated version a candidate, or, where there are `reasons` against it, tag it with those.

    Champion, challenger and previous keep their stage. An archived version becomes a candidate again if it does well, unless
    it was rejected or rolled back: only a person undoes that.

    Raises:
        InputError: there is no such version.
    """
    with _exclusive(registry) as (client, name):
        tags = registry.get_version(version).tags
        known = registry.aliases()
        stage = stage_of(version, known, tags)
        if reasons:
            registry.set_tags(version, {NOT_CANDIDATE: " ".join(reasons)[:5000]})
        elif NOT_CANDIDATE in tags:
            client.delete_model_version_tag(name, version, NOT_CANDIDATE)
        wanted = NONE if reasons else CANDIDATE
        blocked = manual_block_reason(registry, registry.get_version(version)) is not None
        free = stage in {"none", "candidate"} or (stage == "archived" and not reasons and not blocked)
        if free and tags.get("stage") != wanted:
            registry.set_tags(version, {"stage": wanted})
        return stage_of(version, known, {"stage": wanted} if free else tags)


def set_challenger(registry: Registry, version: str, requested_at: datetime | None = None) -> None:
    """Let the version await approval, requested at that time; a challenger that waited before is archived.

    Raises:
        InputError: there is no such version.
        CheckFailed: the version is the champion, or was rejected or rolled back meanwhile.
    """
    with _exclusive(registry) as (client, name):
        if blocked := manual_block_reason(registry, registry.get_version(version)):
            raise CheckFailed(f"version {version!r} of {name!r} was {blocked} meanwhile.")
        if registry.champion() == version:
            raise CheckFailed(f"version {version!r} of {name!r} is the champion and cannot be its own challenger.")
        if requested_at is not None:  # before the alias: whatever waits has a time since when it does
            at = requested_at.isoformat(timespec="seconds")
            registry.set_tags(version, {"approval": "pending", "approval_requested_at": at})
        client.set_registered_model_alias(name, CHALLENGER, version)
        reconcile_aliases(registry)


def set_champion(
    registry: Registry, version: str, expected: str | None, *, approval: Mapping[VersionTag, str] | None = None
) -> None:
    """Compare and set: make the version champion if the champion is still `expected` (None: there is none).

    With `approval`, its tags, it must still be the challenger, too. Idempotent: run again after a crash it finishes; where
    the version is the champion already it changes nothing.

    Raises:
        InputError: there is no such version.
        CheckFailed: meanwhile another version became champion or was decided to, or this one was refused, rejected, rolled back
            or awaits no approval.
    """
    with _exclusive(registry) as (client, name):
        record, known = registry.get_version(version), registry.aliases()
        current = known.get(CHAMPION)
        if current == version:
            return
        if blocked := manual_block_reason(registry, record):
            raise CheckFailed(f"version {version!r} of {name!r} was {blocked} meanwhile.")
        if approval and known.get(CHALLENGER) != version:
            raise CheckFailed(f"version {version!r} of {name!r} does not wait for approval any more.")
        if current != expected:
            raise CheckFailed(
                f"the champion of {name!r} is {_named(current)}, and the evidence for version {version!r} met "
                f"{_named(expected)}. Evaluate the version again, then promote."
            )
        _require_decided(registry, version)
        _finish_rollback(registry, current)
        registry.set_tags(version, {_REPLACES: current or "", **(approval or {})})
        client.set_registered_model_alias(name, CHAMPION, version)
        reconcile_aliases(registry)


def _require_decided(registry: Registry, version: str) -> None:
    """Refuse a version that no decision in force makes champion: after it was recorded, its page took time, and others decided.

    Of several that competed for the place of one champion, whichever moves the alias first has won.
    """
    entries = audit_log.read(registry.workspace.audit_log, registry.name)
    moves = list(audit_log.champion_moves(entries))
    latest = takewhile(lambda move: move.get("champion") == moves[0].get("champion"), moves)
    competing = [audit_log.champion_after(move) for move in latest]
    if entries and version not in competing:
        raise CheckFailed(
            f"by the decisions in the audit log the champion of {registry.name!r} is {_named(next(iter(competing), None))} and "
            f"not {version!r}: somebody else decided meanwhile, which stands. See `finsent history`, then decide anew."
        )


def restore_champion(registry: Registry, version: str) -> None:
    """Give the alias back to the version that the audit log's decisions made champion, after it was moved or deleted by hand.

    Raises:
        InputError: there is no such version.
    """
    with _exclusive(registry) as (client, name):
        registry.get_version(version)
        client.set_registered_model_alias(name, CHAMPION, version)
        reconcile_aliases(registry)


def manual_block_reason(registry: Registry, record: "ModelVersion") -> Literal["rolled back", "rejected"] | None:
    """How a person took the version out; None if nobody did."""
    begun = _rollback_in_progress(registry)
    # a rollback that was killed before it tagged the version counts as done once its alias has moved
    if begun and begun[0] == str(record.version) and registry.champion() == begun[1]:
        return "rolled back"
    if record.tags.get("rolled_back") == "true":
        return "rolled back"
    return "rejected" if record.tags.get("approval") == "rejected" else None


def archive_challenger(
    registry: Registry,
    version: str,
    stage: Literal["Candidate", "Archived"] = ARCHIVED,
    tags: Mapping[VersionTag, str] | None = None,
) -> None:
    """Archive a version, or make it a candidate again, and tag it; as challenger it no longer awaits approval.

    Raises:
        InputError: there is no such version.
        CheckFailed: the version is the champion.
    """
    with _exclusive(registry) as (client, name):
        registry.get_version(version)
        known = registry.aliases()
        if known.get(CHAMPION) == version:
            raise CheckFailed(f"version {version!r} of {name!r} is the champion. Use `finsent rollback` to replace it.")
        # the tag first: while the alias is there, the next operation takes the tag back and can do all of it again
        registry.set_tags(version, {**(tags or {}), "stage": stage})
        if known.get(CHALLENGER) == version:
            client.delete_registered_model_alias(name, CHALLENGER)


def rollback(registry: Registry, planned: tuple[str, str] | None = None) -> tuple[str, str]:
    """Give the alias back to the version that the champion replaced; returns (from, to).

    With `planned`, the result of `plan_rollback`, only if that still holds. `previous` then points one further back, so that a
    second rollback goes on rather than returning. A rollback that was killed half-way is finished, not repeated.

    Raises:
        NoChampionError: nothing to roll back.
        CheckFailed: the alias was moved by hand, the champion replaced no version, that one is deleted, or the champion changed
            since it was planned.
    """
    with _exclusive(registry) as (client, name):
        current, target = find_rollback(registry)
        if planned is not None and planned != (current, target):
            raise CheckFailed(f"the champion of {name!r} changed meanwhile: {planned[0]} before, {current} now. Decide again.")
        client.set_registered_model_tag(name, _ROLLBACK, f"{current} {target}")
        client.set_registered_model_alias(name, CHAMPION, target)
        reconcile_aliases(registry)
        _finish_rollback(registry, target)
        return current, target


def plan_rollback(registry: Registry) -> tuple[str, str]:
    """What `rollback` would do, as (from, to); raises as it would."""
    with _exclusive(registry):
        return find_rollback(registry)


def find_rollback(registry: Registry) -> tuple[str, str]:
    """The same without the lock, which the caller holds."""
    known, state = registry.aliases(), champion_state(registry)
    current = state.alias
    if state.problem is not None and state.entry is not None:
        current = _deleted_champion(registry, state)
        if current is None:
            raise CheckFailed(state.problem)
    if current is None:
        raise NoChampionError(f"{registry.name!r} has no champion to roll back from.")
    begun = _rollback_in_progress(registry)
    if begun and current in begun:
        return begun
    target = known.get(PREVIOUS)
    if target in {None, current}:
        raise CheckFailed(
            f"champion {current!r} of {registry.name!r} replaced no version that is still there: nothing to roll back to."
        )
    return current, target


def _deleted_champion(registry: Registry, state: ChampionState) -> str | None:
    """The champion by the audit log, where it was deleted and its alias with it; also while a rollback from it is recorded."""
    entry = state.entry or {}
    if state.alias is not None:
        return None
    if entry.get("action") == ROLLBACK and registry.find_version(entry.get("from")) is None:
        return entry.get("from")
    return state.recorded if state.lost else None


def _rollback_in_progress(registry: Registry) -> tuple[str, str] | None:
    """(from, to) of a rollback that was begun and not finished."""
    begun = registry.client.get_registered_model(registry.name).tags.get(_ROLLBACK, "").split()
    return (begun[0], begun[1]) if len(begun) == 2 else None


def _finish_rollback(registry: Registry, champion: str | None) -> None:
    """Tag the version that was rolled back from, if the alias has moved and the tag is missing."""
    begun = _rollback_in_progress(registry)
    if begun and champion == begun[1]:
        if registry.find_version(begun[0]) is not None:  # rolled back from since it was deleted
            registry.set_tags(begun[0], {"rolled_back": "true"})
        registry.client.delete_registered_model_tag(registry.name, _ROLLBACK)


def reconcile_aliases(registry: Registry) -> None:
    """Bring `previous`, `challenger` and the stage tags in line with the champion. Idempotent.

    Nothing follows an alias that was moved or deleted by hand: the tags go on saying who the champion was.
    """
    client, name, known = registry.client, registry.name, registry.aliases()
    state = champion_state(registry)
    if state.problem is not None and state.entry is not None:
        return
    champion, challenger = known.get(CHAMPION), known.get(CHALLENGER)
    if champion is not None:
        _follow(registry, champion, known)
    wanted = {champion: PRODUCTION} if challenger in {None, champion} else {champion: PRODUCTION, challenger: STAGING}
    for stage in (PRODUCTION, STAGING):
        for version in client.search_model_versions(f"name={filter_literal(name)} and tags.stage='{stage}'"):
            if wanted.get(str(version.version)) is None:
                _archive(registry, version)
    for number, stage in wanted.items():
        if number is not None and client.get_model_version(name, number).tags.get("stage") != stage:
            registry.set_tags(number, {"stage": stage})


def _follow(registry: Registry, champion: str, known: Mapping[str, str]) -> None:
    """Point `previous` to the version that the champion replaced; the champion waits no more."""
    client, name, previous = registry.client, registry.name, _replaced_by(registry, champion)
    if previous is not None and known.get(PREVIOUS) != previous:
        client.set_registered_model_alias(name, PREVIOUS, previous)
    if previous is None and PREVIOUS in known:
        client.delete_registered_model_alias(name, PREVIOUS)
    if known.get(CHALLENGER) == champion:
        client.delete_registered_model_alias(name, CHALLENGER)


def _archive(registry: Registry, version: "ModelVersion") -> None:
    if version.tags.get("approval") == "pending":  # another waits in its place
        registry.set_tags(str(version.version), {"approval": "void"})
    registry.set_tags(str(version.version), {"stage": ARCHIVED})


def _replaced_by(registry: Registry, champion: str) -> str | None:
    version = registry.client.get_model_version(registry.name, champion).tags.get(_REPLACES)
    return str(version) if version and registry.find_version(version) else None  # None: deleted since


def _named(version: str | None) -> str:
    return "none" if version is None else repr(version)
