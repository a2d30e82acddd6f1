"""The ledger's copy in MLflow, an artifact of one run per registered model: a second witness, kept away from the home's disk.

A copy may lag behind, when a process was killed before it was made; it never holds what the ledger does not.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.errors import Refused, ServiceError
from finsent.home import Home
from finsent.registry import audit_log
from finsent.registry.client import Registry
from finsent.registry.tracking import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

KIND: Final = "ledger"
"""Tag `kind` of the run that carries the copy; its tag `registered_model` names the model."""
FOLDER: Final = "ledger"
COPY: Final = f"{FOLDER}/ledger.jsonl"
HEAD: Final = "ledger_head"
"""Tag of that run: number and hash of the last entry copied."""
_LOCK_SECONDS: Final = 60.0


def find_run(client: "MlflowClient", config: Config) -> "Run | None":
    """The run that carries the copy; the first, should two ever have been made."""
    experiment = client.get_experiment_by_name(config.experiment)
    if experiment is None:
        return None
    query = f"tags.kind = '{KIND}' and tags.registered_model = '{config.registered_model}'"
    found = client.search_runs([experiment.experiment_id], query, order_by=["attributes.start_time ASC"], max_results=1)
    return found[0] if found else None


def export_copy(config: Config, home: Home, client: "MlflowClient") -> str:
    """Copy the ledger into MLflow, one process at a time so that no older copy follows a newer one; returns the run's id.

    Raises:
        ServiceError: MLflow does not take it. Nothing is lost: the next decision copies all of it.
    """
    from filelock import FileLock, Timeout
    from mlflow.exceptions import MlflowException

    home.lock("ledger-copy").parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(home.lock("ledger-copy"), timeout=_LOCK_SECONDS):
            head = audit_log.verify(home.ledger, allow_unfinished=True)
            run = find_run(client, config)
            run_id = run.info.run_id if run else _create_run(config, home, client)
            client.log_artifact(run_id, str(home.ledger), FOLDER)
            client.set_tag(run_id, HEAD, f"{head.length - 1} {head.hash}")
            return str(run_id)
    except (MlflowException, OSError, Timeout) as error:
        raise ServiceError(
            f"the ledger {str(home.ledger)!r} could not be copied to MLflow ({' '.join(str(error).split())}). What was decided "
            "is in it and no alias has moved. Run the same command again once MLflow answers."
        ) from error


def _create_run(config: Config, home: Home, client: "MlflowClient") -> str:
    tags = {
        "mlflow.runName": f"ledger-{config.registered_model}",
        "mlflow.source.name": "finsent ledger",
        "mlflow.source.type": "LOCAL",
        "kind": KIND,
        "registered_model": config.registered_model,
    }
    run = client.create_run(experiment_id(client, home, config.experiment), tags=tags)
    client.set_terminated(run.info.run_id, status="FINISHED")  # nothing runs: it only keeps a file
    return str(run.info.run_id)


def verify_mirror(config: Config, client: "MlflowClient", path: Path) -> int:
    """Whether the ledger goes on where its copy ends; returns the entries of the copy, 0 if none was made yet.

    Raises:
        Refused: names the first line in which they differ.
        ServiceError: MLflow does not hand the copy out.
    """
    copied = _read_copy(config, client)
    own = (path.read_bytes() if path.is_file() else b"").split(b"\n")[:-1]
    for number, line in enumerate(copied, start=1):
        if number > len(own):
            problem = f"line {number} is missing, and the copy in MLflow has {len(copied)} lines: its end was cut off"
        elif own[number - 1] != line:
            problem = f"line {number} is not that of the copy in MLflow: one of them was changed after it was written"
        else:
            continue
        raise Refused(
            f"ledger {str(path)!r}: {problem}. The copy is the artifact {COPY!r} of the run `ledger-{config.registered_model}`: "
            "compare the two, and find out who wrote to either."
        )
    return len(copied)


def _read_copy(config: Config, client: "MlflowClient") -> list[bytes]:
    from mlflow.exceptions import MlflowException

    run = find_run(client, config)
    if run is None:
        return []
    try:
        if not any(item.path == COPY for item in client.list_artifacts(run.info.run_id, FOLDER)):
            return []
        with tempfile.TemporaryDirectory(prefix="finsent-ledger-") as scratch:
            content = Path(client.download_artifacts(run.info.run_id, COPY, scratch)).read_bytes()
    except (MlflowException, OSError) as error:
        raise ServiceError(f"the copy of the ledger cannot be fetched from MLflow ({error}). Try again.") from error
    return content.split(b"\n")[:-1]  # what follows the last line end is of a copy that was cut short


# merged from finsent.registry.audit_mirror: The registry as the ledger's witness: each entry leaves its number and hash on the version it is about, and on the copy's run.

LEDGER_ENTRY = "ledger_entry"
"""Tag of a version: number and hash of the newest ledger entry about it."""


def append_entry(config: Config, home: Home, client: "MlflowClient", version: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Write an entry about the version: into the ledger, its hash onto the version, its copy into MLflow; returns the entry.

    A process killed on the way leaves a ledger that is ahead of its witnesses, which is in order; the next entry catches up.

    Raises:
        Refused: the ledger's chain is broken, or it does not hold what its witnesses know of. Nothing is written then.
        ServiceError: the copy could not be made; the entry is in the ledger.
    """
    audit_log.verify(home.ledger, allow_unfinished=True)
    verify_against_registry(config, client, home.ledger)
    written = audit_log.append(home.ledger, {"model": config.registered_model, "version": version, **entry})
    Registry(home, config.registered_model).set_tags(version, {LEDGER_ENTRY: f"{written['seq']} {written['hash']}"})
    export_copy(config, home, client)
    return written


