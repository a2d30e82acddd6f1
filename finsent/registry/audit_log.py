"""Audit log: hash-chained, append-only JSON lines with every evaluation and promotion decision; appending, verifying, listing.

Each line holds the hash of the line before: editing, deleting or reordering lines breaks the chain there. Cutting lines off
the end leaves a valid, shorter chain, which only somebody who knows the head notices: `verify` returns it, and
`audit_mirror` keeps it in MLflow.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal

from finsent.errors import CheckFailed, InputError, one_line, quoted
from finsent.files import atomic_write, locked, sync

EVALUATE: Final = "evaluate"
"""Action of an entry: evidence was taken on the test split."""
TEST_SET_USE: Final = "test_set_use"
"""Test rows were scored without leaving evidence."""
GATE: Final = "gate"
"""The gate decided on a version."""
APPROVE: Final = "approve"
REJECT: Final = "reject"
APPROVAL_VOID: Final = "approval_void"
"""An approval came too late, or the evidence did not hold any more."""
ROLLBACK: Final = "rollback"
ADOPT: Final = "adopt"
"""A person took over what the alias `champion` says, though no decision had put it there."""

EntryKey = Literal[
    "action", "champion", "data_fingerprint", "data_version", "decision", "evidence_sha256", "from", "gate", "gate_decision",
    "manifest_sha256", "model", "reasons", "rules", "rules_sha256", "test_fingerprint", "to", "version", "who", "why",
]  # fmt: skip
"""Keys of an entry, beside those that `append` adds. Written entries cannot change: renaming a key needs a migration."""

GENESIS = "0" * 64
"""What the first entry holds as the hash of the one before."""
LOCK_SECONDS = 30.0
_OWN_KEYS = ("seq", "at", "previous_hash", "hash", "dropped_bytes", "clock_back_seconds")
_REQUIRED: Final = {"seq": (int,), "at": (str,), "previous_hash": (str,), "hash": (str,)}
_TEXTS: Final = ("action", "model", "version", "decision", "champion", "from", "to", "manifest_sha256", "who", "why")
_TYPES: Final[dict[str, tuple[type, ...]]] = {
    **_REQUIRED, **dict.fromkeys(_TEXTS, (str, NoneType)), "reasons": (list,), "rules": (list,), "gate": (dict,),
    "clock_back_seconds": (int, float),
}  # fmt: skip
"""What is read from entries without a second look."""
_ADVICE = "Compare with a copy kept elsewhere or with the mirror in MLflow, restore it, and find out who wrote to the file."


@dataclass(frozen=True)
class Head:
    """Where an audit log ends."""

    hash: str
    """Hash of the last entry; `GENESIS` of an empty log."""
    length: int
    """Entries."""


@dataclass(frozen=True)
class AuditEntry:
    """One entry as people read it."""

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
    clock_back_seconds: float
    """How far the clock had been set back since the entry before, whatever that was about; 0 if it had not."""


@dataclass(frozen=True)
class History:
    """Entries about one registered model, oldest first."""

    entries: tuple[AuditEntry, ...]
    of: int
    """Entries about the model, or the version asked for, whether listed or not."""
    whole: bool
    """Whether the chain verifies, and the file holds every entry that MLflow knows of."""
    problem: str | None
    """What is wrong where it is not."""


def append(path: Path, entry: Mapping[EntryKey, Any]) -> dict[str, Any]:
    """Write `entry` with `seq`, `at`, `previous_hash` and `hash` added, and return it once it is synced to disk.

    A last line without its end is left by a power cut during a write that was never confirmed. It is cut off, and the new
    entry records that in `dropped_bytes`. A clock that was set back since the entry before is recorded in `clock_back_seconds`.

    Raises:
        InputError: the entry uses one of those names, or is not plain JSON (NaN is not).
        CheckFailed: the last line is not an entry of this log, or another process holds the lock.
    """
    with _locked(path):
        return _append_locked(path, entry)


def append_once(path: Path, entry: Mapping[EntryKey, Any], completed: str | None) -> dict[str, Any]:
    """As `append`; but where the last entry about the entry's model says the same, that one is returned and nothing written.

    Not if that one's hash is `completed`: then this is another one.
    """
    with _locked(path):  # looked up under the lock: of two processes with the same decision one writes it
        last = next(iter(read(path, entry["model"])[-1:]), None)
        if last is not None and last["hash"] != completed and _says_the_same(last, entry):
            return last
        return _append_locked(path, entry)


def _locked(path: Path) -> AbstractContextManager[None]:
    message = f"audit log {str(path)!r} is locked by another process for {LOCK_SECONDS:.0f} s. Try again later."
    return locked(_lock_of(path), LOCK_SECONDS, message)


def _lock_of(path: Path) -> Path:
    return Path(f"{path}.lock")


def was_begun(path: Path) -> bool:
    """Whether an entry was ever written here: the file is there, or its lock, which stays when the file is deleted."""
    return path.exists() or _lock_of(path).exists()


def read(path: Path, model: str | None = None, version: str | None = None) -> list[dict[str, Any]]:
    """Entries in order, each verified by itself, the chain not; with `model` and `version` only those about them.

    Raises:
        CheckFailed: a line is not an entry, or was changed after it was written.
    """
    entries = [_verified_entry(line, number, path) for number, line in enumerate(_split(path)[0], start=1)]
    return [e for e in entries if model in {None, e.get("model")} and version in {None, e.get("version")}]


def _says_the_same(written: Mapping[str, Any], entry: Mapping[Any, Any]) -> bool:
    """Whether a written entry holds what `entry` does, beside what `append` adds."""
    try:
        wanted = _canonical(entry)
    except (TypeError, ValueError):  # `append` says what is wrong with it
        return False
    return wanted == _canonical({key: value for key, value in written.items() if key not in _OWN_KEYS})


def champion_moves(entries: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Entries that decided who is champion, out of those about one model, newest first; `champion_after` is who.

    A promotion that was refused in the end decided nothing: another came first, or it was cut short before the alias moved, and
    a person rejected the version, or its approval expired.
    """
    refused = set()
    for entry in reversed(entries):
        if entry.get("action") in {GATE, REJECT, APPROVAL_VOID, ROLLBACK} and entry.get("decision") == "refuse":
            refused.add(entry.get("version"))
        elif moves_champion(entry) and entry.get("version") not in refused:
            refused.clear()
            yield entry


