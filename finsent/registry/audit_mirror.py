"""Cross-checks the audit log against MLflow: entry hashes in tags of versions, and a mirror of the file on a run of its own.

The log's own chain shows an edited line. It cannot show that lines were cut off its end, that all of it is gone, or that
somebody edited one line and recomputed every hash after it: these two records, kept away from the workspace's disk, can.
Either may lag behind, when a process was killed before it was written; neither ever holds what the log does not.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.errors import CheckFailed, ServiceError, TrackingError
from finsent.files import locked
from finsent.registry import audit_log
from finsent.registry.audit_log import EntryKey
from finsent.registry.client import Registry
from finsent.registry.mlflow_errors import failed_at_mlflow
from finsent.registry.tracking import RunTag, experiment_id, filter_literal, tag_run

if TYPE_CHECKING:
    from mlflow.entities import Run

KIND: Final = "audit_log"
"""Tag `kind` of the run that carries the mirror; its tag `registered_model` names the model."""
FOLDER: Final = "audit_log"
"""Artifact folder of the mirror on that run."""
MIRROR_HEAD: Final = "audit_log_head"
"""Tag of that run: number and hash of the last mirrored entry."""
VERSION_TAG: Final = "audit_log_entry"
"""Tag of a version: number and hash of the newest entry about it."""
_LOCK_SECONDS: Final = 60.0


@dataclass(frozen=True)
class VerifiedLog:
    """An audit log that chain, registry and mirror agree on."""

    entries: int
    head: str
    """Hash of the last entry: with a note of it kept elsewhere, a cut end is noticed."""
    copied: int
    """Entries that the mirror in MLflow holds."""
    clock_set_back: tuple[tuple[int, float], ...]
    """Lines before which the clock was set back, and by how many seconds: their times and those before are not in order."""


def append_entry(
    registry: Registry, version: str, entry: Mapping[EntryKey, Any], *, counts_again: bool = False
) -> dict[str, Any]:
    """Append an entry about the version, update the mirror, tag the version with the entry's hash; returns the entry.

    A process killed on the way leaves a log that is ahead of its records in MLflow, which is valid. Idempotent: where the
    model's last entry says the same, it is that of an attempt that failed later on, and only its records are completed. With
    `counts_again` that holds only while they are incomplete: afterwards the same once more is another entry.

    Raises:
        InputError: MLflow's experiment for the mirror was deleted. Nothing is written then.
        CheckFailed: the chain is broken, or an entry that MLflow knows of is missing. Nothing is written then.
        ServiceError: the mirror could not be updated; the entry is in the log.
    """
    path = registry.workspace.audit_log
    verify_against_registry(registry)
    experiment_id(registry.client, registry.workspace, registry.experiment)  # where the mirror goes: before the record
    record = registry.find_version(version)
    tagged = record.tags.get(VERSION_TAG, "") if record and counts_again else ""
    whole: dict[EntryKey, Any] = {"model": registry.name, "version": version, **entry}
    written = audit_log.append_once(path, whole, tagged.partition(" ")[2] or None)
    update_mirror(registry)
    if record is not None:  # a champion that was deleted can still be rolled back from
        registry.set_tags(version, {VERSION_TAG: f"{written['seq']} {written['hash']}"})
    return written


def verify_audit_log(registry: Registry) -> VerifiedLog:
    """Follow the chain, and compare the audit log with the version tags and the mirror in MLflow.

    Raises:
        CheckFailed: names the line that was edited, moved, deleted or cut off.
        ServiceError: MLflow does not answer, so that the log could only be compared with itself.
    """
    head = audit_log.verify(registry.workspace.audit_log)
    back = audit_log.clock_set_back(verify_against_registry(registry))
    steps = tuple((line, seconds) for line, seconds in enumerate(back, start=1) if seconds)
    return VerifiedLog(head.length, head.hash, verify_mirror(registry), steps)


def verify_against_registry(registry: Registry) -> tuple[dict[str, Any], ...]:
    """The entries of this workspace's audit log, if its chain is whole and it holds every entry that MLflow's tags know of.

    A log that continues after them is valid: a decision is written there first, and a process killed in between leaves no tag;
    other models' decisions may be in it, too.

    Raises:
        CheckFailed: names the line that was changed, cut off or replaced, or says that the log is gone.
    """
    known, path = _known_entries(registry), registry.workspace.audit_log  # in this order: see there
    entries = audit_log.verified_entries(path)
    _require_known(registry, known, entries, f"audit log {str(path)!r}")
    return entries


def decided_entries(registry: Registry) -> list[dict[str, Any]]:
    """The entries about the model that decide who is champion, verified as by `verify_against_registry`.

    A workspace that never had any reads the mirror in MLflow: another one decides there. One whose log was emptied, deleted,
    cut or replaced by an older copy is refused, since MLflow knows more.

    Raises:
        CheckFailed: as of `verify_against_registry`; or the mirror is damaged, or lacks an entry that the tags know of.
        ServiceError: MLflow does not answer.
    """
    known, path = _known_entries(registry), registry.workspace.audit_log
    entries, place = audit_log.verified_entries(path), f"audit log {str(path)!r}"
    if not any(entry.get("model") == registry.name for entry in entries) and (entries or not audit_log.was_begun(path)):
        with tempfile.TemporaryDirectory(prefix="finsent-audit-log-") as scratch:
            mirror = fetch_mirror(registry, Path(scratch))
            mirrored = audit_log.verified_entries(mirror) if mirror else ()
        if mirrored and mirrored[:1] != entries[:1]:  # those of another workspace, and not the start of the same log
            entries, place = mirrored, f"mirror of the audit log, artifact {_artifact(registry)!r}"
    _require_known(registry, known, entries, place)
    return [entry for entry in entries if entry.get("model") == registry.name]


def _known_entries(registry: Registry) -> list[tuple[tuple[int, str], str]]:
    """Number and hash of the entries that tags in MLflow hold, and where each is from.

    To be asked for before the log is read: a decision that falls in between is then in the log, never only in the tags.
    """
    name = registry.name
    known = [
        (_parse(version.tags[VERSION_TAG], f"version {version.version}"), f"version {version.version} of {name!r}")
        for version in registry.client.search_model_versions(f"name={filter_literal(name)}")
        if VERSION_TAG in version.tags
    ]
    run = find_run(registry)
    if run is not None and MIRROR_HEAD in run.data.tags:
        known.append((_parse(run.data.tags[MIRROR_HEAD], f"run {run.info.run_id}"), "the mirror in MLflow"))
    return sorted(known)


def _require_known(
    registry: Registry, known: list[tuple[tuple[int, str], str]], entries: tuple[dict[str, Any], ...], place: str
) -> None:
    for (number, digest), where in known:
        if number < len(entries) and entries[number]["hash"] == digest:
            continue
        if not entries:
            found = "is empty or gone"
        elif number >= len(entries):
            found = f"ends after {len(entries)} entries: its end was cut off, or an older copy was put back"
        else:
            found = f"has another entry {number}: it was replaced"
        raise CheckFailed(
            f"{place}, line {number + 1}: it {found}. MLflow knows entry {number}, of {where}. Restore the audit log from a "
            f"copy; MLflow's is the artifact {_artifact(registry)!r} of the run {_run_name(registry)!r} (decisions of one "
            "registry belong into one home's audit log). To start a new audit log knowingly, delete the tag "
            f"{VERSION_TAG!r} of the versions of {registry.name!r} and that run in MLflow, then `finsent adopt --why ...`."
        )


def _parse(tag: str, place: str) -> tuple[int, str]:
    number, _, digest = tag.partition(" ")
    if not number.isdecimal() or not digest:
        raise CheckFailed(
            f"the audit log tag of {place} is {tag!r}, and finsent writes a number and a hash. Find out who changed it."
        )
    return int(number), digest


def find_run(registry: Registry) -> "Run | None":
    """The run that carries the mirror; the first, should two ever have been made."""
    client = registry.client
    experiment = client.get_experiment_by_name(registry.experiment)
    if experiment is None:
        return None
    query = f"tags.kind = '{KIND}' and tags.registered_model = {filter_literal(registry.name)}"
    found = client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"], max_results=1)
    return found[0] if found else None


def update_mirror(registry: Registry) -> str:
    """Copy the audit log into MLflow, one process at a time so that no older copy follows a newer one; returns the run's id.

    Raises:
        ServiceError: MLflow does not answer. Nothing is lost: the next decision copies all of it.
        TrackingError: it rejects it.
    """
    path, client = registry.workspace.audit_log, registry.client
    failed = f"the audit log {str(path)!r} could not be copied to MLflow"
    recorded = "The decision is recorded in it and no alias has moved."
    advice = f"{recorded} Run the same command again once MLflow answers."
    lock = registry.workspace.lock("audit-mirror")
    with locked(lock, _LOCK_SECONDS, f"{failed} (lock {str(lock)!r} is held). {advice}", ServiceError):
        try:
            head = audit_log.verify(path, allow_unfinished=True)
            run = find_run(registry)
            run_id = str(run.info.run_id) if run else _create_run(registry)
            client.log_artifact(run_id, str(path), FOLDER)
            tag_run(client, run_id, MIRROR_HEAD, f"{head.length - 1} {head.hash}")
        except (TrackingError, OSError) as error:
            mended = f"{recorded} Look at the run {_run_name(registry)!r} in MLflow, then run the same command again."
            raise failed_at_mlflow(error, failed, answered=mended, outage=advice) from error
    return run_id


def _artifact(registry: Registry) -> str:
    return f"{FOLDER}/{registry.workspace.audit_log.name}"


def _run_name(registry: Registry) -> str:
    return f"audit-log-{registry.name}"


def _create_run(registry: Registry) -> str:
    tags: dict[RunTag, str] = {
        "mlflow.runName": _run_name(registry),
        "mlflow.source.name": "finsent audit log",
        "mlflow.source.type": "LOCAL",
        "kind": KIND,
        "registered_model": registry.name,
    }
    experiment = experiment_id(registry.client, registry.workspace, registry.experiment)
    run = registry.client.create_run(experiment, tags=tags)
    registry.client.set_terminated(run.info.run_id, status="FINISHED")  # nothing runs: it only keeps a file
    return str(run.info.run_id)


def verify_mirror(registry: Registry) -> int:
    """Whether the audit log continues where its mirror ends; returns the entries of the mirror, 0 if none was made yet.

    Raises:
        CheckFailed: names the first line in which they differ.
        ServiceError: the mirror cannot be fetched from MLflow.
    """
    path = registry.workspace.audit_log
    mirrored = _read_mirror(registry)
    own = (path.read_bytes() if path.is_file() else b"").split(b"\n")[:-1]
    for number, line in enumerate(mirrored, start=1):
        if number > len(own):
            problem = f"line {number} is missing, and the mirror in MLflow has {len(mirrored)} lines: its end was cut off"
        elif own[number - 1] != line:
            problem = f"line {number} is not that of the mirror in MLflow: one of them was changed after it was written"
        else:
            continue
        raise CheckFailed(
            f"audit log {str(path)!r}: {problem}. The mirror is the artifact {_artifact(registry)!r} of the run "
            f"{_run_name(registry)!r}: compare the two, and find out who wrote to either."
        )
    return len(mirrored)


def _read_mirror(registry: Registry) -> list[bytes]:
    with tempfile.TemporaryDirectory(prefix="finsent-audit-log-") as scratch:
        mirror = fetch_mirror(registry, Path(scratch))
        content = mirror.read_bytes() if mirror else b""
    return content.split(b"\n")[:-1]  # what follows the last line end is of a mirror that was cut short


def fetch_mirror(registry: Registry, into: Path) -> Path | None:
    """The mirror's file, fetched into a folder; None if none was made yet.

    Raises:
        ServiceError: the mirror cannot be fetched from MLflow.
    """
    run, client = find_run(registry), registry.client
    artifact = _artifact(registry)
    if run is None:
        return None
    try:
        if not any(item.path == artifact for item in client.list_artifacts(run.info.run_id, FOLDER)):
            return None
        return Path(client.download_artifacts(run.info.run_id, artifact, str(into)))
    except (TrackingError, OSError) as error:
        look = f"Look at the run {_run_name(registry)!r} in MLflow."
        what = "the mirror of the audit log cannot be fetched from MLflow"
        raise failed_at_mlflow(error, what, answered=look, outage="Try again.") from error
