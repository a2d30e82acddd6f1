"""Whether a version's artifact is, byte for byte, the one that its evidence is about; asked before any alias moves."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.errors import ArtifactError
from finsent.home import Home
from finsent.models.manifest import MANIFEST, Manifest, file_sha256, verify_manifest
from finsent.registry.gate import RuleResult
from finsent.registry.versions import download_adapter

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

RULE = "artifact"


def artifact_rule(home: Home, record: "ModelVersion", expected: str | None, basis: str) -> RuleResult:
    """Fetch the adapter from the registry alone, check every file, and hold its manifest against the digest `expected`.

    `basis` says what knows that digest, for the reason. None, an unknown digest, is shown as missing.

    Raises:
        ServiceError: the registry does not answer.
    """
    what = f"version {record.version}"
    try:
        with tempfile.TemporaryDirectory(prefix="finsent-artifact-") as scratch:
            folder = download_adapter(home, record, Path(scratch))
            manifest, found = verify_manifest(folder), file_sha256(folder / MANIFEST)
    except ArtifactError as error:
        return RuleResult(RULE, None, _short(expected), "fail", f"The artifact of {what} is damaged or was changed: {error}")
    if expected is None:
        reason = f"{basis} does not say which artifact of {what} it is about: evaluate the version again."
        return RuleResult(RULE, _short(found), None, "missing", reason)
    if found != expected:
        reason = (
            f"The artifact of {what} is not the one that {basis} is about (manifest {_short(found)}, expected "
            f"{_short(expected)}): it was changed since. Bring it back, or evaluate the version again."
        )
        return RuleResult(RULE, _short(found), _short(expected), "fail", reason)
    if differing := _differing(record, manifest):
        reason = f"The registry says of {what} what its manifest does not: {differing}. Put the registry's tags right."
        return RuleResult(RULE, _short(found), _short(expected), "fail", reason)
    reason = f"Every byte of the artifact of {what} is what was registered, and what {basis} is about."
    return RuleResult(RULE, _short(found), _short(expected), "pass", reason)


def _differing(record: "ModelVersion", manifest: Manifest) -> str:
    """What people read in the registry about base, precision and data must be what the bytes say."""
    facts = {
        "base": manifest.base_name,
        "quantization": manifest.quantization.kind,
        "data_version": str(manifest.data_version),
        "data_fingerprint": str(manifest.data_fingerprint),
    }
    return ", ".join(
        f"{key} {record.tags.get(key)!r} instead of {said!r}" for key, said in facts.items() if record.tags.get(key) != said
    )


def _short(digest: str | None) -> str | None:
    return digest[:12] if digest else None
