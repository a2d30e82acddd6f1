"""Which servers belong to a home: `services.json`, written by `finsent up` while it runs, and proof that they still do.

An address proves nothing: after a kill another home's server may listen there. A server counts as this home's while its process
is the one recorded (id and start time) and it serves the token that this `finsent up` gave it: a tag of an experiment in MLflow,
a variable in Prefect.
"""

import base64
import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from finsent.errors import InputError, ServiceError
from finsent.files import atomic_write
from finsent.process_identity import is_running
from finsent.proxies import is_loopback
from finsent.registry.tracking import TOKEN_TAG, token_filter

PREFECT_VARIABLE: Final = "finsent_home"
"""Prefect variable that holds the token."""

ServerName = Literal["mlflow", "prefect"]

HEARTBEAT_SECONDS: Final = 30
"""Of flow runs, wherever they are started: `automations.yaml` marks a run Crashed that misses two."""


@dataclass(frozen=True)
class RunningServices:
    """The servers of one `finsent up`. Of a file that an earlier release wrote, the home and what follows are missing."""

    pid: int
    """Process that started them and stops them."""
    mlflow: str
    """URL of the MLflow server."""
    prefect: str
    """URL of the Prefect UI; its API is under /api."""
    home: str = ""
    """The home's folder: the file may have been copied with it."""
    token: str = ""
    """Random text that both servers serve."""
    processes: dict[str, tuple[int, float]] = field(default_factory=dict)
    """Process id and start time (see `start_time`) of each service."""
    restarts: dict[str, int] = field(default_factory=dict)
    """How often each of those that ended or froze was started again."""

    @property
    def prefect_api(self) -> str:
        """URL that PREFECT_API_URL takes."""
        return f"{self.prefect}/api"


@dataclass(frozen=True)
class Server:
    """A server that a home may use."""

    url: str
    problem: str | None
    """Why it is not used, as the rest of a sentence about it."""


def services_path(root: Path) -> Path:
    """The file that names a home's running servers."""
    return root / "services.json"


def write_services(root: Path, running: RunningServices) -> None:
    """Write `services.json` atomically, for this user alone: the token is in it."""
    atomic_write(services_path(root), json.dumps(asdict(running), indent=2) + "\n")
    services_path(root).chmod(0o600)


def read_services(root: Path) -> RunningServices | None:
    """The servers in `services.json`, whether or not they still answer; None without the file.

    Raises:
        InputError: the file is not what `finsent up` writes.
    """
    target = services_path(root)
    if not target.is_file():
        return None
    try:
        return TypeAdapter(RunningServices).validate_json(target.read_bytes(), strict=True)
    except ValidationError as error:
        # without the values, one of which is the token
        wrong = "; ".join(": ".join((*map(str, item["loc"]), item["msg"])) for item in error.errors())
        raise InputError(
            f"{str(target)!r} is not what `finsent up` writes ({wrong}). Delete it and run `finsent up` again."
        ) from error


def find_mlflow(root: Path) -> Server | None:
    """The MLflow server of this home's `finsent up`; None where none is recorded."""
    running = read_services(root)
    return Server(running.mlflow, _problem(running, root, "mlflow")) if running else None


def find_prefect(root: Path) -> Server | None:
    """The Prefect server to use: PREFECT_API_URL, else that of this home's `finsent up`; None without either."""
    if given := os.environ.get("PREFECT_API_URL"):
        said = _health(given)
        if said is None:
            return Server(given, "does not answer")
        return Server(given, None if said.strip() == b"true" else "is no Prefect API: something else answers there")
    running = read_services(root)
    return Server(running.prefect_api, _problem(running, root, "prefect")) if running else None


def _problem(running: RunningServices, root: Path, name: ServerName) -> str | None:
    if not running.token or name not in running.processes:
        return "was recorded by an earlier release, which kept no proof that it is this home's"
    if Path(running.home) != root:
        return f"belongs to the home {running.home!r}, of which this one is a copy"
    pid, started = running.processes[name]
    if not is_running(pid, started):
        return f"has ended (process {pid})"
    url = running.mlflow if name == "mlflow" else running.prefect_api
    if not is_healthy(url, direct=True):
        return "does not answer"
    if not (_mlflow_serves if name == "mlflow" else _prefect_serves)(url, running.token):
        return "does not serve this home: it lacks the token that `finsent up` gave it"
    return None


