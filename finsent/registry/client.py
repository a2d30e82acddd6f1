"""`Registry`: one registered model in MLflow. Registers adapters, finds versions, fetches adapters back, tags versions."""

import atexit
import errno
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from finsent.data.predictions import ModelIdentity
from finsent.errors import ArtifactError, InputError, ServiceError, TrackingError, causes, one_line
from finsent.files import is_read_only, sync
from finsent.models.manifest import MANIFEST, file_sha256, verify_manifest
from finsent.registry.mlflow_errors import mlflow_errors
from finsent.registry.packaging import ADAPTER, save_model_folder
from finsent.registry.tracking import DatasetRef, connect, filter_literal
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"

_SYSTEM_ERROR: Final = re.compile(r"\[Errno (\d+)\]")
_MOST_DIGITS: Final = 9  # of a version; databases would refuse greater numbers with an error of their own

VersionTag = Literal[
    "accuracy", "approval", "approval_requested_at", "approved_by", "approved_why", "audit_log_entry", "base",
    "data_fingerprint", "data_version", "evaluation_run", "finish_attempts", "gate", "gate_reasons", "imported", "macro_f1",
    "manifest_sha256", "not_candidate", "profile", "quantization", "rejected_by", "rejected_why", "replaces", "rolled_back",
    "run_id", "stage", "trained_by", "training_digest",
]  # fmt: skip
"""Tags of a registered version. They are stored in MLflow: renaming one needs a migration."""


