"""Verifies registered versions: the artifact's digests, and a round trip through a new process that repeats training's probe.

`python -m finsent.registry.verification NAME VERSION` is that process. It starts from the registry alone: a workspace of its
own without cached adapters or bases, where an embedded base is built anew. It imports what it needs, waits for a line on
stdin, and writes one JSON object to stdout: importing takes longer than the check, and goes on while others still score.
"""

import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from finsent.child_process import end_with_parent
from finsent.data.dataset import DataVersion
from finsent.data.leakage import LeakageStatus, leakage_status
from finsent.errors import ArtifactError, CheckFailed, FinsentError, ServiceError, TrackingError
from finsent.evaluation.evidence import RoundTripRecord
from finsent.labels import LABELS
from finsent.logging_setup import configure_child_logging
from finsent.models.manifest import ADAPTER_FILES, MANIFEST, POOLING, Manifest, file_sha256, read_probe, verify_manifest
from finsent.registry.audit_mirror import verify_against_registry
from finsent.registry.client import Registry
from finsent.registry.gate import RuleResult
from finsent.registry.tracking import filter_literal
from finsent.workspace import Workspace, resolve_workspace

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

_log = logging.getLogger(__name__)

_TIMEOUT = 1800  # seconds; an 8B base from a cold disk takes minutes
_OUTAGE = 75  # exit code (EX_TEMPFAIL) of a check that says nothing of the version: MLflow did not answer


@dataclass(frozen=True)
class ProbeReplay:
    """What the new process reports; logits [probes, 3]."""

    logits: list[list[float]]
    other_side: list[list[float]]
    one_by_one: list[list[float]]
    head_sha256: str
    labels: list[str]
    """What the loaded model calls its outputs."""
    padding: list[Any]
    """Side, and padding token by the tokenizer and by the model."""


def check_artifact_integrity(registry: Registry, record: "ModelVersion", expected: str | None, basis: str) -> RuleResult:
    """Fetch the adapter from the registry, check every file, and compare the manifest's digest with `expected`.

    `basis` names the source of that digest, for the reason. None, an unknown digest, gives the status `missing`.

    Raises:
        ServiceError: the registry does not answer.
    """
    what = f"version {record.version}"
    try:
        with tempfile.TemporaryDirectory(prefix="finsent-artifact-") as scratch:
            folder = registry.download_adapter(record, Path(scratch))
            manifest, found = verify_manifest(folder), file_sha256(folder / MANIFEST)
    except ArtifactError as error:
        return RuleResult(
            "artifact", None, _short(expected), "fail", f"The artifact of {what} is damaged or was changed: {error}"
        )
    if expected is None:
        reason = f"{basis} does not say which artifact of {what} it is about: evaluate the version again."
        return RuleResult("artifact", _short(found), None, "missing", reason)
    if found != expected:
        reason = (
            f"The artifact of {what} is not the one that {basis} is about (manifest {_short(found)}, expected "
            f"{_short(expected)}): it was changed since. Bring it back, or evaluate the version again."
        )
        return RuleResult("artifact", _short(found), _short(expected), "fail", reason)
    if differing := _differing(record, manifest):
        reason = f"The registry says of {what} what its manifest does not: {differing}. Put the registry's tags right."
        return RuleResult("artifact", _short(found), _short(expected), "fail", reason)
    reason = f"Every byte of the artifact of {what} is what was registered, and what {basis} is about."
    return RuleResult("artifact", _short(found), _short(expected), "pass", reason)


def _differing(record: "ModelVersion", manifest: Manifest) -> str:
    """Tags that people read in the registry (base, precision, data) and that contradict the manifest."""
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


def unverified_origin(registry: Registry, record: "ModelVersion", manifest: Manifest) -> str | None:
    """Why nothing here shows that the version was trained on the data that its manifest names; None where something does.

    A manifest comes with the adapter: whoever made that wrote it. Trained on it here is a version that a training of this
    registry registered, or one whose weights, configuration and base are, byte for byte, those of such a version.
    """
    if _trained_here(registry, record):
        return None
    wanted = f"name={filter_literal(registry.name)} and tags.data_fingerprint={filter_literal(str(manifest.data_fingerprint))}"
    for other in registry.client.search_model_versions(wanted):
        if other.version != record.version and _trained_here(registry, other):
            own = verify_manifest(registry.adapter_path(str(other.version)))
            if _same_model(own, manifest) and own.data_version == manifest.data_version:
                return None
    return "it was not trained here, and only its own manifest, which came with it, says on what it was"


