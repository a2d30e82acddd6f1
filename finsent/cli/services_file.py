"""Which servers belong to a home: `services.json`, written by `finsent up` while it runs, and proof that they still do.

An address proves nothing: after a kill another home's server may listen there. A server counts as this home's while its process
is the one recorded (id and start time) and it serves the token that this `finsent up` gave it: a tag of an experiment in MLflow,
a variable in Prefect.
"""

import base64
import json
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import TypeAdapter, ValidationError

from finsent.cli.server_password import USER, auth_string, password_path
from finsent.errors import InputError, ServiceError
from finsent.files import atomic_write
from finsent.process_identity import is_running
from finsent.proxies import is_loopback
from finsent.registry.own_server import TOKEN_TAG, token_filter, with_login

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
    return Server(url, serves(with_login(url, auth), running.token), auth)


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


def give_token(running: RunningServices) -> None:
    """Have both servers serve the token of this `finsent up`.

    Raises:
        ServiceError: one of them does not take it.
    """
    auth = auth_string(Path(running.home))
    experiments_api = f"{with_login(running.mlflow, auth)}/api/2.0/mlflow/experiments"
    api = with_login(running.prefect_api, auth)
    try:
        found = _ask(f"{experiments_api}/search", {"max_results": 1})
        experiments = found.get("experiments") or [_ask(f"{experiments_api}/create", {"name": TOKEN_TAG})]
        tag = {"experiment_id": experiments[0]["experiment_id"], "key": TOKEN_TAG, "value": running.token}
        _ask(f"{experiments_api}/set-experiment-tag", tag)
        variable = {"name": PREFECT_VARIABLE, "value": running.token}
        try:
            _ask(f"{api}/variables/name/{PREFECT_VARIABLE}", variable, method="PATCH")
        except urllib.error.HTTPError as error:
            if error.code != 404:
                raise
            _ask(f"{api}/variables/", variable)
    except (OSError, ValueError, TypeError, LookupError, HTTPException) as error:
        raise ServiceError(f"a server of this `finsent up` does not take the mark of its home: {error}") from error


_FOREIGN: Final = "does not serve this home: it lacks the token that `finsent up` gave it"


def _mlflow_serves(url: str, token: str) -> str | None:
    """Why it is not the server that was given the token; None where it is."""
    query = {"max_results": 1, "filter": token_filter(token), "view_type": "ALL"}
    try:
        found = bool(_ask(f"{url}/api/2.0/mlflow/experiments/search", query).get("experiments"))
    except (OSError, ValueError, HTTPException) as error:
        return _refusal(error)
    return None if found else _FOREIGN


def _prefect_serves(url: str, token: str) -> str | None:
    """The same of Prefect's."""
    try:
        found = _ask(f"{url}/variables/name/{PREFECT_VARIABLE}").get("value") == token
    except (OSError, ValueError, HTTPException) as error:
        return _refusal(error)
    return None if found else _FOREIGN


def _refusal(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError) and error.code == 401:
        return "takes another password than the home's, which was changed: start `finsent up` again"
    return _FOREIGN


_CLIENT: Final = uuid.uuid4().hex  # one for this process: the server keeps a row for each


class _Direct(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def _ask(url: str, body: Mapping[str, Any] | None = None, *, method: str | None = None, timeout: float = 5.0) -> dict[str, Any]:
    found = ask(url, body, method=method, timeout=timeout)
    if not isinstance(found, dict):
        raise ValueError(f"it answers with JSON of another kind ({type(found).__name__})")  # noqa: TRY004 - as of no JSON
    return found


@lru_cache(maxsize=2)
def _csrf_token(api: str, _tenth_minute: int) -> str:
    """Of an hour's validity, kept for ten minutes: each that is asked for is written to the server's database."""
    return str(_ask(f"{api}/csrf-token?client={_CLIENT}", timeout=30.0)["token"])


def ask(url: str, body: Mapping[str, Any] | None = None, *, method: str | None = None, timeout: float = 5.0) -> Any:
    """Ask a server of this home's directly, whatever proxy is set; the answer's JSON.

    The URL holds user name and password, see `with_login`. Redirects are not followed: these go where they were meant to go.

    Raises:
        OSError, ValueError, HTTPException: no answer, another status than 2xx, or no JSON.
    """
    parts = urllib.parse.urlsplit(url)
    auth, _, host = parts.netloc.rpartition("@")
    headers = {"Content-Type": "application/json", "Authorization": "Basic " + base64.b64encode(auth.encode()).decode()}
    before, prefect, after = url.partition("/api/")
    changes = method not in {None, "GET"} or body is not None
    if changes and prefect and not after.startswith("2.0/mlflow/"):  # Prefect asks for a token against forgery (CSRF)
        token = _csrf_token(f"{before}/api", int(time.monotonic() // 600))
        headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": _CLIENT}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), data, headers, method=method)  # noqa: S310 - our own
    with urllib.request.build_opener(urllib.request.ProxyHandler({}), _Direct).open(request, timeout=timeout) as response:
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
