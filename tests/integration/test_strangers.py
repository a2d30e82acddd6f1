"""What a web page and other users of the machine can do to the servers of `finsent up`: nothing (docs/security.md)."""

import http.server
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from finsent.cli.server_password import auth_string
from tests.integration.prefect_servers import ROOT, Server, free_port

pytestmark = [pytest.mark.integration, pytest.mark.long]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@dataclass(frozen=True)
class Up:
    home: Path
    mlflow: str
    prefect: str

    @property
    def owner(self) -> Server:
        """Who has the password."""
        return Server(self.home, {"PREFECT_API_URL": f"{self.prefect}/api", "PREFECT_API_AUTH_STRING": auth_string(self.home)})

    @property
    def auth(self) -> tuple[str, str]:
        user, _, password = auth_string(self.home).partition(":")
        return user, password

    def finsent(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """A command on the home, as its owner types it."""
        command = [sys.executable, "-m", "finsent", *arguments, "--home", str(self.home)]
        return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("up") / "home"
    ports = ["--mlflow-port", str(free_port()), "--prefect-port", str(free_port())]
    command = [sys.executable, "-m", "finsent", "up", "--json", "--home", str(home), "--project", str(ROOT), *ports]
    env = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert said["password"] == str(home / "server_password")
        yield Up(home, said["mlflow"], said["prefect"])
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=120)


MLFLOW = (
    *("GET /", "GET /version", "GET /static-files/static/js/main.js", "POST /api/2.0/mlflow/experiments/search"),
    *("POST /ajax-api/2.0/mlflow/experiments/search", "POST /graphql", "GET /get-artifact?run_id=x&path=y", "GET /metrics"),
    *("GET /model-versions/get-artifact?name=finsent&version=1&path=x", "POST /ajax-api/2.0/mlflow/gateway-proxy"),
    *("GET /ajax-api/3.0/mlflow/assistant/config", "POST /ajax-api/3.0/jobs/", "POST /v1/traces"),
    *("GET /api/2.0/mlflow-artifacts/artifacts", "PUT /api/2.0/mlflow-artifacts/artifacts/x", "GET /health/../version"),
)
PREFECT = (
    *("POST /flow_runs/filter", "POST /flow_runs/", "POST /deployments/filter", "GET /admin/settings", "GET /admin/version"),
    *("POST /admin/database/clear", "GET /csrf-token?client=x", "GET /variables/name/finsent_home", "POST /events"),
    *("POST /logs/filter", "POST /work_pools/filter", "GET /docs", "GET /openapi.json", "POST /block_documents/filter"),
    *("GET /health/x", "GET /variables/name/health", "POST /health"),
)


@pytest.mark.parametrize("credentials", [None, ("finsent", "guessed"), ("admin", "password1234"), ("finsent", "")])
def test_without_the_password_everything_is_401(servers: Up, credentials: tuple[str, str] | None) -> None:
    routes = [(servers.mlflow, route) for route in MLFLOW] + [(f"{servers.prefect}/api", route) for route in PREFECT]
    for base, route in routes:
        method, _, path = route.partition(" ")
        answer = requests.request(method, f"{base}{path}", json={} if method != "GET" else None, auth=credentials, timeout=20)
        # CSRF is looked at first, and says no as well
        refused = {401} if method == "GET" or base == servers.mlflow else {401, 403}
        assert answer.status_code in refused, (base, route, answer.status_code)
        assert len(answer.content) < 200, "nothing but the refusal"
    assert requests.get(f"{servers.mlflow}/health", timeout=20).text == "OK"
    assert requests.get(f"{servers.prefect}/api/health", timeout=20).json() is True


@pytest.mark.parametrize("path", ["events/in", "events/out", "logs/out", "task_runs/subscriptions/scheduled"])
@pytest.mark.parametrize("token", [None, "", "finsent:guessed"])
def test_without_the_password_no_web_socket_speaks(servers: Up, path: str, token: str | None) -> None:
    from websockets.exceptions import ConnectionClosed, InvalidStatus
    from websockets.sync.client import connect

    address = f"{servers.prefect.replace('http', 'ws')}/api/{path}"
    with pytest.raises(InvalidStatus):
        connect(address, proxy=None)
    with connect(address, subprotocols=["prefect"], proxy=None) as socket:  # type: ignore[list-item]
        socket.send(json.dumps({"type": "auth", "token": token}))
        with pytest.raises(ConnectionClosed) as caught:
            socket.recv(timeout=10)
    assert caught.value.rcvd is not None
    assert caught.value.rcvd.code == 1008
    with pytest.raises(InvalidStatus, match="403"):
        connect(address, subprotocols=["prefect"], origin="http://127.0.0.1:1", proxy=None)  # type: ignore[list-item,arg-type]


