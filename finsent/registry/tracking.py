"""Runs, parameters, metrics and datasets in MLflow, through `MlflowClient` alone: no active run that threads could mix up."""

import json
import logging
import os
import platform
import socket
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import finsent
from finsent.config import Config
from finsent.errors import FinsentError, InputError, ServiceError, TrackingError, one_line
from finsent.files import is_read_only, locked, share_with_group
from finsent.process_identity import this_process
from finsent.provenance import git_sha
from finsent.proxies import bypass_proxies
from finsent.registry.mlflow_errors import mlflow_errors, no_mlflow, public_uri, translated, unanswered
from finsent.registry.own_server import TOKEN_VARIABLE, sign_in, token_filter
from finsent.registry.relocation import local_path, require_own_locations, store_file
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from finsent.data.dataset import DataVersion, Split

_log = logging.getLogger(__name__)

_PROBE_TIMEOUT = 3.0  # seconds until the first answer; MLflow alone would retry for minutes
_PORTS = {"postgresql": 5432, "postgres": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}
_FLUSH_SECONDS = 10.0  # metrics are buffered for so long: live enough to watch, few enough requests
_FLUSH_AT = 500  # buffered metrics; the server takes 1000 in one request
_PARAM_LENGTH = 6000  # MLflow truncates longer ones silently
_DIGEST_LENGTH = 36  # the most that MLflow keeps of a dataset's digest

RunKind = Literal["audit_log", "data", "evaluate", "import", "score", "train", "trial", "tune"]
"""Tag `kind` of a run."""
RunTag = Literal[
    "audit_log_head", "confounded", "data", "data_fingerprint", "data_version", "error", "fingerprint", "finsent_version",
    "git_sha", "imported_from", "kind", "leaks", "mlflow.parentRunId", "mlflow.runName", "mlflow.source.git.commit",
    "mlflow.source.name", "mlflow.source.type", "model_version", "prefect.flow_run_id", "prefect.flow_run_name",
    "prefect.flow_run_url", "prefect.root_flow", "process", "profile", "python", "registered_model", "space", "study",
    "trial_state",
]  # fmt: skip
"""Tags of a run; a search adds `best.*`, one for each setting. Stored in MLflow: renaming one needs a migration."""


@dataclass(frozen=True)
class DatasetRef:
    """MLflow's name of the rows that a metric was measured on."""

    name: str
    digest: str