def _trained_here(registry: Registry, record: "ModelVersion") -> bool:
    """Whether a training registered the version: by its tag and by its run, so that deleting the tag is not enough."""
    if record.tags.get("imported") is not None or not record.run_id:
        return False
    return bool(registry.client.get_run(record.run_id).data.tags.get("kind") == "train")


def _same_model(one: Manifest, other: Manifest) -> bool:
    same = (one.base_fingerprint, one.quantization) == (other.base_fingerprint, other.quantization)
    return same and all(one.files.get(name) == other.files.get(name) for name in ADAPTER_FILES)


def verified_leakage(registry: Registry, version: str, manifest: Manifest, facts: DataVersion) -> LeakageStatus:
    """Leaks of the test rows of `facts` into the data that the version was trained on, as far as anything here shows that."""
    unverified = unverified_origin(registry, registry.get_version(version), manifest)
    return leakage_status(registry.workspace, manifest, facts, unverified)


def require_evaluable(registry: Registry, version: str) -> "ModelVersion":
    """The version's record, with what an evaluation writes to there, before it costs anything: run and audit log.

    Without an audit log that takes the entry, a look at the test rows would go uncounted.

    Raises:
        InputError: there is no such version.
        CheckFailed: the run was deleted in MLflow, or the audit log lacks an entry that MLflow knows of.
    """
    record = registry.get_version(version)
    verify_against_registry(registry)
    try:
        run = registry.client.get_run(str(record.run_id)) if record.run_id else None
    except TrackingError as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        run = None
    if run is None or run.info.lifecycle_stage != "active":
        raise CheckFailed(
            f"the MLflow run {record.run_id!r} of version {record.version} of {registry.name!r}, which takes its evidence, was "
            f"deleted. Restore it: `mlflow runs restore --run-id {record.run_id}`. Nothing was measured or recorded."
        )
    return record


@contextmanager
def round_trip_check(registry: Registry, version: str) -> Iterator[Callable[[], RoundTripRecord]]:
    """Start the new process; calling what is yielded runs the check, and compares its results with training's record.

    Until then the process holds no model; at the end of the block it has ended. The gate decides how much may differ.
    The call raises:
        CheckFailed: the new process could not load the version (its reason is quoted), or training recorded no hash of the head.
        ServiceError: MLflow did not answer it, twice.
    """
    with _new_process(registry.workspace, registry.name, version) as replay:
        yield lambda: _check(registry, version, replay)


def _check(registry: Registry, version: str, replay: Callable[[], ProbeReplay]) -> RoundTripRecord:
    started = time.monotonic()
    folder = registry.adapter_path(version)
    probe, manifest = read_probe(folder), verify_manifest(folder)
    if probe.head_sha256 is None:
        raise CheckFailed(f"round trip of version {version!r}: its probe records no hash of the trained head. Train it again.")
    found = replay()
    trained = np.asarray(probe.logits, dtype=np.float64)
    logits = np.asarray(found.logits, dtype=np.float64)
    if logits.shape != trained.shape:
        raise CheckFailed(
            f"round trip of version {version!r}: {logits.shape} logits came back for a probe of {trained.shape}. Refused."
        )
    return RoundTripRecord(
        max_logit_difference=_largest(logits, probe.logits),
        head_hash_equal=found.head_sha256 == probe.head_sha256,
        labels_equal=tuple(found.labels) == manifest.labels == LABELS,
        padding_equal=found.padding == [manifest.padding_side, manifest.pad_token_id, manifest.pad_token_id]
        and manifest.pooling == POOLING,
        max_padding_difference=_largest(logits, found.other_side),
        max_batch_difference=_largest(logits, found.one_by_one),
        probes=len(trained),
        head_sha256=found.head_sha256,
        seconds=round(time.monotonic() - started, 3),
    )


def _largest(logits: Any, other: Any) -> float:
    """NaN where either holds one: no comparison with it is true, so it proves nothing."""
    return float(np.abs(logits - np.asarray(other, dtype=np.float64)).max())