def moves_champion(entry: Mapping[str, Any]) -> bool:
    """Whether the decision makes a version champion: one that passed the gate may wait for approval.

    `gate` holds the rules under which it decided.
    """
    automatic = entry.get("gate", {}).get("approval") == "automatic"
    return entry.get("decision") == "promote" and (entry.get("action") in {APPROVE, ROLLBACK, ADOPT} or automatic)


def champion_after(entry: Mapping[str, Any]) -> str | None:
    """Champion after an entry that `moves_champion`; None where a person took over that there is none."""
    return entry["to"] if "to" in entry else entry.get("version")


def clock_set_back(entries: Sequence[Mapping[str, Any]]) -> list[float]:
    """For each of consecutive entries the seconds that the clock had gone back since the one before; 0 where it had not."""
    times = [datetime.fromisoformat(entry["at"]) for entry in entries]
    return [0.0, *(max((before - at).total_seconds(), 0.0) for before, at in pairwise(times))][: len(times)]


def verify(path: Path, *, allow_unfinished: bool = False) -> Head:
    """Follow the chain from its start to its head; with `allow_unfinished` a cut-off last line is left to the next `append`.

    Raises:
        CheckFailed: names the first line that was changed, inserted, moved, left unfinished, or whose predecessor is gone.
    """
    entries, unfinished = verified_entries(path), _split(path)[1]
    if unfinished and not allow_unfinished:
        problem = f"{len(unfinished)} bytes without a line end, an unfinished write; the next decision removes and records them"
        raise CheckFailed(f"audit log {str(path)!r}, line {len(entries) + 1}: {problem}.")
    return Head(entries[-1]["hash"] if entries else GENESIS, len(entries))


