"""Append-only record of every promotion decision: JSON lines, each holding the hash of the one before.

Editing, deleting or reordering a line breaks the chain at that line. Cutting lines off the end leaves a sound, shorter
chain: only someone who knows the head sees it, so `verify` returns the head for callers to keep and compare.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from finsent.errors import InputError, Refused
from finsent.home import Home
from finsent.registry import audit_mirror
from finsent.registry.audit_mirror import verify_against_registry
from finsent.steps.context import Context

GENESIS = "0" * 64
"""What the first entry holds as the hash of the one before."""
LOCK_SECONDS = 30.0
_OWN_KEYS = ("seq", "at", "previous_hash", "hash", "dropped_bytes")
_ADVICE = "Compare with a copy kept elsewhere, and find out who wrote to the file."


@dataclass(frozen=True)
class Head:
    """Where a ledger ends."""

    hash: str
    """Hash of the last entry; `GENESIS` of an empty ledger."""
    length: int
    """Entries."""


def append(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    """Write `entry` with `seq`, `at`, `previous_hash` and `hash` added, and return it once it is on the disk.

    A last line without its end is what a power cut leaves of a write that nobody was told of. It is cut off, and the new
    entry says so in `dropped_bytes`.

    Raises:
        InputError: the entry uses one of those names, or is not plain JSON (NaN is not).
        Refused: the last line is not an entry of this ledger, or another process holds the lock.
    """
    taken = [key for key in _OWN_KEYS if key in entry]
    if taken:
        raise InputError(f"ledger entry has keys {taken!r}, which the ledger sets itself. Rename them.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
            return _append_locked(path, entry)
    except Timeout as error:
        raise Refused(f"ledger {str(path)!r} is locked by another process for {LOCK_SECONDS:.0f} s. Try again later.") from error


def read(path: Path) -> list[dict[str, Any]]:
    """All entries in order, unverified; none if there is no ledger yet.

    Raises:
        Refused: a line is not a JSON object.
    """
    return [_entry(line, number, path) for number, line in enumerate(_split(path)[0], start=1)]


def verify(path: Path, *, allow_unfinished: bool = False) -> Head:
    """Follow the chain from its start to its head; with `allow_unfinished` a cut-off last line is left to the next `append`.

    Raises:
        Refused: names the first line that was changed, inserted, moved, left unfinished, or whose predecessor is gone.
    """
    lines, unfinished = _split(path)
    head = Head(GENESIS, 0)
    for number, line in enumerate(lines, start=1):
        entry = _entry(line, number, path)
        unsigned = {key: value for key, value in entry.items() if key != "hash"}
        # the line itself must be canonical too: a second key of the same name would vanish in parsing
        if entry.get("hash") != _digest(unsigned) or line != _canonical(entry):
            raise Refused(f"ledger {str(path)!r}, line {number}: the entry was changed after it was written. {_ADVICE}")
        if entry.get("previous_hash") != head.hash or entry.get("seq") != head.length:
            problem = f"the entry does not follow the one before it (seq {entry.get('seq')!r}, expected {head.length})"
            raise Refused(f"ledger {str(path)!r}, line {number}: {problem}: lines were deleted, inserted or moved. {_ADVICE}")
        head = Head(entry["hash"], head.length + 1)
    if unfinished and not allow_unfinished:
        problem = f"{len(unfinished)} bytes without a line end, an unfinished write; the next decision removes and records them"
        raise Refused(f"ledger {str(path)!r}, line {len(lines) + 1}: {problem}.")
    return head


def _append_locked(path: Path, entry: Mapping[str, Any]) -> dict[str, Any]:
    lines, unfinished = _split(path)
    previous = GENESIS
    if lines:
        last = _entry(lines[-1], len(lines), path)
        if last.get("seq") != len(lines) - 1 or not isinstance(last.get("hash"), str):
            raise Refused(f"ledger {str(path)!r}, line {len(lines)}: not the entry that belongs there. {_ADVICE}")
        previous = last["hash"]
    at = datetime.now(UTC).isoformat(timespec="microseconds")
    unsigned = {**entry, "seq": len(lines), "at": at, "previous_hash": previous}
    if unfinished:
        unsigned["dropped_bytes"] = len(unfinished)
    try:
        unsigned = json.loads(_canonical(unsigned))  # tuples and number keys as they will be read back
    except (TypeError, ValueError) as error:
        raise InputError(f"ledger entry is not plain JSON: {error}. Give strings, finite numbers, lists and mappings.") from error
    written: dict[str, Any] = {**unsigned, "hash": _digest(unsigned)}
    with path.open("ab") as file:
        if unfinished:
            file.truncate(file.tell() - len(unfinished))
        file.write(_canonical(written) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)
    return written


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Finished lines, and what follows the last of them."""
    *lines, unfinished = (path.read_bytes() if path.is_file() else b"").split(b"\n")
    return lines, unfinished


def _entry(line: bytes, number: int, path: Path) -> dict[str, Any]:
    try:
        entry = json.loads(line)
        _canonical({"entry": entry})  # NaN and 1e999 parse and are not JSON
    except ValueError as error:
        raise Refused(f"ledger {str(path)!r}, line {number}: not JSON ({error}). {_ADVICE}") from error
    if not isinstance(entry, dict):
        raise Refused(f"ledger {str(path)!r}, line {number}: {type(entry).__name__} where an entry belongs. {_ADVICE}")
    return entry


def _canonical(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _digest(unsigned: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(unsigned)).hexdigest()


def _sync_folder(folder: Path) -> None:
    """The new file's name must survive a power cut as well as its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# merged from finsent.registry.audit_log: What was decided on every version, as the ledger tells it, and whether the ledger can be believed.


@dataclass(frozen=True)
class AuditEntry:
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

    entries: tuple[AuditEntry, ...]
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
        verify(path)
    except Refused as error:
        problem = str(error)
    known = [entry for entry in read(path) if entry.get("model") == name]
    chosen = [
        entry for entry in known if version is None or version in {entry.get("version"), entry.get("from"), entry.get("to")}
    ]
    shown = chosen[-limit:] if limit is not None else chosen
    return History(tuple(_recorded(entry) for entry in shown), len(chosen), problem is None, problem)


def _recorded(entry: dict[str, Any]) -> AuditEntry:
    action, version, before = str(entry.get("action")), entry.get("version"), entry.get("champion")
    decided = entry.get("decision") == "promote"
    # a gate's approval to wait is not a promotion: `gate` says under which rules it decided
    moves = decided and (action in {"approve", "rollback"} or entry.get("gate", {}).get("approval") == "automatic")
    return AuditEntry(
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
    head = verify(path)
    verify_against_registry(context.config, client, path)
    return Verified(head.length, head.hash, audit_mirror.verify_mirror(context.config, client, path))


def export_audit_log(home: Home, file: Path) -> Head:
    """Copy the ledger, as it is, to a file that is not there yet; returns where it ends.

    Raises:
        InputError: there is no ledger, or the file exists.
        Refused: the ledger's chain is broken.
    """
    if not home.ledger.is_file():
        raise InputError(f"there is no ledger at {str(home.ledger)!r} yet: nothing was evaluated or decided in this home.")
    if file.exists():
        raise InputError(f"{str(file)!r} exists. Name a new file: a copy is not to replace an older one unseen.")
    verify(home.ledger, allow_unfinished=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(home.ledger, file)
    return verify(file, allow_unfinished=True)
