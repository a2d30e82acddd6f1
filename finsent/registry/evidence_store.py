"""A version's evidence: as the evaluation left it on the version's run, and as the ledger knows it.

The file may be changed by whoever may write to MLflow. The ledger holds the digest of what was taken, so that evidence
which is not on record there, or is not the newest taken, is none.
"""

import hashlib
import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from finsent.config import Config
from finsent.data.dataset import fingerprint_split
from finsent.errors import ServiceError
from finsent.evaluation.evidence import Evidence
from finsent.home import Home
from finsent.registry import audit_log
from finsent.registry.audit_mirror import append_entry
from finsent.registry.client import Registry
from finsent.registry.gate import rules_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)

EVIDENCE = "evaluation/evidence.json"
"""Where the evaluation leaves its evidence, on the training run of the version."""
REPORT: Final = "evaluation/report.html"
"""Beside it, the page for people."""
EVALUATE: Final = "evaluate"
"""Action of a ledger entry about evidence taken on the test split."""
LOOK: Final = "look"
"""Action of one about test rows that were scored for the record."""


@dataclass(frozen=True)
class StoredEvidence:
    """Evidence as it was found."""

    evidence: Evidence
    """Empty, which fails the gate, if none was found or it cannot be used."""
    problem: str | None
    sha256: str | None
    """Of the file; None if there is none."""


def record_evidence(config: Config, home: Home, client: "MlflowClient", evidence: Evidence, content: bytes) -> dict[str, Any]:
    """Put evidence on record in the ledger, before `content`, the file `evidence.json`, goes to MLflow; returns the entry.

    In this order a look is counted whatever happens next; evidence that did not arrive is refused, and taken again.

    Raises:
        Refused: the ledger is not what it was.
        ServiceError: its copy could not be made.
    """
    entry = {
        "action": EVALUATE,
        "evidence_sha256": hashlib.sha256(content).hexdigest(),
        "manifest_sha256": evidence.manifest_sha256,
        "data_version": evidence.data_version,
        "data_fingerprint": evidence.data_fingerprint,
        "test_fingerprint": evidence.test_fingerprint,
        "rules_sha256": evidence.rules_sha256,
        "gate": config.gate.model_dump(mode="json"),
        "champion": evidence.champion_version,
    }
    return append_entry(config, home, client, evidence.model_version, entry)


def record_test_set_use(config: Config, registry: Registry, version: str, data_version: int) -> None:
    """Count a look at test rows that is to leave no evidence.

    Raises:
        Refused: the ledger is not what it was.
        ServiceError: its copy could not be made.
    """
    entry = {
        "action": LOOK,
        "data_version": data_version,
        "test_fingerprint": fingerprint_split(registry.workspace, "test", data_version),
    }
    append_entry(config, registry.workspace, registry.client, version, entry)


def recorded_evidence(home: Home, name: str, version: str) -> dict[str, Any] | None:
    """The newest ledger entry about evidence of the version, if there is one."""
    taken = (e for e in reversed(audit_log.read(home.ledger)) if e.get("action") == EVALUATE)
    return next((e for e in taken if (e.get("model"), e.get("version")) == (name, version)), None)


def changed_rules(config: Config, home: Home, version: str) -> tuple[str, ...]:
    """Which of the gate's rules are not those under which the version's evidence was taken: `gate.alpha 0.05, now 0.2`."""
    taken = recorded_evidence(home, config.registered_model, version) or {}
    declared, now = taken.get("gate"), config.gate.model_dump(mode="json")
    if declared is None or taken.get("rules_sha256") == rules_digest(config.gate):
        return ()  # the same, or evidence of before rules were written out: the gate compares the digest all the same
    return tuple(
        f"gate.{key} {declared.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*declared, *now})
        if declared.get(key) != now.get(key)
    )


