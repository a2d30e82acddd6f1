"""Which servers belong to a home: `services.json`, written by `finsent up` while it runs, and proof that they still do.

An address proves nothing: after a kill another home's server may listen there. A server counts as this home's while its process
is the one recorded (id and start time) and it serves the token that this `finsent up` gave it: a tag of an experiment in MLflow,
a variable in Prefect.
"""

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import asdict, dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Final, Literal

from pydantic import TypeAdapter, ValidationError

from finsent.cli.server_api import Ask, connect
from finsent.cli.server_password import USER, auth_string, password_path
from finsent.errors import InputError, ServiceError
from finsent.files import atomic_write
from finsent.process_identity import is_running
from finsent.proxies import is_loopback
from finsent.registry.own_server import TOKEN_TAG, token_filter

PREFECT_VARIABLE: Final = "finsent_home"
"""Prefect variable that holds the token."""

ServerName = Literal["mlflow", "prefect"]

HEARTBEAT_SECONDS: Final = 30
"""Of flow runs, wherever they are started: `automations.yaml` marks a run Crashed that misses ten."""


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
    auth: str | None = field(default=None, repr=False)
    """`user:password` for the home's own; for a user's own server the user's environment has what it takes."""


def services_path(root: Path) -> Path:
    """The file that names a home's running servers."""
    return root / "services.json"


def write_services(root: Path, running: RunningServices) -> None:
    """Write `services.json` atomically, for this user alone: the token is in it."""
    atomic_write(services_path(root), json.dumps(asdict(running), indent=2) + "\n", 0o600)


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
    return _own_server(running, root, "mlflow") if running else None


def find_prefect(root: Path) -> Server | None:
    """The Prefect server to use: PREFECT_API_URL, else that of this home's `finsent up`; None without either."""
    running = read_services(root)
    given = os.environ.get("PREFECT_API_URL")
    if given and not (running and given.rstrip("/") == running.prefect_api):
        said = _health(given)
        if said is None:
            return Server(given, "does not answer")
        return Server(given, None if said.strip() == b"true" else "is no Prefect API: something else answers there")
    return _own_server(running, root, "prefect") if running else None


def password_hint(root: Path) -> str:
    """Where people find what a browser asks for."""
    return f"User {USER}, password in {password_path(root)}; Prefect's page takes both at once, as {USER}:PASSWORD."


def _own_server(running: RunningServices, root: Path, name: ServerName) -> Server:
    url = running.mlflow if name == "mlflow" else running.prefect_api
    if problem := _problem(running, root, name, url):
        return Server(url, problem)
    try:
        auth = auth_string(root)
    except InputError as error:
        return Server(url, f"cannot be asked: {error}")
    serves = _mlflow_serves if name == "mlflow" else _prefect_serves
    return Server(url, serves(url, auth, running.token), auth)


def _problem(running: RunningServices, root: Path, name: ServerName, url: str) -> str | None:
    """What shows without a request that holds the password.

    That goes to no process but the one that `finsent up` started: both hold the socket, so that nobody else can take the port
    as long as one of them lives.
    """
    if not running.token or name not in running.processes:
        return "was recorded by an earlier release, which kept no proof that it is this home's"
    if Path(running.home) != root:
        return f"belongs to the home {running.home!r}, of which this one is a copy"
    pid, started = running.processes[name]
    if not is_running(pid, started):
        return f"has ended (process {pid})"
    return None if is_healthy(url, direct=True) else "does not answer"


def connect_to(running: RunningServices, timeout: float = 5.0) -> tuple[Ask, Ask]:
    """How to ask its MLflow and its Prefect: with the home's password, and past every proxy."""
    auth = auth_string(Path(running.home))
    addresses = f"{running.mlflow}{_MLFLOW_API}", running.prefect_api
    mlflow, prefect = (connect(address, auth, direct=True, timeout=timeout) for address in addresses)
    return mlflow, prefect


def give_token(running: RunningServices) -> None:
    """Have both servers serve the token of this `finsent up`.

    Raises:
        ServiceError: one of them does not take it.
    """
    ask_mlflow, ask_prefect = connect_to(running)
    try:
        found = ask_mlflow("experiments/search", {"max_results": 1})
        experiments = found["experiments"] if "experiments" in found else [ask_mlflow("experiments/create", {"name": TOKEN_TAG})]
        tag = {"experiment_id": experiments[0]["experiment_id"], "key": TOKEN_TAG, "value": running.token}
        ask_mlflow("experiments/set-experiment-tag", tag)
        variable = {"name": PREFECT_VARIABLE, "value": running.token}
        try:
            ask_prefect(f"variables/name/{PREFECT_VARIABLE}", variable, method="PATCH")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            ask_prefect("variables/", variable)
    except _NO_ANSWER as error:
        raise ServiceError(f"a server of this `finsent up` does not take the mark of its home: {error}") from error


_MLFLOW_API: Final = "/api/2.0/mlflow"
_NO_ANSWER: Final = (OSError, ValueError, TypeError, LookupError, HTTPException)
_FOREIGN: Final = "does not serve this home: it lacks the token that `finsent up` gave it"


def _mlflow_serves(url: str, auth: str, token: str) -> str | None:
    """Why it is not the server that was given the token; None where it is."""
    query = {"max_results": 1, "filter": token_filter(token), "view_type": "ALL"}
    try:
        found = bool(connect(f"{url}{_MLFLOW_API}", auth, direct=True)("experiments/search", query)["experiments"])
    except _NO_ANSWER as error:
        return _refusal(error)
    return None if found else _FOREIGN


def _prefect_serves(url: str, auth: str, token: str) -> str | None:
    """The same of Prefect's."""
    try:
        found = connect(url, auth, direct=True)(f"variables/name/{PREFECT_VARIABLE}")["value"] == token
    except _NO_ANSWER as error:
        return _refusal(error)
    return None if found else _FOREIGN


def _refusal(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code == 401:
        return "takes another password than the home's, which was changed: start `finsent up` again"
    return _FOREIGN


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
