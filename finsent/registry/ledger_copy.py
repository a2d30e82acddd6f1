"""The ledger's copy in MLflow, an artifact of one run per registered model: a second witness, kept away from the home's disk.

A copy may lag behind, when a process was killed before it was made; it never holds what the ledger does not.
"""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.config import Config
from finsent.errors import Refused, ServiceError
from finsent.home import Home
from finsent.registry import ledger
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
            head = ledger.verify(home.ledger, allow_unfinished=True)
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


def require_extension(config: Config, client: "MlflowClient", path: Path) -> int:
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
