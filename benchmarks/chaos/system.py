"""The system under test: where it lies, its processes, and its Prefect API, asked as the UI asks it. Linux only."""

import base64
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from finsent.cli.services_file import RunningServices, read_services
from finsent.errors import FinsentError
from finsent.process_identity import is_running

MARK: Final = "FINSENT_MONTH"
"""Environment variable by which a run knows its own processes: everything that is started inherits it."""
LIVING: Final = ("RUNNING", "PENDING", "CANCELLING")
"""Types of states in which a flow run is at work."""
_CSRF: Final[dict[str, str]] = {}
"""Prefect's token against forged requests, by its server's address."""


@dataclass(frozen=True)
class Place:
    """Folders and addresses of one run."""

    folder: Path
    token: str
    mlflow_port: int
    prefect_port: int
    period: float
    """Seconds between two scheduled scoring runs."""
    database: str
    """Of the Prefect server: `sqlite` or a URL."""
    project_folder: Path | None = None
    """Whose `prefect.yaml` is deployed; None: the one with short schedules."""

    @property
    def home(self) -> Path:
        """The workspace, on a disk of its own where one could be mounted."""
        return self.folder / "disk" / "home"

    @property
    def config(self) -> Path:
        """Configuration of all commands and flows."""
        return self.folder / "month.yaml"

    @property
    def incoming(self) -> Path:
        """Folder that tweets to be scored arrive in."""
        return self.folder / "incoming"

    @property
    def labelled(self) -> Path:
        """Folder that labelled tweets arrive in."""
        return self.folder / "labelled"

    @property
    def project(self) -> Path:
        """Folder of `prefect.yaml` and `automations.yaml`."""
        return self.project_folder or self.folder / "project"

    @property
    def ledger(self) -> Path:
        """What was fed, a line for each file: kept by the run, apart from anything that finsent writes."""
        return self.folder / "ledger.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: the caller's own, without servers and workspaces that are none of this run's."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_", "FINSENT_"))}
        own |= {MARK: self.token, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TMPDIR": str(self.folder / "tmp")}
        if self.database != "sqlite":
            own["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = self.database
        return own


class AwayError(Exception):
    """The Prefect API does not answer."""


def command(place: Place, *arguments: str) -> list[str]:
    """A finsent command of this run."""
    options = ["--home", str(place.home), "--profile", "nano", "--config", str(place.config)]
    return [sys.executable, "-m", "finsent", arguments[0], *options, *arguments[1:]]


def finsent(place: Place, *arguments: str, seconds: float = 180) -> tuple[int, dict[str, Any], str]:
    """Run a command; its exit code, its JSON object (empty without one), and what it said on stderr."""
    try:
        done = subprocess.run(
            command(place, *arguments), env=place.environment, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        return 124, {}, f"no end within {seconds:.0f} s"
    try:
        found = json.loads(done.stdout or "{}")
    except ValueError:
        found = {}
    return done.returncode, found, done.stderr[-3000:]


def start_up(place: Place) -> "subprocess.Popen[bytes]":
    """Start `finsent up`; what it says goes to up.log."""
    ports = ("--mlflow-port", str(place.mlflow_port), "--prefect-port", str(place.prefect_port))
    with (place.folder / "up.log").open("ab") as log:
        log.write(f"--- {time.strftime('%H:%M:%S')} start\n".encode())
        log.flush()
        arguments = command(place, "up", "--project", str(place.project), *ports)
        return subprocess.Popen(
            arguments, env=place.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


def services(place: Place) -> RunningServices | None:
    """What `services.json` says, whether true or not."""
    try:
        return read_services(place.home)
    except (FinsentError, OSError):
        return None


def service_pid(place: Place, name: str) -> int | None:
    """Process id of a service that lives, `up` included."""
    found = services(place)
    if found is None:
        return None
    if name == "up":
        return found.pid if found.pid in own_pids(place) else None
    pid, started = found.processes.get(name, (0, 0.0))
    return pid if pid and is_running(pid, started) else None


def own_pids(place: Place) -> dict[int, dict[str, str]]:
    """Processes of this run that live, zombies left out, with the variables of their environment that matter here."""
    mark, found = f"{MARK}={place.token}".encode(), {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            raw = Path(entry.path, "environ").read_bytes()
            if mark in raw and b"\nState:\tZ" not in Path(entry.path, "status").read_bytes():
                items = (item.partition(b"=") for item in raw.split(b"\0"))
                kept = {
                    key.decode(): value.decode() for key, _, value in items if key.startswith((b"PREFECT__FLOW", b"FINSENT_M"))
                }
                found[int(entry.name)] = kept
        except OSError:
            continue  # it ended meanwhile
    return found


def parent_of(pid: int) -> int:
    """Process id of a process's parent; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0


def command_line(pid: int) -> str:
    """How a process was called, shortened; empty if it has ended."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    return " ".join(Path(word).name if word.startswith("/") else word for word in words)[:160].strip()


def flow_pids(place: Place) -> dict[str, int]:
    """Process of each flow run that has one: the outermost, which executes the flow."""
    pids = own_pids(place)
    runs = {pid: run for pid, kept in pids.items() if (run := kept.get("PREFECT__FLOW_RUN_ID"))}
    return {run: pid for pid, run in runs.items() if runs.get(parent_of(pid)) != run}


def below(pid: int) -> list[int]:
    """A process and all that it started."""
    import psutil

    try:
        return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal; whether the process was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def pss_mb(pid: int) -> float:
    """Memory of a process, in MB, shared pages by their share."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:")), 0.0)


def answers(place: Place, name: str) -> bool:
    """Whether a server answers at its health address, asked for a password or not."""
    url = f"http://127.0.0.1:{place.mlflow_port}" if name == "mlflow" else f"http://127.0.0.1:{place.prefect_port}/api"
    try:
        with _direct().open(f"{url}/health", timeout=1.5):
            return True
    except urllib.error.HTTPError as error:
        return error.code in {401, 403}
    except (OSError, HTTPException):
        return False


def ask(place: Place, path: str, body: Any = None, *, method: str = "", seconds: float = 5.0) -> Any:
    """Ask the Prefect API; POST where there is a body. Its answer's JSON.

    Raises:
        AwayError: it does not answer, or not as it should.
    """
    base, kind = f"http://127.0.0.1:{place.prefect_port}/api", method or ("GET" if body is None else "POST")
    for attempt in (1, 2):
        headers = {"Content-Type": "application/json", **_credentials(place)}
        if kind != "GET" and base in _CSRF:
            headers |= {"Prefect-Csrf-Token": _CSRF[base], "Prefect-Csrf-Client": place.token}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{base}/{path}", data, headers, method=kind)  # noqa: S310 - our own http address
        try:
            with _direct().open(request, timeout=seconds) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")[:300]
            if attempt == 1 and error.code == 403 and "CSRF" in said:
                token = ask(place, f"csrf-token?client={place.token}")
                _CSRF[base] = token["token"]
                continue
            raise AwayError(f"{kind} {path}: {error.code} {said}") from error
        except (OSError, HTTPException, ValueError) as error:
            raise AwayError(f"{kind} {path}: {error}") from error
    raise AwayError(f"{kind} {path}: the token against forged requests is not taken")


def all_of(place: Place, what: str, **body: Any) -> list[dict[str, Any]]:
    """All objects of a kind that a filter finds, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = ask(place, f"{what}/filter", {"limit": 200, "offset": len(found), **body}, seconds=10)
        found += page
        if len(page) < 200:
            return found


def flow_names(place: Place) -> dict[str, str]:
    """Names of flows by id."""
    return {flow["id"]: flow["name"] for flow in all_of(place, "flows")}


def living_runs(place: Place) -> list[dict[str, Any]]:
    """Flow runs that are at work as far as the server knows, each with its flow's name and its outermost run's id."""
    found = all_of(place, "flow_runs", flow_runs={"state": {"type": {"any_": list(LIVING)}}})
    if not found:
        return []
    names = flow_names(place)
    return [{**run, "flow": names.get(run["flow_id"], "?"), "outer": _outer(place, run)} for run in found]


def _outer(place: Place, run: dict[str, Any]) -> str:
    """Id of the run whose process executes this one: a subflow is in its parent's."""
    while run.get("parent_task_run_id"):
        parent = ask(place, f"task_runs/{run['parent_task_run_id']}")["flow_run_id"]
        if not parent:
            break
        run = ask(place, f"flow_runs/{parent}")
    return str(run["id"])


def start_run(place: Place, name: str) -> str:
    """Start a run of a deployment, as an operator does; its id."""
    deployment = ask(place, f"deployments/name/{name}/{name}")
    run = ask(place, f"deployments/{deployment['id']}/create_flow_run", {"idempotency_key": str(uuid4())})
    return str(run["id"])


def _credentials(place: Place) -> dict[str, str]:
    """The home's own password, where it has one."""
    file = place.home / "server_password"
    try:
        password = file.read_text(encoding="utf-8").strip()
    except OSError:
        return {}
    return {"Authorization": "Basic " + base64.b64encode(f"finsent:{password}".encode()).decode()}


def _direct() -> urllib.request.OpenerDirector:
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))
