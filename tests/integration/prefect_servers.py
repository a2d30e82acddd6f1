"""A real Prefect server and worker, as `finsent up` starts them, and how tests ask it."""

import base64
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import requests

from finsent.cli import processes, up
from finsent.cli.listening import listen
from finsent.cli.provision import provision
from finsent.cli.server_api import Ask, connect
from finsent.cli.services_file import is_healthy
from finsent.workspace import Workspace

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@cache
def signed(api: str, auth: str) -> dict[str, str]:
    """What a request to a home's own Prefect API takes: its password, and a token against forgery."""
    basic = "Basic " + base64.b64encode(auth.encode()).decode()
    client = uuid4().hex
    found = requests.get(f"{api}/csrf-token?client={client}", headers={"Authorization": basic}, timeout=20)
    return {"Authorization": basic, "Prefect-Csrf-Token": found.json()["token"], "Prefect-Csrf-Client": client}


ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
"""Types of the states in which a run is over."""


@dataclass(frozen=True)
class Server:
    home: Path
    env: dict[str, str]

    @property
    def api(self) -> Ask:
        """How finsent asks it."""
        return connect(self.env["PREFECT_API_URL"], self.env["PREFECT_API_AUTH_STRING"], direct=True, timeout=30)

    @property
    def headers(self) -> dict[str, str]:
        """Of requests that are answered."""
        return signed(self.env["PREFECT_API_URL"], self.env["PREFECT_API_AUTH_STRING"])

    def ask(self, path: str, method: str = "POST", **body: Any) -> Any:
        """Send a request to the API."""
        url = f"{self.env['PREFECT_API_URL']}/{path}"
        for _ in range(5):
            answer = requests.request(method, url, json=body, headers=self.headers, timeout=60)
            if answer.status_code != requests.codes.unavailable:
                break
            time.sleep(2)  # SQLite was locked for too long; Prefect's own client tries again, too
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def beat(self, run: str, flow: str) -> None:
        """Send a flow run's heartbeat, as its process does."""
        body = {
            "event": "prefect.flow-run.heartbeat",
            "resource": {"prefect.resource.id": f"prefect.flow-run.{run}"},
            "related": [
                {"prefect.resource.id": "prefect.flow.x", "prefect.resource.role": "flow", "prefect.resource.name": flow}
            ],
            "id": str(uuid4()),
            "occurred": datetime.now(UTC).isoformat(),
        }
        url = f"{self.env['PREFECT_API_URL']}/events"
        requests.post(url, json=[body], headers=self.headers, timeout=20).raise_for_status()


@contextmanager
def client_of(server: Server) -> Iterator[None]:
    """Prefect's own client asks this server."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    address, auth = server.env["PREFECT_API_URL"], server.env["PREFECT_API_AUTH_STRING"]
    with temporary_settings({PREFECT_API_URL: address, PREFECT_API_AUTH_STRING: auth}):
        yield


@contextmanager
def serving(home: Workspace, pool: str) -> Iterator[Server]:
    """Server and a pool's worker as `finsent up` starts them, provisioned and deployed; MLflow stays the store in the home."""
    place = up.UpOptions("127.0.0.1", free_port(), free_port(), ROOT)
    env = up.environment(home, place, "nano", None)
    env["MLFLOW_TRACKING_URI"] = home.tracking_uri
    env["PREFECT_WORKER_QUERY_SECONDS"] = "2"
    (listening,) = listen(place.host, {"prefect": place.prefect_port})["prefect"]
    started = [processes.start_service("prefect", up.prefect_command(place), env, home, [listening])]
    try:
        processes.wait_until(lambda: is_healthy(place.running.prefect_api), started[0])
        up.provision_server(place, env)
        started.append(processes.start_service(f"worker-{pool}", up.worker_command(pool, 2), env, home))
        yield Server(home.root, env)
    finally:
        processes.stop_services(started[1:])
        processes.stop_services(started[:1])
        listening.close()


def wait_for(what: str, found: Any, seconds: float = 90) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.5)
    return result


def provisioned(server: Server, files: Path) -> list[str]:
    """What provisioning says, from a folder's `prefect.yaml` and `automations.yaml`."""
    with client_of(server):
        return provision(files / "automations.yaml", ["cpu", "gpu"])
