"""A version's evidence: recorded in the audit log, stored in MLflow, loaded back and verified against the audit log.

Whoever may write to MLflow can change the file. The audit log holds its digest, so evidence that is not recorded there, or is
not the newest recorded, is not accepted. The audit log also holds what the gate decided on the evidence, see `stored_decision`.
"""

import hashlib
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from finsent.config import GateConfig
from finsent.data.dataset import fingerprint_split
from finsent.errors import TrackingError, one_line
from finsent.evaluation.evidence import Evidence
from finsent.registry import audit_log
from finsent.registry.audit_log import EVALUATE, TEST_SET_USE, EntryKey
from finsent.registry.audit_mirror import append_entry
from finsent.registry.client import Registry
from finsent.registry.gate import Decision, GateInput, RuleResult, rules_digest
from finsent.registry.mlflow_errors import failed_at_mlflow

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)

EVIDENCE_FOLDER: Final = "evaluation"
"""Artifact folder of evidence, predictions, plots, report and card on the training run of the version."""
EVIDENCE: Final = f"{EVIDENCE_FOLDER}/evidence.json"
REPORT: Final = f"{EVIDENCE_FOLDER}/report.html"


@dataclass(frozen=True)
class StoredEvidence:
    """Evidence as found in MLflow."""

    evidence: Evidence
    """Empty, which fails the gate, if none was found or it cannot be used."""
    problem: str | None
    """Why it cannot be used."""
    sha256: str | None
    """Of the file; None if there is none."""


def record_evidence(
    registry: Registry, rules: GateConfig, evidence: Evidence, content: bytes, decision: Decision | None = None
) -> dict[str, Any]:
    """Record evidence in the audit log, before its file with `content` goes to MLflow; returns the entry.

    In this order the test set use is counted whatever happens next; evidence that did not arrive is refused, and taken again.
    `decision` is the gate's on this evidence, under these rules and against `evidence.champion_version`.

    Raises:
        CheckFailed: the audit log was tampered with.
        ServiceError: its mirror could not be updated.
    """
    digest, declared = hashlib.sha256(content).hexdigest(), rules_digest(rules)
    entry: dict[EntryKey, Any] = {
        "action": EVALUATE,
        "evidence_sha256": digest,
        "manifest_sha256": evidence.manifest_sha256,
        "data_version": evidence.data_version,
        "data_fingerprint": evidence.data_fingerprint,
        "test_fingerprint": evidence.test_fingerprint,
        "rules_sha256": evidence.rules_sha256,
        "gate": rules.model_dump(mode="json"),
        "champion": evidence.champion_version,
    }
    if decision is not None:
        inputs = GateInput(digest, declared, evidence.champion_version)
        entry["gate_decision"] = {"input_sha256": inputs.digest, **asdict(decision)}
    return append_entry(registry, evidence.model_version, entry)


def stored_decision(entry: dict[str, Any] | None, inputs: GateInput) -> Decision | None:
    """The gate's decision that an evaluation's audit log entry holds, if it rests on exactly `inputs`; else None.

    None asks for a new evaluation of the gate: also where the entry is older or cannot be read.
    """
    stored = (entry or {}).get("gate_decision")
    if not isinstance(stored, dict) or stored.get("input_sha256") != inputs.digest:
        return None
    try:
        rules = tuple(RuleResult(**rule) for rule in stored["rules"])
        decision = Decision(stored["decision"], rules, tuple(stored["reasons"]))
    except (KeyError, TypeError):
        return None
    passed = bool(rules) and all(rule.status == "pass" for rule in rules)
    return decision if decision.decision == ("promote" if passed else "refuse") else None


def record_test_set_use(registry: Registry, version: str, data_version: int) -> None:
    """Count a use of test rows that leaves no evidence.

    Raises:
        CheckFailed: the audit log was tampered with.
        ServiceError: its mirror could not be updated.
    """
    fingerprint = fingerprint_split(registry.workspace, "test", data_version)
    entry: dict[EntryKey, Any] = {"action": TEST_SET_USE, "data_version": data_version, "test_fingerprint": fingerprint}
    append_entry(registry, version, entry, counts_again=True)


def test_set_uses(registry: Registry, test_fingerprint: str) -> tuple[int, int]:
    """How often the model's test rows were used so far: exactly these, and those of any version of the data."""
    uses = [e for e in audit_log.read(registry.workspace.audit_log, registry.name) if e.get("action") in {EVALUATE, TEST_SET_USE}]
    return sum(e.get("test_fingerprint") == test_fingerprint for e in uses), len(uses)


def recorded_evidence(registry: Registry, version: str) -> dict[str, Any] | None:
    """The newest audit log entry about evidence of the version, if there is one."""
    entries = reversed(audit_log.read(registry.workspace.audit_log, registry.name, version))
    return next((e for e in entries if e.get("action") == EVALUATE), None)