@pytest.mark.parametrize(("header", "code"), [({"Host": "evil.example"}, 400), ({"Origin": "http://localhost:1"}, 403)])
def test_even_with_the_password_no_foreign_page_is_answered(servers: Up, header: dict[str, str], code: int) -> None:
    """As a browser sends it that has stored the password: by a name that resolves here, or from a page of this machine's."""
    asked = [
        (f"{servers.prefect}/api/flow_runs/filter", servers.owner.headers),
        (f"{servers.mlflow}/api/2.0/mlflow/experiments/search", {}),
        (f"{servers.mlflow}/graphql", {}),
    ]
    for url, headers in asked:
        for method in ("POST", "OPTIONS"):
            answer = requests.request(method, url, json={}, headers={**headers, **header}, auth=servers.auth, timeout=20)
            assert answer.status_code == code, (url, method)
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_the_pages_own_requests_are_answered(servers: Up) -> None:
    for url in (f"{servers.prefect}/api/flow_runs/filter", f"{servers.mlflow}/api/2.0/mlflow/experiments/search"):
        own = {"Origin": "/".join(url.split("/")[:3]), "Sec-Fetch-Site": "same-origin"}
        body = {"max_results": 1} if "mlflow" in url else {}
        headers = {**(servers.owner.headers if "flow_runs" in url else {}), **own}
        answer = requests.post(url, json=body, headers=headers, auth=servers.auth, timeout=20)
        assert answer.status_code == 200, answer.text
    settings = requests.get(f"{servers.prefect}/ui-settings", timeout=20).json()
    assert (settings["api_url"], settings["auth"], settings["csrf_enabled"]) == ("/api", "BASIC", True)


def test_an_approval_cannot_be_resumed_by_a_stranger(servers: Up) -> None:
    owner, api = servers.owner, f"{servers.prefect}/api"
    flow = owner.ask("flows/", name="approve")["id"]
    run = owner.ask("flow_runs/", name="asks", flow_id=flow, state={"type": "RUNNING"})["id"]
    owner.ask(f"flow_runs/{run}/set_state", state={"type": "PAUSED", "name": "Suspended"}, force=True)
    form = {"run_input": {"verdict": "approve", "who": "ada", "why": "mine now"}}
    for auth in (None, ("finsent", "x"), servers.auth):  # the last one without a token against forgery
        answer = requests.post(f"{api}/flow_runs/{run}/resume", json=form, auth=auth, timeout=20)
        assert answer.status_code in {401, 403}
    (found,) = owner.ask("flow_runs/filter", flow_runs={"id": {"any_": [run]}})
    assert found["state_type"] == "PAUSED"
    owner.ask(f"flow_runs/{run}/set_state", state={"type": "CANCELLED"}, force=True)


def test_commands_of_the_home_ask_nobody_for_a_password(servers: Up) -> None:
    status = servers.finsent("status", "--json")
    assert status.returncode == 0, status.stderr
    said = json.loads(status.stdout)
    assert {name: found["answers"] for name, found in said["services"].items()} == {"mlflow": True, "prefect": True}
    assert said["password"] == str(servers.home / "server_password")
    assert "using the MLflow server" in status.stderr
    shown = servers.finsent("status")
    assert f"User finsent, password in {servers.home / 'server_password'}" in " ".join(shown.stdout.split())
    assert auth_string(servers.home).partition(":")[2] not in status.stdout + status.stderr + shown.stdout
    sample = ROOT / "finsent" / "data" / "sample" / "desk.csv.gz"
    ingested = servers.finsent("ingest", str(sample), "--json")
    assert ingested.returncode == 0, ingested.stderr
    runs = requests.post(
        f"{servers.mlflow}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": [str(number) for number in range(5)]},
        auth=servers.auth,
        timeout=20,
    ).json()
    assert [run for run in runs["runs"] if {"key": "kind", "value": "data"} in run["data"]["tags"]]