def verified_entries(path: Path) -> tuple[dict[str, Any], ...]:
    """All entries in order, chain followed; to be read only, since they are shared. A cut-off last line is left out.

    Raises:
        CheckFailed: as of `verify`.
    """
    return _follow_chain(tuple(_split(path)[0]), path)


@lru_cache(maxsize=2)
def _follow_chain(lines: tuple[bytes, ...], path: Path) -> tuple[dict[str, Any], ...]:  # a promotion asks some ten times
    entries: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        entry, before = _verified_entry(line, number, path), entries[-1]["hash"] if entries else GENESIS
        if entry["previous_hash"] != before or entry["seq"] != len(entries):
            problem = f"the entry does not follow the one before it (seq {entry['seq']!r}, expected {len(entries)})"
            raise CheckFailed(
                f"audit log {str(path)!r}, line {number}: {problem}: lines were deleted, inserted or moved. {_ADVICE}"
            )
        entries.append(entry)
    return tuple(entries)


def history(path: Path, model: str, version: str | None = None, limit: int | None = None) -> History:
    """The last `limit` entries about the model, or about one version of it (rollbacks from it and to it included). Read-only.

    Raises:
        CheckFailed: a line is not an entry at all.
    """
    problem = None
    try:
        verify(path)
    except CheckFailed as error:
        problem = str(error)
    # what was changed is shown, too
    entries = [_entry(line, number, path) for number, line in enumerate(_split(path)[0], start=1)]
    about = [(e, back) for e, back in zip(entries, clock_set_back(entries), strict=True) if e.get("model") == model]
    chosen = [(e, back) for e, back in about if version is None or version in {e.get("version"), e.get("from"), e.get("to")}]
    shown = chosen[-limit:] if limit is not None else chosen
    return History(tuple(audit_entry(entry, back) for entry, back in shown), len(chosen), problem is None, problem)


def export_audit_log(path: Path, file: Path) -> Head:
    """Copy the audit log, as it is, to a file that is not there yet; returns where it ends.

    Raises:
        InputError: there is no audit log, or the file exists.
        CheckFailed: the chain is broken.
    """
    if not path.is_file():
        raise InputError(f"there is no audit log at {str(path)!r} yet: nothing was evaluated or decided in this home.")
    if file.exists():
        raise InputError(f"{str(file)!r} exists. Name a new file, so that no older copy is overwritten.")
    verify(path, allow_unfinished=True)
    atomic_write(file, path.read_bytes())
    return verify(file, allow_unfinished=True)


def audit_entry(entry: Mapping[str, Any], clock_back_seconds: float = 0) -> AuditEntry:
    """A line of the file as people read it."""
    action, version, before = str(entry.get("action")), entry.get("version"), entry.get("champion")
    return AuditEntry(
        seq=entry.get("seq"),
        at=str(entry.get("at")),
        action=action,
        version=version,
        decision=entry.get("decision"),
        champion_before=before,
        champion_after=champion_after(entry) if moves_champion(entry) else before,
        who=entry.get("who"),
        why=entry.get("why"),
        reasons=tuple(entry.get("reasons", ())),
        clock_back_seconds=clock_back_seconds,
    )