def changed_rules(entry: dict[str, Any] | None, rules: GateConfig) -> tuple[str, ...]:
    """Which of the gate's rules differ from those of an evaluation's audit log entry: `gate.alpha 0.05, now 0.2`."""
    taken = entry or {}
    declared, now = taken.get("gate"), rules.model_dump(mode="json")
    if declared is None or taken.get("rules_sha256") == rules_digest(rules):
        return ()  # the same, or evidence older than this record: the gate compares the digest all the same
    return tuple(
        f"gate.{key} {declared.get(key)!r}, now {now.get(key)!r}"
        for key in sorted({*declared, *now})
        if declared.get(key) != now.get(key)
    )


def report_location(registry: Registry, version: str) -> str | None:
    """Where the version's evaluation report is: a file, or run and server to look in; None before its first evaluation.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    from urllib.parse import unquote, urlsplit

    run_id = registry.get_version(version).tags.get("evaluation_run")
    if run_id is None:
        return None
    try:
        parts = urlsplit(str(registry.client.get_run(run_id).info.artifact_uri))
    except TrackingError as error:
        return f"not found: MLflow does not show run {run_id} ({one_line(error)})"  # the decision is to be shown all the same
    if parts.scheme in {"", "file"}:
        return str(Path(unquote(parts.path)) / REPORT)
    return f"{REPORT} among the artifacts of run {run_id} in MLflow"


def load_verified_evidence(registry: Registry, version: "ModelVersion") -> StoredEvidence:
    """The version's evidence if it is the newest recorded in the audit log, or why there is none.

    Raises:
        ServiceError: it cannot be fetched from MLflow.
    """
    found = read_evidence(registry, version)
    if found.problem is not None:
        return found
    entry = recorded_evidence(registry, str(version.version))
    what = f"The evidence of version {version.version}"
    if entry is None:
        problem = (
            f"{what} is not recorded in the audit log {str(registry.workspace.audit_log)!r}: evaluate it again, in this home."
        )
    elif entry.get("evidence_sha256") != found.sha256:
        problem = (
            f"{what} was changed after it was taken: the audit log holds another digest (entry {entry.get('seq')}). "
            "Evaluate it again."
        )
    elif entry.get("manifest_sha256") != found.evidence.manifest_sha256:
        problem = f"{what} is about another artifact than the audit log's entry {entry.get('seq')}. Evaluate it again."
    else:
        return found
    return StoredEvidence(Evidence(model_name=version.name, model_version=str(version.version)), problem, found.sha256)


def read_evidence(registry: Registry, version: "ModelVersion") -> StoredEvidence:
    """The version's evidence as stored in MLflow, unverified, or why there is none.

    Raises:
        ServiceError: MLflow, or its artifact store, does not answer.
        TrackingError: it says no, as for a run that was deleted.
    """
    client, number = registry.client, str(version.version)
    empty = Evidence(model_name=version.name, model_version=number)
    try:
        if not any(item.path == EVIDENCE for item in client.list_artifacts(version.run_id, str(PurePosixPath(EVIDENCE).parent))):
            return StoredEvidence(empty, f"Version {number} has no evidence: run `finsent evaluate --version {number}`.", None)
        with tempfile.TemporaryDirectory(prefix="finsent-evidence-") as scratch:
            content = Path(client.download_artifacts(version.run_id, EVIDENCE, scratch)).read_bytes()
    except (TrackingError, OSError) as error:
        what = f"the evidence of version {number!r} cannot be fetched from MLflow"
        lost = f"Restore the run {version.run_id!r} in MLflow, or train another version."
        raise failed_at_mlflow(error, what, answered=lost, outage="Try again.") from error
    digest = hashlib.sha256(content).hexdigest()
    try:
        evidence = Evidence.model_validate_json(content)
    except ValidationError as error:
        damaged = f"The evidence of version {number} cannot be read ({error.error_count()} problems): evaluate it again."
        return StoredEvidence(empty, damaged, digest)
    if (evidence.model_name, evidence.model_version) != (version.name, number):
        other = f"The evidence is of version {evidence.model_version} of {evidence.model_name!r}: evaluate version {number}."
        return StoredEvidence(empty, other, digest)
    return StoredEvidence(evidence, None, digest)


def load_evidence(registry: Registry, version: str) -> Evidence | None:
    """The version's evidence for people to read, if it was evaluated; the gate uses `load_verified_evidence`.

    Evidence that cannot be used is none, with a warning.

    Raises:
        InputError: there is no such version.
        ServiceError: MLflow does not answer.
    """
    found = read_evidence(registry, registry.get_version(version))
    if found.problem is None:
        return found.evidence
    if found.sha256 is not None:
        _log.warning("%s Going on without.", found.problem)
    return None