@contextmanager
def _new_process(home: Workspace, name: str, version: str) -> Iterator[Callable[[], ProbeReplay]]:
    environment = {
        **os.environ,
        "FINSENT_HOME": str(home.root),
        "FINSENT_TABLES": home.tables_url,
        "MLFLOW_TRACKING_URI": home.tracking_uri,
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }
    command = [sys.executable, "-P", "-m", "finsent.registry.verification", name, version]  # nothing from the working folder

    def replay() -> ProbeReplay:
        try:
            return _await_result(process, name, version)
        except ServiceError as error:
            _log.warning("%s Trying once more", error)
            with _started(command, environment) as another:
                return _await_result(another, name, version)

    with _started(command, environment) as process:
        yield replay


@contextmanager
def _started(command: list[str], environment: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()  # ended by itself, unless nobody asked it or it did not answer


def _await_result(process: "subprocess.Popen[str]", name: str, version: str) -> ProbeReplay:
    try:
        stdout, stderr = process.communicate("go\n", timeout=_TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise CheckFailed(f"round trip of version {version!r} of {name!r}: no answer within {_TIMEOUT} s. Refused.") from error
    last = (stderr.strip().splitlines() or ["no message"])[-1]
    if process.returncode == _OUTAGE:
        raise ServiceError(f"round trip of version {version!r} of {name!r}: {last}")
    if process.returncode != 0:
        raise CheckFailed(f"round trip of version {version!r} of {name!r}: a new process cannot load it ({last}). Refused.")
    return ProbeReplay(**json.loads(stdout))


def replay_probe(home: Workspace, name: str, version: str) -> ProbeReplay:
    """The new process's work: fetch, load, repeat the probe in three ways, hash the head."""
    from finsent.models.adapter import head_sha256, load_adapter
    from finsent.models.predict import predict_logits

    with tempfile.TemporaryDirectory(prefix="finsent-roundtrip-") as scratch:
        own = replace(home, root=Path(scratch) / "home")
        own.root.mkdir()
        # the client's local store stays the home's: only caches are new
        registry = Registry(home, name)
        folder = registry.download_adapter(registry.get_version(version), Path(scratch))
        texts = read_probe(folder).texts
        loaded = load_adapter(folder, own)
        forced = _other_padding(loaded)
        every = 1 << 30  # tokens: all texts in one batch
        return ProbeReplay(
            logits=predict_logits(loaded, texts, token_budget=every).tolist(),
            other_side=predict_logits(loaded, texts, token_budget=every, **forced).tolist(),
            one_by_one=predict_logits(loaded, texts, token_budget=1).tolist(),
            head_sha256=head_sha256(loaded.model),
            labels=[loaded.model.config.id2label[index] for index in range(len(loaded.manifest.labels))],
            padding=[loaded.tokenizer.padding_side, loaded.tokenizer.pad_token_id, loaded.model.config.pad_token_id],
        )


def _other_padding(loaded: Any) -> dict[str, Any]:
    """How to pad differently: on the other side, or, where positions are counted from the left edge, more on the same side.

    An encoder with a table of absolute positions (BERT) reads a text that is pushed to the right as another one; it is
    never padded so. What must not matter there is how much padding follows.
    """
    if any(name.endswith("position_embeddings") for name, _ in loaded.model.named_modules()):
        return {"extra_padding": 16}
    return {"padding_side": "right" if loaded.manifest.padding_side == "left" else "left"}


def _main(arguments: list[str]) -> int:
    """Only the JSON object goes to stdout, whatever libraries print there. Without a line on stdin nothing is loaded."""
    end_with_parent()
    configure_child_logging()
    stdout, sys.stdout = sys.stdout, sys.stderr
    for name in ("mlflow", "peft"):  # of the ten seconds that this takes, these two are nine
        importlib.import_module(name)
    if not sys.stdin.readline():
        return 1  # whoever started this has ended
    try:
        found = replay_probe(resolve_workspace(), *arguments)
    except FinsentError as error:
        sys.stderr.write(f"{' '.join(str(error).split())}\n")
        return _OUTAGE if error.retryable else 1
    stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
