"""Registered versions: put an adapter into the registry, find one, fetch its adapter back."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.config import Config
from finsent.errors import ArtifactError, InputError, NoChampionError
from finsent.home import Home
from finsent.models.manifest import MANIFEST, file_sha256, verify_manifest
from finsent.registry.packaging import ADAPTER, save_model_folder
from finsent.registry.tracking import DatasetRef, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"


def register(client: "MlflowClient", config: Config, *, run_id: str, adapter: Path, tags: Mapping[str, str] | None = None) -> str:
    """Log the adapter as a LoggedModel of the run and register it; returns the version.

    The same adapter of the same run is registered once, so a step that is run again changes nothing.

    Raises:
        ArtifactError: the adapter does not match its manifest.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    manifest = verify_manifest(adapter)
    digest = file_sha256(adapter / MANIFEST)
    name = config.registered_model
    for known in client.search_model_versions(f"name='{name}' and run_id='{run_id}'"):
        if known.tags.get("manifest_sha256") == digest:
            return str(known.version)
    facts = {
        "profile": config.profile,
        "base": manifest.base_name,
        "quantization": manifest.quantization.kind,
        "data_version": str(manifest.data_version),
        "data_fingerprint": str(manifest.data_fingerprint),
    }
    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name=name, source_run_id=run_id, tags=facts, model_type="text-classification")
    try:
        with tempfile.TemporaryDirectory(prefix="finsent-register-") as scratch:
            folder = Path(scratch) / "model"
            save_model_folder(adapter, folder, model_id=model.model_id, run_id=run_id, metadata=facts)
            client.log_model_artifacts(model.model_id, str(folder))
    except BaseException:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    _ensure_registered_model(client, name)
    created = client.create_model_version(
        name,
        source=f"models:/{model.model_id}",
        run_id=run_id,
        model_id=model.model_id,
        tags={"stage": "None", "run_id": run_id, "manifest_sha256": digest, **facts, **(tags or {})},
    )
    return str(created.version)


def _ensure_registered_model(client: "MlflowClient", name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, description="Financial-tweet sentiment: LoRA adapters, promoted on evidence.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def aliases(client: "MlflowClient", name: str) -> dict[str, str]:
    """Alias to version; empty if the model is not registered."""
    from mlflow.exceptions import MlflowException

    try:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise


def version_by_alias(home: Home, name: str, alias: str) -> str | None:
    """Version that carries the alias, if any."""
    return aliases(connect(home), name).get(alias)


def champion(home: Home, name: str) -> str | None:
    """Version that scores tweets, if there is one."""
    return version_by_alias(home, name, CHAMPION)


def require_champion(home: Home, name: str) -> str:
    """Version that scores tweets.

    Raises:
        NoChampionError: no version was promoted yet.
    """
    version = champion(home, name)
    if version is None:
        raise NoChampionError(f"{name!r} has no champion yet: run `finsent promote`, after train and evaluate.")
    return version


def latest_version(home: Home, name: str) -> str:
    """Newest version.

    Raises:
        InputError: nothing is registered under this name.
    """
    newest = connect(home).search_model_versions(f"name='{name}'", order_by=["version_number DESC"], max_results=1)
    if not newest:
        raise InputError(f"{name!r} has no version yet: run `finsent train`.")
    return str(newest[0].version)


def resolve(home: Home, name: str, given: str) -> str:
    """Number of the version that `given` names: a number, or an alias such as `champion`.

    Raises:
        InputError: there is no such version and no such alias.
    """
    client = connect(home)
    if given.isdecimal():
        return str(get_version(client, name, given).version)
    known = aliases(client, name)
    if given not in known:
        there = ", ".join(f"{alias} (version {version})" for alias, version in sorted(known.items())) or "none yet"
        raise InputError(f"{given!r} is no version of {name!r} and no alias of one. Its aliases: {there}.")
    return known[given]


def get_version(client: "MlflowClient", name: str, version: str) -> "ModelVersion":
    """The registry's record of a version.

    Raises:
        InputError: there is no such version.
    """
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, version)
    except MlflowException as error:
        if error.error_code not in {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}:
            raise
        known = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
        there = f"Its versions: {', '.join(map(str, known))}." if known else "It has none yet: run `finsent train`."
        raise InputError(f"{name!r} has no version {version!r}. {there}") from error