def report_location(registry: Registry, version: str) -> str | None:
    """Where the version's evaluation report lies: a file, or run and server to look in; None before its first evaluation.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    from urllib.parse import unquote, urlsplit

    from mlflow.exceptions import MlflowException

    run_id = registry.get_version(version).tags.get("evaluation_run")
    if run_id is None:
        return None
    try:
        parts = urlsplit(str(registry.client.get_run(run_id).info.artifact_uri))
    except MlflowException as error:
        return f"not found: MLflow does not show run {run_id} ({error})"  # what was decided is to be said all the same
    if parts.scheme in {"", "file"}:
        return str(Path(unquote(parts.path)) / REPORT)
    return f"{REPORT} among the artifacts of run {run_id} in MLflow"


def test_set_uses(home: Home, name: str, test_fingerprint: str) -> tuple[int, int]:
    """How often the model's test rows were looked at so far: exactly these, and those of any version of the data."""
    taken = [e for e in audit_log.read(home.ledger) if e.get("action") in {EVALUATE, LOOK} and e.get("model") == name]
    return sum(e.get("test_fingerprint") == test_fingerprint for e in taken), len(taken)


def load_verified_evidence(client: "MlflowClient", home: Home, version: "ModelVersion") -> StoredEvidence:
    """The version's evidence, provided that it is the newest on record in the ledger, or why there is none.

    Raises:
        ServiceError: MLflow does not hand it out.
    """
    found = read_evidence(client, version)
    if found.problem is not None:
        return found
    entry = recorded_evidence(home, version.name, str(version.version))
    what = f"The evidence of version {version.version}"
    if entry is None:
        problem = f"{what} is not on record in the ledger {str(home.ledger)!r}: evaluate it again, in this home."
    elif entry.get("evidence_sha256") != found.sha256:
        problem = (
            f"{what} was changed after it was taken: the ledger knows another digest (entry {entry.get('seq')}). "
            "Evaluate it again."
        )
    elif entry.get("manifest_sha256") != found.evidence.manifest_sha256:
        problem = f"{what} is about another artifact than the ledger's entry {entry.get('seq')}. Evaluate it again."
    else:
        return found
    return StoredEvidence(Evidence(model_name=version.name, model_version=str(version.version)), problem, found.sha256)


def read_evidence(client: "MlflowClient", version: "ModelVersion") -> StoredEvidence:
    """The version's evidence as it lies in MLflow, or why there is none.

    Raises:
        ServiceError: MLflow does not hand it out.
    """
    from mlflow.exceptions import MlflowException

    empty = Evidence(model_name=version.name, model_version=str(version.version))
    try:
        if not any(item.path == EVIDENCE for item in client.list_artifacts(version.run_id, str(PurePosixPath(EVIDENCE).parent))):
            return StoredEvidence(empty, f"Version {version.version} has no evidence: run `finsent evaluate`.", None)
        with tempfile.TemporaryDirectory(prefix="finsent-evidence-") as scratch:
            content = Path(client.download_artifacts(version.run_id, EVIDENCE, scratch)).read_bytes()
    except (MlflowException, OSError) as error:
        raise ServiceError(
            f"the evidence of version {version.version!r} cannot be fetched from MLflow ({error}). Try again."
        ) from error
    digest = hashlib.sha256(content).hexdigest()
    try:
        evidence = Evidence.model_validate_json(content)
    except ValidationError as error:
        damaged = f"The evidence of version {version.version} cannot be read ({error.error_count()} problems): evaluate it again."
        return StoredEvidence(empty, damaged, digest)
    if (evidence.model_name, evidence.model_version) != (version.name, str(version.version)):
        other = (
            f"The evidence is of version {evidence.model_version} of {evidence.model_name!r}: evaluate version {version.version}."
        )
        return StoredEvidence(empty, other, digest)
    return StoredEvidence(evidence, None, digest)


def load_evidence(registry: Registry, version: str) -> Evidence | None:
    """What the version has shown, if it was evaluated, for people to read; the gate asks the ledger besides (`find_evidence`).

    Evidence that cannot be used is none, with a warning.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    found = read_evidence(registry.client, registry.get_version(version))
    if found.problem is None:
        return found.evidence
    if found.sha256 is not None:
        _log.warning("%s Going on without.", found.problem)
    return None
