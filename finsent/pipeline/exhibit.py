"""A version's evidence, as the evaluation left it on the version's run."""

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import ValidationError

from finsent.errors import ServiceError
from finsent.evaluation.evidence import Evidence
from finsent.home import Home

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)

EVIDENCE = "evaluation/evidence.json"
"""Where the evaluation leaves its evidence, on the training run of the version."""


@dataclass(frozen=True)
class Exhibit:
    """Evidence as it was found."""

    evidence: Evidence
    """Empty, which fails the gate, if none was found or it cannot be used."""
    problem: str | None
    sha256: str | None
    """Of the file; None if there is none."""


def find_evidence(client: "MlflowClient", record: "ModelVersion") -> Exhibit:
    """The version's evidence, or why there is none.

    Raises:
        ServiceError: MLflow does not hand it out.
    """
    from mlflow.exceptions import MlflowException

    empty = Evidence(model_name=record.name, model_version=str(record.version))
    try:
        if not any(item.path == EVIDENCE for item in client.list_artifacts(record.run_id, str(PurePosixPath(EVIDENCE).parent))):
            return Exhibit(empty, f"Version {record.version} has no evidence: run `finsent evaluate`.", None)
        with tempfile.TemporaryDirectory(prefix="finsent-evidence-") as scratch:
            content = Path(client.download_artifacts(record.run_id, EVIDENCE, scratch)).read_bytes()
    except (MlflowException, OSError) as error:
        raise ServiceError(
            f"the evidence of version {record.version!r} cannot be fetched from MLflow ({error}). Try again."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    try:
        evidence = Evidence.model_validate_json(content)
    except ValidationError as error:
        damaged = f"The evidence of version {record.version} cannot be read ({error.error_count()} problems): evaluate it again."
        return Exhibit(empty, damaged, digest)
    if (evidence.model_name, evidence.model_version) != (record.name, str(record.version)):
        other = (
            f"The evidence is of version {evidence.model_version} of {evidence.model_name!r}: evaluate version {record.version}."
        )
        return Exhibit(empty, other, digest)
    return Exhibit(evidence, None, digest)


def stored_evidence(home: Home, name: str, version: str) -> Evidence | None:
    """What the version has shown, if it was evaluated; evidence that cannot be used is none, with a warning.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    from finsent.registry.tracking import connect
    from finsent.registry.versions import get_version

    client = connect(home)
    found = find_evidence(client, get_version(client, name, version))
    if found.problem is None:
        return found.evidence
    if found.sha256 is not None:
        _log.warning("%s Going on without.", found.problem)
    return None