def _append_locked(path: Path, entry: Mapping[EntryKey, Any]) -> dict[str, Any]:
    taken = [key for key in _OWN_KEYS if key in entry]
    if taken:
        raise InputError(f"audit log entry has keys {taken!r}, which the audit log sets itself. Rename them.")
    lines, unfinished = _split(path)
    previous, now, back = GENESIS, datetime.now(UTC), 0.0
    if lines:
        last = _verified_entry(lines[-1], len(lines), path)
        if last["seq"] != len(lines) - 1:
            raise CheckFailed(f"audit log {str(path)!r}, line {len(lines)}: not the entry that belongs there. {_ADVICE}")
        previous, back = last["hash"], (datetime.fromisoformat(last["at"]) - now).total_seconds()
    at = now.isoformat(timespec="microseconds")
    unsigned: dict[Any, Any] = {**entry, "seq": len(lines), "at": at, "previous_hash": previous}
    if back > 0:
        unsigned["clock_back_seconds"] = back
    if unfinished:
        unsigned["dropped_bytes"] = len(unfinished)
    try:
        unsigned = json.loads(_canonical(unsigned))  # tuples and number keys as they will be read back
    except (TypeError, ValueError) as error:
        raise InputError(
            f"audit log entry is not plain JSON: {one_line(error)}. Give strings, finite numbers, lists and mappings."
        ) from error
    written: dict[str, Any] = {**unsigned, "hash": _digest(unsigned)}
    if (key := _wrong_field(written)) is not None:  # it could never be read again
        raise InputError(f"audit log entry has {key!r} {quoted(written.get(key))}, which is of another type than it must be.")
    with path.open("ab") as file:
        if unfinished:
            file.truncate(file.tell() - len(unfinished))
        file.write(_canonical(written) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    sync(path.parent)
    return written


def _split(path: Path) -> tuple[list[bytes], bytes]:
    """Finished lines, and what follows the last of them."""
    if path.exists() and not path.is_file():
        raise CheckFailed(f"audit log {str(path)!r} is no file. Move it away, and restore the audit log from a copy.")
    *lines, unfinished = (path.read_bytes() if path.is_file() else b"").split(b"\n")
    return lines, unfinished


def _entry(line: bytes, number: int, path: Path) -> dict[str, Any]:
    """A line as an entry whose fields have their types; whether it was changed, `_verified_entry` finds out."""
    place = f"audit log {str(path)!r}, line {number}"
    try:
        entry = json.loads(line)
        _canonical({"entry": entry})  # NaN and 1e999 parse and are not JSON
    except (ValueError, RecursionError) as error:
        raise CheckFailed(f"{place}: not JSON ({one_line(error)}). {_ADVICE}") from error
    if not isinstance(entry, dict):
        raise CheckFailed(f"{place}: {type(entry).__name__} where an entry belongs. {_ADVICE}")
    if (key := _wrong_field(entry)) is not None:
        found = quoted(entry[key]) if key in entry else "missing"
        raise CheckFailed(f"{place}: {key!r} is {found}, which finsent never writes: the line was changed. {_ADVICE}")
    return entry


def _wrong_field(entry: Mapping[str, Any]) -> str | None:
    for key, types in _TYPES.items():
        if (key in entry or key in _REQUIRED) and not isinstance(entry.get(key), types):
            return key
    if not all(isinstance(reason, str) for reason in entry.get("reasons", ())):
        return "reasons"
    try:
        return None if datetime.fromisoformat(entry["at"]).utcoffset() is not None else "at"
    except ValueError:
        return "at"


def _verified_entry(line: bytes, number: int, path: Path) -> dict[str, Any]:
    entry = _entry(line, number, path)
    unsigned = {key: value for key, value in entry.items() if key != "hash"}
    # the line itself must be canonical too: a second key of the same name would vanish in parsing
    if entry["hash"] != _digest(unsigned) or line != _canonical(entry):
        raise CheckFailed(f"audit log {str(path)!r}, line {number}: the entry was changed after it was written. {_ADVICE}")
    return entry


def _canonical(entry: Mapping[str, Any]) -> bytes:
    return json.dumps(entry, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def _digest(unsigned: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(unsigned)).hexdigest()