def give_token(running: RunningServices) -> None:
    """Have both servers serve the token of this `finsent up`.

    Raises:
        ServiceError: one of them does not take it.
    """
    try:
        found = _ask(f"{running.mlflow}/api/2.0/mlflow/experiments/search", {"max_results": 1})
        experiments = found.get("experiments") or [
            _ask(f"{running.mlflow}/api/2.0/mlflow/experiments/create", {"name": TOKEN_TAG})
        ]
        tag = {"experiment_id": experiments[0]["experiment_id"], "key": TOKEN_TAG, "value": running.token}
        _ask(f"{running.mlflow}/api/2.0/mlflow/experiments/set-experiment-tag", tag)
        variable = {"name": PREFECT_VARIABLE, "value": running.token}
        try:
            _ask(f"{running.prefect_api}/variables/name/{PREFECT_VARIABLE}", variable, method="PATCH")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            _ask(f"{running.prefect_api}/variables/", variable)
    except (OSError, ValueError, TypeError, LookupError, HTTPException) as error:
        raise ServiceError(f"a server of this `finsent up` does not take the mark of its home: {error}") from error


def _mlflow_serves(url: str, token: str) -> bool:
    query = {"max_results": 1, "filter": token_filter(token), "view_type": "ALL"}
    try:
        return bool(_ask(f"{url}/api/2.0/mlflow/experiments/search", query).get("experiments"))
    except (OSError, ValueError, HTTPException):
        return False


def _prefect_serves(url: str, token: str) -> bool:
    try:
        return bool(_ask(f"{url}/variables/name/{PREFECT_VARIABLE}").get("value") == token)
    except (OSError, ValueError, HTTPException):
        return False


def _ask(url: str, body: dict[str, Any] | None = None, *, method: str | None = None) -> dict[str, Any]:
    found = ask(url, body, method=method)
    if not isinstance(found, dict):
        raise ValueError(f"it answers with JSON of another kind ({type(found).__name__})")  # noqa: TRY004 - as of no JSON
    return found


def ask(url: str, body: Mapping[str, Any] | None = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
    """Ask a server of this home's directly, whatever proxy is set; the answer's JSON.

    Raises:
        OSError, ValueError, HTTPException: no answer, another status than 2xx, or no JSON.
    """
    headers = {"Content-Type": "application/json"}
    if password := os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers, method=method)  # noqa: S310 - our own http URLs
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout) as response:
        answer = response.read()
    try:
        return json.loads(answer) if answer else {}
    except RecursionError as error:
        raise ValueError("it answers with JSON of endless nests") from error


def is_healthy(url: str, timeout: float = 2.0, *, direct: bool = False) -> bool:
    """Whether `url`/health, of an MLflow server or a Prefect API, answers within `timeout` seconds.

    This machine, and with `direct` any server, is asked without the environment's proxy. One that asks for a
    password or another certificate does answer.
    """
    return _health(url, timeout, direct=direct) is not None


def _health(url: str, timeout: float = 2.0, *, direct: bool = False) -> bytes | None:
    """The beginning of what it answers, a Prefect API `true`, as is assumed of one that asks for more; None: no answer."""
    try:
        parts = urllib.parse.urlsplit(url)
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # urllib takes a password for part of the host
        proxies = urllib.request.ProxyHandler({} if direct or is_loopback(url) else None)
        with urllib.request.build_opener(proxies).open(f"{bare.rstrip('/')}/health", timeout=timeout) as response:
            return bytes(response.read(100)) if response.status < 400 else None
    except urllib.error.HTTPError as error:
        return b"true" if error.code in {401, 403} else None
    except (OSError, ValueError, HTTPException) as error:
        return b"true" if isinstance(getattr(error, "reason", None), ssl.SSLError) else None
