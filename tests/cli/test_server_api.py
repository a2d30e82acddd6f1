"""Requests to servers' APIs: past the proxy to a home's own, with a token against forgery where one is wanted."""

import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from urllib.error import HTTPError

import pytest

from finsent.cli import server_api
from finsent.cli.freshness import watch_freshness
from finsent.cli.lost_runs import end_lost_runs
from finsent.cli.server_api import connect, read_pages
from finsent.cli.server_password import make_password
from finsent.cli.services_file import RunningServices, give_token
from finsent.errors import ServiceError
from finsent.workspace import Workspace

ELSEWHERE = "http://0.0.0.0:9"
"""Nothing answers there, at once; a proxy is asked for it."""


@dataclass
class Stand:
    """A server, or a proxy, that answers what it is told to: statuses in turn, then 200."""

    url: str
    codes: list[int] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)


@pytest.fixture
def stand() -> Iterator[Stand]:
    found = Stand("")

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found.asked.append(f"{self.command} {self.path}".partition("?")[0])
            found.tokens.append(self.headers["Prefect-Csrf-Token"])
            self.send_response(found.codes.pop(0) if found.codes else 200)
            self.end_headers()
            self.wfile.write(json.dumps({"token": "against forgery"}).encode())

        do_POST = do_PATCH = do_GET  # noqa: N815 - names of the base class

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        found.url = f"http://127.0.0.1:{running.server_port}/api"
        yield found
        running.shutdown()
        thread.join()


def test_a_homes_own_server_is_asked_past_the_proxy(stand: Stand, home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy, such as a firm's, would read the password."""
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, stand.url)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    make_password(home)
    running = RunningServices(1, ELSEWHERE, ELSEWHERE, str(home.root), "0a1b", {"prefect": (1, 1.0)})
    assert watch_freshness(running.prefect_api, "finsent:x", None) == []
    for ask in (give_token, end_lost_runs):
        with pytest.raises(ServiceError, match="refused"):
            ask(running)
    assert stand.asked == []
    connect(running.prefect_api, direct=False)("health")
    assert stand.asked == [f"GET {ELSEWHERE}/api/health"], "a user's own may lie behind it"


def test_what_changes_something_brings_a_token_where_the_server_has_one(stand: Stand) -> None:
    ask = connect(stand.url, "u:with", direct=True)
    ask("flows/filter", {})
    ask("flows/1", {}, method="PATCH")
    ask("health")
    assert stand.asked == ["GET /api/csrf-token", "POST /api/flows/filter", "PATCH /api/flows/1", "GET /api/health"]
    assert stand.tokens == [None, "against forgery", "against forgery", None]
    stand.codes = [404]
    connect(stand.url, "u:without", direct=True)("flows/filter", {})
    connect(f"{stand.url}/2.0/mlflow", direct=True)("runs/search", {})
    assert stand.tokens[4:] == [None, None, None]


def test_a_busy_server_is_asked_again(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_api, "_PAUSES", (0.0, 0.0, 0.0))
    stand.codes = [503, 503, 503]
    assert connect(stand.url, direct=True)("health") == {"token": "against forgery"}
    stand.codes = [503] * 4
    with pytest.raises(HTTPError, match="503"):
        connect(stand.url, direct=True)("health")
    stand.codes, stand.asked = [500], []
    with pytest.raises(HTTPError, match="500"):
        connect(stand.url, direct=True)("health")
    assert len(stand.asked) == 1


@pytest.mark.parametrize(("at_most", "found"), [(None, 450), (2, 400)])
def test_pages_are_read_to_the_end_or_so_many(at_most: int | None, found: int) -> None:
    def ask(_: str, body: dict[str, int]) -> list[int]:
        return list(range(450))[body["offset"] : body["offset"] + body["limit"]]

    assert read_pages(ask, "flows/filter", {}, at_most) == list(range(found))