def connect(home: Workspace) -> "MlflowClient":
    """A client of the home's tracking server and registry; the fluent API is pointed there too.

    A local store is made on first use, by one process at a time.

    Raises:
        ServiceError: nothing answers at `home.tracking_uri` within seconds.
        ConfigError: it rejects the request, or is no MLflow. So do the client's methods, see `mlflow_errors`.
        CheckFailed: the home's own store keeps artifacts outside the home, see `relocation`.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    bypass_proxies()
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # stdout is for results
    if not sys.stderr.isatty():
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    uri = home.tracking_uri
    _probe(uri)
    if _is_local(uri):
        require_own_locations(home)
    import mlflow
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # tables made, versions waited for
    _point_fluent_api(mlflow, uri)
    if not _is_local(uri):
        # password and token count for the server that `finsent up` has started
        _check_admission(uri, os.environ.get(TOKEN_VARIABLE) if sign_in(uri) else None)
        return translated(MlflowClient(tracking_uri=uri, registry_uri=uri), uri)
    # two first users at once would both create the tables; a home that is read only has them, and takes no lock
    busy = "another process has been opening this home's MLflow store for three minutes."
    with nullcontext() if is_read_only(home.root) else locked(home.lock("mlflow"), 180, busy, ServiceError), mlflow_errors(uri):
        _check_database(uri)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    share_with_group(home.root / "mlflow.db")
    return translated(client, uri)


def _check_database(uri: str) -> None:
    """Read a store's file once: on one that is damaged or unreadable MLflow would try for 100 s."""
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.is_file():
        with closing(sqlite3.connect(path, timeout=_PROBE_TIMEOUT)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


@cache
def _check_admission(uri: str, token: str | None) -> None:
    """Send the server a request that needs permission, once per process (failures are not cached).

    In a worker of `finsent up` only the server with its token will do: another home's may listen at the address by now.
    """
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    with mlflow_errors(uri):
        client = MlflowClient(tracking_uri=uri)
        found = client.search_experiments(ViewType.ALL, max_results=1, filter_string=token_filter(token) if token else None)
        # of an experiment that is not there MLflow says so; what answers `{}` to everything does not
        if client.get_experiment_by_name(f"finsent.{uuid.uuid4().hex}") is not None:
            raise no_mlflow(uri, "it knows an experiment that does not exist")
    if token and not found:
        raise ServiceError(
            f"the MLflow server at {public_uri(uri)!r} is not the one that this worker's `finsent up` started: it serves another "
            "home. Nothing was sent to it. Stop this worker and run `finsent up` again."
        )


def _point_fluent_api(mlflow: Any, uri: str) -> None:
    """Point the fluent API to `uri`, and undo MLflow's export to the environment, where it would outlive this workspace."""
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


def _is_local(uri: str) -> bool:
    return uri.startswith(("sqlite:", "file:"))


def _probe(uri: str) -> None:
    """Fail within seconds if the server does not answer: MLflow itself would retry for minutes."""
    parts = urlsplit(uri)
    if not parts.hostname:
        return
    advice = "Start it (`finsent up`, or see mlflow/README.md), or correct MLFLOW_TRACKING_URI."
    if parts.scheme not in {"http", "https"}:
        port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
        if port is None or "host" in parts.query:
            return  # the driver decides; its own error names the address
        try:
            socket.create_connection((parts.hostname, port), timeout=_PROBE_TIMEOUT).close()
        except UnicodeError as error:  # of a host whose name is too long to be one
            raise unanswered(uri, error, advice) from None
        except OSError as error:
            raise ServiceError(f"the MLflow store at {public_uri(uri)!r} does not answer ({error}). {advice}") from error
        return
    import requests

    try:
        status = requests.get(f"{uri.rstrip('/')}/health", timeout=_PROBE_TIMEOUT).status_code
    except requests.exceptions.SSLError:
        return  # it answers; MLflow's own settings decide whether its certificate is accepted
    except (requests.exceptions.RequestException, ValueError) as error:
        raise unanswered(uri, error, advice) from None
    if status >= 500:
        raise ServiceError(f"the MLflow server at {public_uri(uri)!r} answers with status {status}. {advice}")


def filter_literal(text: str) -> str:
    """The text as a literal of MLflow's filter expressions, which have no escapes but two kinds of quotes.

    Raises:
        InputError: it contains both kinds, or ends in a backslash.
    """
    quote = "'" if "'" not in text else '"'
    if quote in text or text.endswith("\\"):
        raise InputError(f"MLflow cannot search for {text!r}: it has both kinds of quotes or ends in a backslash. Rename it.")
    return f"{quote}{text}{quote}"


def experiment_id(client: "MlflowClient", home: Workspace, name: str) -> str:
    """Id of the experiment, made on first use; beside a local store it keeps its artifacts in the home."""
    known = client.get_experiment_by_name(name)
    if known is None:
        location = (home.artifacts / name.strip("/")).as_uri() if _is_local(home.tracking_uri) else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except TrackingError as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            known = client.get_experiment_by_name(name)
    if known is None or known.lifecycle_stage != "active":
        raise InputError(f"MLflow experiment {name!r} was deleted. Restore it in MLflow, or set `experiment`.")
    place = local_path(known.artifact_location) if store_file(home) else None
    if place is not None and not place.resolve().is_relative_to(home.root):
        raise InputError(
            f"MLflow experiment {name!r} keeps its artifacts in {str(place)!r}, outside the home {str(home.root)!r}. Set another "
            "`experiment`."
        )
    return str(known.experiment_id)


def flatten(section: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as `a.b.c` to text, lists as JSON."""
    flat: dict[str, str] = {}
    for key, value in section.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            text = json.dumps(value, default=str) if isinstance(value, list | tuple) else str(value)
            flat[name] = text if len(text) <= _PARAM_LENGTH else f"{text[: _PARAM_LENGTH - 1]}…"
    return flat


@contextmanager
def start_run(
    config: Config,
    home: Workspace,
    *,
    kind: RunKind,
    tags: Mapping[RunTag, str] | None = None,
    data: "DataVersion | None" = None,
    resume: str | None = None,
) -> Iterator[str]:
    """Open an MLflow run named after `kind` and yield its id; it ends FINISHED, FAILED with the error as tag, or KILLED.

    Settings of model, adapter, recipe and data become its parameters, `data` the version that is worked on.
    With `resume`, that run is opened again instead, its settings and metrics kept and `tags` set.
    """
    client = connect(home)
    if resume is not None:
        # before the status: a run that is RUNNING, of a process that is gone, is ended by `finsent up`
        for key, value in {"process": this_process(), **(tags or {})}.items():
            client.set_tag(resume, key, value)
        client.update_run(resume, status="RUNNING")
        if "error" in client.get_run(resume).data.tags:
            client.delete_tag(resume, "error")  # of the interruption
        with _recorded_status(client, resume):
            yield resume
        return
    facts: dict[RunTag, str] = {"data_version": str(data.version), "data_fingerprint": data.fingerprint} if data else {}
    own: dict[RunTag, str] = {
        "mlflow.runName": f"{kind}-{config.profile}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}",
        "mlflow.source.name": f"finsent {kind}",
        "mlflow.source.type": "LOCAL",
        "kind": kind,
        "profile": config.profile,
        "process": this_process(),  # by which `finsent up` tells that the run was killed
        "finsent_version": finsent.__version__,
        "python": platform.python_version(),
    }
    if (sha := git_sha()) is not None:
        own |= {"mlflow.source.git.commit": sha, "git_sha": sha}
    experiment = config.experiment + ("-score" if kind == "score" else "")  # a hundred a day would bury the rest
    run_id = str(client.create_run(experiment_id(client, home, experiment), tags={**own, **facts, **(tags or {})}).info.run_id)
    with _recorded_status(client, run_id):
        log_params(client, run_id, _settings(config, data))
        yield run_id


def tag_run(client: "MlflowClient", run_id: str, tag: RunTag, value: str) -> None:
    """Set one tag of a run."""
    client.set_tag(run_id, tag, value)


@contextmanager
def _recorded_status(client: "MlflowClient", run_id: str) -> Iterator[None]:
    """Set the run's final status, whatever happens in it."""
    try:
        yield
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"  # Ctrl-C, SIGTERM, Prefect's TerminationSignal
        try:
            if isinstance(error, Exception):
                tag_run(client, run_id, "error", f"{type(error).__name__}: {error}"[:_PARAM_LENGTH])
            client.set_terminated(run_id, status=status)
        except (FinsentError, OSError) as lost:  # the error of the work is the one to tell
            _log.warning("the end of run %s (%s) could not be recorded in MLflow: %s", run_id, status, one_line(lost))
        raise
    client.set_terminated(run_id, status="FINISHED")


def _settings(config: Config, data: "DataVersion | None") -> dict[str, str]:
    sections = config.model_dump(mode="json", include={"model", "lora", "recipe", "data"})
    sections["quantization"] = sections["model"].pop("quantization")
    if data is not None:
        sections["data"] |= {"version": data.version, "fingerprint": data.fingerprint, "rows": data.rows, "leaks": data.leaks}
    return flatten(sections)


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    """Log parameters, in requests of 100, the server's limit."""
    from mlflow.entities import Param

    entities = [Param(key, value) for key, value in params.items()]
    for start in range(0, len(entities), 100):
        client.log_batch(run_id, params=entities[start : start + 100])


@contextmanager
def log_series(client: "MlflowClient", run_id: str) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield `log(step, values)` for per-step metrics, sent in batches.

    A server that is unreachable for a while does not end a training of hours: values are buffered and sent later.

    Raises:
        ServiceError: at the end values still could not be sent.
    """
    from mlflow.entities import Metric

    waiting: list[Metric] = []
    last = time.monotonic()

    def send() -> None:
        nonlocal last
        last = time.monotonic()
        while waiting:
            client.log_batch(run_id, metrics=waiting[:1000])
            del waiting[:1000]

    def log(step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        waiting.extend(Metric(key, float(value), now, step) for key, value in values.items())
        # the second condition spaces out attempts while the server is away
        if time.monotonic() - last > _FLUSH_SECONDS or (len(waiting) >= _FLUSH_AT and time.monotonic() - last > 1):
            try:
                send()
            except (FinsentError, OSError) as error:
                _log.warning("metrics of run %s wait, the MLflow server does not take them: %s", run_id, one_line(error))

    try:
        yield log
    finally:
        try:
            send()
        except (FinsentError, OSError) as error:
            kind = InputError if isinstance(error, TrackingError) else ServiceError
            lost = f"{len(waiting)} metrics of run {run_id!r} could not be sent to MLflow ({one_line(error)})"
            raise kind(f"{lost}. Try again; the training resumes from its last checkpoint.") from error


def log_dataset(
    client: "MlflowClient",
    run_id: str,
    home: Workspace,
    *,
    table: str,
    version: int,
    fingerprint: str,
    context: str,
    split: str | None = None,
    rows: int | None = None,
) -> DatasetRef:
    """Link the run to a version of a Delta table by reference, without copying rows; `context` is training, validation, ..."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    ref = DatasetRef(f"{table}-{split}" if split else table, fingerprint[:_DIGEST_LENGTH])
    # built by hand: MLflow's own Delta source needs Spark
    source = {"path": f"{home.tables_url.rstrip('/')}/{table}", "delta_table_version": version}
    profile = json.dumps({"num_rows": rows}) if rows is not None else None
    dataset = Dataset(ref.name, ref.digest, source_type="delta_table", source=json.dumps(source), profile=profile)
    tags = {"mlflow.data.context": context, "delta_version": str(version), "fingerprint": fingerprint}
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag(key, value) for key, value in tags.items()])])
    return ref


def log_splits(
    client: "MlflowClient", run_id: str, home: Workspace, version: int, fingerprint: str, *, train: "Split", validation: "Split"
) -> None:
    """Link the run to its training and validation rows."""
    for split, name, context in ((train, "train", "training"), (validation, "validation", "validation")):
        log_dataset(
            client,
            run_id,
            home,
            table="tweets",
            version=version,
            fingerprint=fingerprint,
            context=context,
            split=name,
            rows=len(split.texts),
        )