PAGE = """<!doctype html><title>prices</title><form id=form target=frame method=post enctype=text/plain></form>
<iframe name=frame id=frame></iframe><script>
const said = [], prefect = PREFECT, mlflow = MLFLOW, run = RUN;
const tell = (what, got) => said.push(what + ': ' + got);
const post = (name, url, more) => fetch(url, {method: 'POST', body: JSON.stringify(run), credentials: 'include', ...more})
  .then(r => r.text().then(t => tell(name, r.status + ' ' + t.slice(0, 60))), () => tell(name, 'unreadable'));
const json = {headers: {'Content-Type': 'application/json'}};
(async () => {
  await post('prefect', prefect + '/api/flow_runs/', json);
  await post('prefect simple', prefect + '/api/flow_runs/', {mode: 'no-cors'});
  await post('mlflow', mlflow + '/api/2.0/mlflow/experiments/create', json);
  await post('mlflow simple', mlflow + '/api/2.0/mlflow/experiments/create', {mode: 'no-cors'});
  await post('graphql', mlflow + '/graphql', json);
  await fetch(prefect + '/api/deployments/filter').then(() => tell('read', 'readable'), () => tell('read', 'unreadable'));
  await fetch(prefect + '/ui-settings').then(() => tell('settings', 'readable'), () => tell('settings', 'unreadable'));
  for (const path of ['/api/events/in', '/api/events/out'])
    await new Promise(done => { const socket = new WebSocket(prefect.replace('http', 'ws') + path, 'prefect');
      socket.onopen = () => { tell('socket', 'open'); done() }; socket.onerror = () => { tell('socket', 'refused'); done() } });
  const form = document.getElementById('form'), field = document.createElement('input');
  form.action = mlflow + '/api/2.0/mlflow/experiments/create';
  field.name = '{"name":"evil form","x":"'; field.value = '"}'; form.append(field); form.submit();
  const frame = document.getElementById('frame');
  await new Promise(done => { frame.onload = done; setTimeout(done, 3000) });
  await fetch('/said', {method: 'POST', body: said.join('\\n')});
})();
</script>"""


@contextmanager
def hostile_page(servers: Up, flow: str, name: str) -> Iterator[tuple[str, "queue.Queue[str]"]]:
    """Address of the page, on a server of that name, and what it says of its attempts."""
    heard: queue.Queue[str] = queue.Queue()
    run = {"name": "evil", "flow_id": flow, "deployment_id": None, "job_variables": {"command": "touch /tmp/evil"}}
    values = {"PREFECT": servers.prefect, "MLFLOW": servers.mlflow, "RUN": run}
    page = PAGE
    for variable, value in values.items():
        page = page.replace(f"= {variable}", f"= {json.dumps(value)}")

    class Pages(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def do_POST(self) -> None:
            heard.put(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{name}:{server.server_port}/", heard
        server.shutdown()
        thread.join()


@contextmanager
def browsing(url: str, profile: Path, mode: str) -> Iterator["subprocess.Popen[str]"]:
    """A real browser at the page, in which evil.example resolves to this machine.

    With `--dump-dom` it ends once the page is loaded, with `--remote-debugging-port=0` it stays.
    """
    command = [
        *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", f"--user-data-dir={profile}"),
        *("--host-resolver-rules=MAP *.example 127.0.0.1", "--no-proxy-server", mode, url),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as browser:
        yield browser
        browser.terminate()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
@pytest.mark.parametrize("name", ["evil.example", "localhost", "127.0.0.1"])
def test_a_hostile_page_in_a_real_browser_does_nothing(servers: Up, tmp_path: Path, name: str) -> None:
    flow = servers.owner.ask("flows/", name="score")["id"]
    with hostile_page(servers, flow, name) as (page, heard), browsing(page, tmp_path, "--remote-debugging-port=0"):
        said = heard.get(timeout=60).splitlines()
    # what it may send it cannot read: `0` is the status of an answer that is kept from the page
    assert [line for line in said if line.split(": ")[1].strip() not in {"unreadable", "refused", "0"}] == []
    assert len(said) == 9
    assert servers.owner.ask("flow_runs/filter", flow_runs={"name": {"any_": ["evil"]}}) == []
    found = requests.post(
        f"{servers.mlflow}/api/2.0/mlflow/experiments/search", json={"max_results": 50}, auth=servers.auth, timeout=20
    ).json()
    assert not [item["name"] for item in found["experiments"] if "evil" in item["name"]]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
def test_a_name_that_resolves_to_this_machine_shows_nothing(servers: Up, tmp_path: Path) -> None:
    for url in (servers.prefect, servers.mlflow):
        with browsing(url.replace("127.0.0.1", "evil.example"), tmp_path, "--dump-dom") as browser:
            assert browser.stdout is not None
            shown = browser.stdout.read()
        assert "does not go by that Host" in shown
