"""What was decided on every version, as the ledger tells it, and whether the ledger can be believed."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finsent.errors import InputError, Refused
from finsent.home import Home
from finsent.registry import ledger, ledger_copy
from finsent.registry.witness import require_agreement
from finsent.steps.context import Context


@dataclass(frozen=True)
class Recorded:
    """One entry of the ledger, for a reader."""

    seq: int | None
    at: str
    """UTC."""
    action: str
    version: str | None
    decision: str | None
    champion_before: str | None
    champion_after: str | None
    """None where there is none, or where the entry does not say."""
    who: str | None
    why: str | None
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class History:
    """Entries about one registered model, oldest first."""

    entries: tuple[Recorded, ...]
    of: int
    """Entries about the model, or the version asked for, whether listed or not."""
    whole: bool
    """Whether the ledger's chain verifies."""
    problem: str | None
    """Where it does not."""


@dataclass(frozen=True)
class Verified:
    """A ledger that is what it was."""

    entries: int
    head: str
    """Hash of the last entry: note it elsewhere, and a cut end shows against it."""
    copied: int
    """Entries that the copy in MLflow holds."""


def history(context: Context, version: str | None = None, limit: int | None = None) -> History:
    """The last `limit` entries about the model, or about one version of it. Reads only.

    Raises:
        Refused: a line of the ledger is no entry at all.
    """
    name, path = context.registry.name, context.workspace.ledger
    problem = None
    try:
        ledger.verify(path)
    except Refused as error:
        problem = str(error)
    known = [entry for entry in ledger.read(path) if entry.get("model") == name]
    chosen = [
        entry for entry in known if version is None or version in {entry.get("version"), entry.get("from"), entry.get("to")}
    ]
    shown = chosen[-limit:] if limit is not None else chosen
    return History(tuple(_recorded(entry) for entry in shown), len(chosen), problem is None, problem)


def _recorded(entry: dict[str, Any]) -> Recorded:
    action, version, before = str(entry.get("action")), entry.get("version"), entry.get("champion")
    decided = entry.get("decision") == "promote"
    # a gate's approval to wait is not a promotion: `gate` says under which rules it decided
    moves = decided and (action in {"approve", "rollback"} or entry.get("gate", {}).get("approval") == "automatic")
    return Recorded(
        seq=entry.get("seq"),
        at=str(entry.get("at")),
        action=action,
        version=version,
        decision=entry.get("decision"),
        champion_before=before,
        champion_after=version if moves else before,
        who=entry.get("who"),
        why=entry.get("why"),
        reasons=tuple(entry.get("reasons", ())),
    )


def verify_ledger(context: Context) -> Verified:
    """Follow the chain, and hold the ledger against the registry and against its copy in MLflow.

    Raises:
        Refused: names the line that was edited, moved, deleted or cut off.
        ServiceError: MLflow does not answer, so that the ledger has only its own word.
    """
    path, client = context.workspace.ledger, context.registry.client
    head = ledger.verify(path)
    require_agreement(context.config, client, path)
    return Verified(head.length, head.hash, ledger_copy.require_extension(context.config, client, path))


def export_ledger(home: Home, file: Path) -> ledger.Head:
    """Copy the ledger, as it is, to a file that is not there yet; returns where it ends.

    Raises:
        InputError: there is no ledger, or the file exists.
        Refused: the ledger's chain is broken.
    """
    if not home.ledger.is_file():
        raise InputError(f"there is no ledger at {str(home.ledger)!r} yet: nothing was evaluated or decided in this home.")
    if file.exists():
        raise InputError(f"{str(file)!r} exists. Name a new file: a copy is not to replace an older one unseen.")
    ledger.verify(home.ledger, allow_unfinished=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(home.ledger, file)
    return ledger.verify(file, allow_unfinished=True)
