"""Whom the servers of `finsent up` answer, told by a request's headers alone."""

import asyncio
import base64
import re
import subprocess
import sys
from typing import Any

import pytest

from finsent.cli.guarded_server import Guard, log_level

LOGIN = "finsent:" + "x" * 20
BASIC = "Basic " + base64.b64encode(LOGIN.encode()).decode()


def ask(headers: dict[str, str], path: str = "/api", method: str = "GET", **guard: Any) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer; 101 for a web socket that is let in, 1008 for one that is not."""
    sent: list[dict[str, Any]] = []
    kind = "websocket" if method == "WS" else "http"

    async def app(_scope: Any, _receive: Any, send: Any) -> None:
        await send({"type": "websocket.accept"} if kind == "websocket" else {"type": "http.response.start", "status": 200})

    async def keep(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {}

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "path": path, "headers": raw, **({} if kind == "websocket" else {"method": method})}
    asyncio.run(Guard(app, **guard)(scope, receive, keep))  # type: ignore[arg-type]
    first = sent[0]
    code = first.get("status") or {"websocket.accept": 101, "websocket.close": first.get("code", 0)}[first["type"]]
    return code, {name.decode(): value.decode() for name, value in first.get("headers", [])}


@pytest.mark.parametrize(
    ("host", "code"),
    [
        *((host, 200) for host in ("127.0.0.1:4200", "localhost", "LOCALHOST:1", "[::1]:4200", "10.1.2.3:4200")),
        *((host, 200) for host in ("desk.firm", "Desk.Firm:443")),
        *((host, 400) for host in ("evil.example", "evil.example:4200", "localhost.evil.example", "", "[", "::1", "a@b", "desk")),
    ],
)
def test_a_page_whose_name_resolves_to_this_machine_is_refused(host: str, code: int) -> None:
    for method in ("GET", "POST"):
        assert ask({"Host": host}, method=method, names=("desk.firm",))[0] == code
    assert ask({"Host": host}, method="WS", names=("desk.firm",))[0] == (101 if code == 200 else 1008)


def test_a_request_without_host_is_refused() -> None:
    assert ask({})[0] == 400


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://localhost:8888", "http://127.0.0.1:4201", "null", "", "http://["]
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "WS"])
def test_what_a_page_of_another_origin_sends_is_refused(origin: str, method: str) -> None:
    code, answered = ask({"Host": "127.0.0.1:4200", "Origin": origin, "Authorization": BASIC}, method=method, login=LOGIN)
    assert code == (1008 if method == "WS" else 403)
    assert "access-control-allow-origin" not in answered


@pytest.mark.parametrize("host", ["127.0.0.1:4200", "localhost:8080", "desk.firm"])
def test_the_servers_own_pages_are_answered(host: str) -> None:
    for scheme in ("http", "https"):  # behind a proxy with TLS
        own = {"Host": host, "Origin": f"{scheme}://{host}", "Sec-Fetch-Site": "same-origin"}
        assert ask(own, method="POST", names=("desk.firm",))[0] == 200
        assert ask(own, method="WS", names=("desk.firm",))[0] == 101


@pytest.mark.parametrize(
    ("fetch", "code"),
    [
        ({"Site": "none", "Dest": "document"}, 200),  # typed, or a bookmark
        ({"Site": "cross-site", "Dest": "document"}, 200),  # a link in a mail
        ({"Site": "same-site", "Dest": "document"}, 200),  # from a run in Prefect to its page in MLflow
        ({"Site": "cross-site", "Dest": "iframe"}, 403),
        ({"Site": "same-site", "Dest": "iframe"}, 403),
        ({"Site": "cross-site", "Dest": "image"}, 403),
        ({"Site": "same-site", "Dest": "script"}, 403),
        ({"Site": "cross-site", "Dest": "empty"}, 403),
    ],
)
def test_what_a_page_loads_or_frames_without_saying_its_origin_is_refused(fetch: dict[str, str], code: int) -> None:
    headers = {"Host": "127.0.0.1:5000", **{f"Sec-Fetch-{name}": value for name, value in fetch.items()}}
    assert ask(headers)[0] == code
    assert ask(headers, method="POST")[0] == (200 if fetch["Site"] == "none" else 403), "a form that is sent by itself"


def test_no_page_frames_an_answer_or_sends_it_on() -> None:
    _, answered = ask({"Host": "localhost"})
    assert answered == {
        "x-frame-options": "SAMEORIGIN",
        "x-content-type-options": "nosniff",
        "content-security-policy": "connect-src 'self'; frame-ancestors 'self'",
    }


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Basic",
        "Basic =",
        f"Bearer {BASIC[6:]}",
        f"{BASIC}x",
        "Basic " + base64.b64encode(b"finsent:").decode(),
        "Basic " + base64.b64encode(b"admin:password1234").decode(),
        "Basic \u00e9",
    ],
)
def test_strangers_get_401(given: str | None) -> None:
    headers = {"Host": "127.0.0.1:5000", **({} if given is None else {"Authorization": given})}
    for path in ("/", "/api/2.0/mlflow/runs/search", "/graphql", "/version", "/health/", "/healthy", "//health"):
        code, answered = ask(headers, path, login=LOGIN)
        assert (code, answered["www-authenticate"]) == (401, 'Basic realm="finsent"')
    assert ask(headers, "/health", login=LOGIN)[0] == 200, "for a probe"


def test_no_log_level_shows_the_headers_of_web_sockets() -> None:
    assert [log_level(name) for name in ("DEBUG", "INFO", "WARNING")] == ["info", "info", "warning"]


def test_who_has_the_password_is_answered() -> None:
    for given in (BASIC, BASIC.replace("Basic", "basic")):
        assert ask({"Host": "127.0.0.1:5000", "Authorization": given}, login=LOGIN)[0] == 200


def test_what_a_server_says_is_logged_with_its_time() -> None:
    code = (
        "import logging.config; from finsent.cli.guarded_server import log_config; logging.config.dictConfig(log_config());"
        "logging.getLogger('prefect.server').error('database is locked'); logging.getLogger('uvicorn.error').info('started')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stderr.splitlines()
    assert [re.sub(r"^20\d\d-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "TIME", line) for line in said] == [
        "TIME ERROR:    database is locked",
        "TIME INFO:     started",
    ]