def logged_model_id(version: "ModelVersion") -> str:
    """Id of the LoggedModel behind a version; MLflow mostly leaves `model_id` empty and keeps it in the source."""
    return str(version.model_id or str(version.source).removeprefix("models:/"))


def adapter_path(home: Home, name: str, version: str) -> Path:
    """Folder of the version's adapter, fetched once into the home and verified at every call.

    Raises:
        InputError: there is no such version.
        ArtifactError: what was fetched, or what lies in the home, is not what was registered.
    """
    client = connect(home)
    record = get_version(client, name, version)
    folder = home.versions / f"{name}-{version}"
    if folder.is_dir() and (folder / MANIFEST).is_file() and file_sha256(folder / MANIFEST) == record.tags.get("manifest_sha256"):
        verify_manifest(folder)
        return folder
    home.versions.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=home.versions) as scratch:
        fetched = download_adapter(home, record, Path(scratch))
        if folder.exists():  # of another registry, or half deleted: never what was asked for
            folder.rename(Path(scratch) / "replaced")
        try:
            fetched.rename(folder)
        except OSError:  # another process was first
            if not folder.is_dir():
                raise
    verify_manifest(folder)
    return folder


def download_adapter(home: Home, record: "ModelVersion", into: Path) -> Path:
    """Fetch the version's adapter from the registry into `into`, and verify it against manifest and registry.

    Raises:
        ArtifactError: the artifact is gone, or not what was registered.
        ServiceError: MLflow has gone away.
    """
    import mlflow.artifacts
    from mlflow.exceptions import MlflowException

    what = f"version {str(record.version)!r} of {record.name!r}"
    try:
        fetched = mlflow.artifacts.download_artifacts(
            artifact_uri=f"models:/{record.name}/{record.version}/{ADAPTER}",
            dst_path=str(into),
            tracking_uri=home.tracking_uri,
            registry_uri=home.tracking_uri,
        )
    except (MlflowException, OSError) as error:
        connect(home)  # a server that is away is no fault of the artifact's, and says so here
        reason = " ".join(str(error).split())
        raise ArtifactError(f"the adapter of {what} cannot be fetched ({reason}). Look at the artifact store.") from error
    folder = Path(fetched)
    if not (folder / MANIFEST).is_file() or file_sha256(folder / MANIFEST) != record.tags.get("manifest_sha256"):
        raise ArtifactError(f"the manifest of {what} is not the one that was registered. Its artifact was changed. Refused.")
    verify_manifest(folder)
    return folder


def log_model_metrics(
    client: "MlflowClient",
    name: str,
    version: str,
    metrics: Mapping[str, float],
    *,
    run_id: str,
    dataset: DatasetRef | None = None,
) -> None:
    """Put metrics on the version's LoggedModel and on the run that measured them, tied to the rows they were measured on."""
    from mlflow.entities import Metric

    model_id = logged_model_id(get_version(client, name, version))
    named, digest = (dataset.name, dataset.digest) if dataset else (None, None)
    now = int(time.time() * 1000)
    entities = [
        Metric(key, float(value), now, 0, model_id=model_id, dataset_name=named, dataset_digest=digest, run_id=run_id)
        for key, value in metrics.items()
    ]
    for start in range(0, len(entities), 1000):
        client.log_batch(run_id, metrics=entities[start : start + 1000])


def set_tags(client: "MlflowClient", name: str, version: str, tags: Mapping[str, object]) -> None:
    """Tag a version; what is not text becomes JSON."""
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value if isinstance(value, str) else json.dumps(value))