def verify_against_registry(config: Config, client: "MlflowClient", path: Path) -> None:
    """Whether the ledger still holds every entry that the registry knows of.

    A ledger that goes on after them is in order: a decision is written there first, and a process killed in between leaves
    no tag; other models' decisions may be in it, too.

    Raises:
        Refused: names the line that was cut off or replaced, or says that the ledger is gone.
    """
    name = config.registered_model
    # tags before file: a decision that falls in between is then in the file, never only in the tags
    known = [
        (_parse(version.tags[LEDGER_ENTRY], f"version {version.version}"), f"version {version.version} of {name!r}")
        for version in client.search_model_versions(f"name='{name}'")
        if LEDGER_ENTRY in version.tags
    ]
    run = find_run(client, config)
    if run is not None and HEAD in run.data.tags:
        known.append((_parse(run.data.tags[HEAD], f"run {run.info.run_id}"), "the copy in MLflow"))
    if not known:
        return
    entries = audit_log.read(path)
    for (number, digest), where in sorted(known):
        if number < len(entries) and entries[number].get("hash") == digest:
            continue
        if not entries:
            found = "is empty or gone"
        elif number >= len(entries):
            found = f"ends after {len(entries)} entries: its end was cut off"
        else:
            found = f"has another entry {number}: it was replaced"
        raise Refused(
            f"ledger {str(path)!r}, line {number + 1}: it {found}. The registry knows entry {number}, of {where}. "
            "Bring the ledger back from a copy (decisions of one registry belong into one home's ledger). To start a new ledger "
            f"knowingly, delete the tag {LEDGER_ENTRY!r} of the versions of {name!r} and the run `ledger-{name}` in MLflow."
        )


def _parse(tag: str, place: str) -> tuple[int, str]:
    number, _, digest = tag.partition(" ")
    if not number.isdecimal() or not digest:
        raise Refused(f"the ledger's tag on {place} is {tag!r}, and finsent writes a number and a hash. Look who did.")
    return int(number), digest