class Registry:
    """The versions of one registered model, over one MLflow client.

    Args:
        workspace: Whose MLflow server or store is used, and where fetched adapters are cached.
        name: Registered model.
        experiment: MLflow experiment that holds the mirror of the audit log.
    """

    def __init__(self, workspace: Workspace, name: str, experiment: str = "finsent") -> None:
        self.workspace = workspace
        self.name = name
        self.experiment = experiment

    @cached_property
    def client(self) -> "MlflowClient":
        """The one client, connected at first use.

        Raises:
            ServiceError: the MLflow server does not answer or rejects the request.
        """
        return connect(self.workspace)

    def aliases(self) -> dict[str, str]:
        """Alias to version; empty if the model is not registered."""
        try:
            return {alias: str(version) for alias, version in self.client.get_registered_model(self.name).aliases.items()}
        except TrackingError as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return {}
            raise

    def champion(self) -> str | None:
        """Version that carries the alias; `champion.current_champion` says whether by a decision."""
        return self.aliases().get(CHAMPION)

    def find_latest(self, *, trained_here: bool = False) -> "ModelVersion | None":
        """The registry's record of the newest version, or of the newest that was not imported; None if there is none."""
        wanted = f"name={filter_literal(self.name)}"
        newest = self.client.search_model_versions(
            wanted, order_by=["version_number DESC"], max_results=200 if trained_here else 1
        )
        return next((found for found in newest if not (trained_here and found.tags.get("imported"))), None)

    def latest_version(self) -> str:
        """Newest version.

        Raises:
            InputError: nothing is registered under this name.
        """
        newest = self.find_latest()
        if newest is None:
            raise InputError(f"{self.name!r} has no version yet: run `finsent train`.")
        return str(newest.version)

    def resolve(self, given: str) -> str:
        """Number of the version that `given` names: a number, or an alias such as `champion`.

        Raises:
            InputError: there is no such version and no such alias.
        """
        if given.isdecimal():
            return str(self.get_version(version_number(given)).version)
        known = self.aliases()
        if given not in known:
            there = ", ".join(f"{alias} (version {version})" for alias, version in sorted(known.items())) or "none yet"
            raise InputError(f"{given!r} is no version of {self.name!r} and no alias of one. Its aliases: {there}.")
        return known[given]

    def get_version(self, version: str) -> "ModelVersion":
        """The registry's record of a version.

        Raises:
            InputError: there is no such version.
        """
        found = self.find_version(version)
        if found is not None:
            return found
        known = sorted(int(v.version) for v in self.client.search_model_versions(f"name={filter_literal(self.name)}"))
        there = f"Its versions: {', '.join(map(str, known))}." if known else "It has none yet: run `finsent train`."
        raise InputError(f"{self.name!r} has no version {version!r}. {there}")

    def find_version(self, version: str | None) -> "ModelVersion | None":
        """The registry's record of a version; None if it is deleted, or none is named."""
        # MLflow takes "01" for version 1, which everything that compares numbers would take for another one
        if version is None or not version.isdecimal() or version != version_number(version) or len(version) > _MOST_DIGITS:
            return None
        try:
            return self.client.get_model_version(self.name, version)
        except TrackingError as error:
            if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
                raise
            return None

    def identity(self, version: str) -> ModelIdentity:
        """What a version's predictions are told by.

        Raises:
            InputError: there is no such version.
        """
        record = self.get_version(version)
        made = datetime.fromtimestamp(int(record.creation_timestamp) / 1000, UTC)
        return ModelIdentity(self.name, str(record.version), record.tags.get("manifest_sha256", ""), made)

    def version_of_run(self, run_id: str) -> str | None:
        """Newest version that was registered from the run; None if there is none."""
        found = self.client.search_model_versions(f"name={filter_literal(self.name)} and run_id='{run_id}'")
        return max((str(version.version) for version in found), key=int, default=None)

    def has_run(self, run_id: str) -> bool:
        """Whether MLflow has the run, and not as a deleted one."""
        try:
            return str(self.client.get_run(run_id).info.lifecycle_stage) == "active"
        except TrackingError as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False

    def set_tags(self, version: str, tags: Mapping[VersionTag, object]) -> None:
        """Tag a version; what is not text becomes JSON."""
        for key, value in tags.items():
            text = value if isinstance(value, str) else json.dumps(value)
            self.client.set_model_version_tag(self.name, version, key, text)

    def register(self, adapter: Path, *, run_id: str, profile: str, tags: Mapping[VersionTag, str] | None = None) -> str:
        """Log the adapter as a LoggedModel of the run and register it; returns the version.

        Idempotent: the same adapter of the same run is registered once.

        Raises:
            ArtifactError: the adapter does not match its manifest.
        """
        manifest = verify_manifest(adapter)
        digest = file_sha256(adapter / MANIFEST)
        for known in self.client.search_model_versions(f"name={filter_literal(self.name)} and run_id='{run_id}'"):
            if known.tags.get("manifest_sha256") == digest:
                return str(known.version)
        facts: dict[VersionTag, str] = {
            "profile": profile,
            "base": manifest.base_name,
            "quantization": manifest.quantization.kind,
            "data_version": str(manifest.data_version),
            "data_fingerprint": str(manifest.data_fingerprint),
        }
        model_id = self._log_model(adapter, run_id, facts)
        self._ensure_registered_model()
        created = self.client.create_model_version(
            self.name,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            tags={"stage": "None", "run_id": run_id, "manifest_sha256": digest, **facts, **(tags or {})},
        )
        return str(created.version)

    def _log_model(self, adapter: Path, run_id: str, facts: Mapping[VersionTag, str]) -> str:
        """Upload the adapter as a LoggedModel and make it an output of the run; returns the LoggedModel's id."""
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus

        experiment = self.client.get_run(run_id).info.experiment_id
        model = self.client.create_logged_model(
            experiment, name=self.name, source_run_id=run_id, tags=facts, model_type="text-classification"
        )
        try:
            with tempfile.TemporaryDirectory(prefix="finsent-register-") as scratch:
                folder = Path(scratch) / "model"
                save_model_folder(adapter, folder, model_id=model.model_id, run_id=run_id, metadata=dict(facts.items()))
                self.client.log_model_artifacts(model.model_id, str(folder))
        except BaseException:
            self.client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
            raise
        self.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
        self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
        return str(model.model_id)

    def _ensure_registered_model(self) -> None:
        about = "Financial-tweet sentiment: LoRA adapters, promoted on evidence."
        try:
            self.client.create_registered_model(self.name, description=about)
        except TrackingError as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def adapter_path(self, version: str) -> Path:
        """Folder of the version's adapter, fetched once into the workspace and verified at every call.

        Raises:
            InputError: there is no such version.
            ArtifactError: what was fetched, or what is cached, is not what was registered.
        """
        record, cache = self.get_version(version), self.workspace.versions
        folder = cache / f"{self.name}-{version}"
        if (
            folder.is_dir()
            and (folder / MANIFEST).is_file()
            and file_sha256(folder / MANIFEST) == record.tags.get("manifest_sha256")
        ):
            try:
                verify_manifest(folder)
            except ArtifactError as error:
                raise ArtifactError(f"{error} That folder is this home's copy: delete it, and it is fetched again.") from error
            return folder
        if is_read_only(self.workspace.root):  # looking writes nothing there: fetched for this process alone
            scratch = tempfile.mkdtemp(prefix="finsent-version-")
            atexit.register(shutil.rmtree, scratch, ignore_errors=True)
            return self.download_adapter(record, Path(scratch))
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=cache) as scratch:
            fetched = self.download_adapter(record, Path(scratch))
            for file in fetched.iterdir():  # or a power cut could leave the name and not the weights
                sync(file)
            if folder.exists():  # of another registry, or half deleted: never what was asked for
                folder.rename(Path(scratch) / "replaced")
            try:
                fetched.rename(folder)
            except OSError:  # another process was first
                if not folder.is_dir():
                    raise
        verify_manifest(folder)
        return folder

    def download_adapter(self, record: "ModelVersion", into: Path) -> Path:
        """Fetch the version's adapter from the registry into `into`, and verify it against manifest and registry.

        Raises:
            ArtifactError: the artifact is gone, or not what was registered.
            ServiceError: the MLflow server went away, or the machine refused: no space, no permission.
        """
        import mlflow.artifacts

        what, uri = f"version {str(record.version)!r} of {record.name!r}", self.workspace.tracking_uri
        try:
            with mlflow_errors(uri):
                fetched = mlflow.artifacts.download_artifacts(
                    artifact_uri=f"models:/{record.name}/{record.version}/{ADAPTER}",
                    dst_path=str(into),
                    tracking_uri=uri,
                    registry_uri=uri,
                )
        except ServiceError:
            raise
        except (TrackingError, OSError) as error:
            connect(self.workspace)  # raises ServiceError where the server, not the artifact, is at fault
            if refused := _refused_by_the_machine(error):
                raise ServiceError(
                    f"the adapter of {what} cannot be fetched: {refused}. Make room or correct the permissions, here and in the "
                    "artifact store, then try again."
                ) from error
            raise ArtifactError(
                f"the adapter of {what} cannot be fetched ({one_line(error)}). Look at the artifact store."
            ) from error
        folder = Path(fetched)
        if not (folder / MANIFEST).is_file() or file_sha256(folder / MANIFEST) != record.tags.get("manifest_sha256"):
            raise ArtifactError(f"the manifest of {what} is not the one that was registered. Its artifact was changed. Refused.")
        verify_manifest(folder)
        return folder

    def log_model_metrics(
        self, version: str, metrics: Mapping[str, float], *, run_id: str, dataset: DatasetRef | None = None
    ) -> None:
        """Put metrics on the version's LoggedModel and on the run that measured them, linked to the dataset they are about."""
        from mlflow.entities import Metric

        model_id = logged_model_id(self.get_version(version))
        named, digest = (dataset.name, dataset.digest) if dataset else (None, None)
        now = int(time.time() * 1000)
        entities = [
            Metric(key, float(value), now, 0, model_id=model_id, dataset_name=named, dataset_digest=digest, run_id=run_id)
            for key, value in metrics.items()
        ]
        for start in range(0, len(entities), 1000):
            self.client.log_batch(run_id, metrics=entities[start : start + 1000])


def version_number(given: str | None) -> str:
    """A given version's number as MLflow writes it, also of `01` or another script's digits; other text stays, None is empty."""
    return str(int(given)) if given and given.isdecimal() and len(given) <= _MOST_DIGITS else given or ""


def logged_model_id(version: "ModelVersion") -> str:
    """Id of the LoggedModel behind a version; MLflow mostly leaves `model_id` empty and keeps it in the source."""
    return str(version.model_id or str(version.source).removeprefix("models:/"))


def _refused_by_the_machine(error: Exception) -> str | None:
    """What the system said to a download, other than that a file is not there; MLflow keeps of it only the text."""
    for found in (match for cause in causes(error) for match in _SYSTEM_ERROR.finditer(str(cause))):
        if int(found[1]) not in {errno.ENOENT, errno.ENOTDIR}:
            return os.strerror(int(found[1]))
    return None
