"""Program that runs one server of `finsent up`, MLflow's or Prefect's own app, behind a guard that both share (ADR 18).

`python -m finsent.cli.guarded_server prefect --host 127.0.0.1 --fd 5`, in the environment that `finsent up` makes, at a socket
on which that listens already. Loopback is not private: a web page in the operator's browser and every other user of the machine
reach its ports.
"""

import argparse
import base64
import copy
import hmac
import ipaddress
import os
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from finsent.registry.own_server import LOGIN_VARIABLE

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEALTH: Final = "/health"
"""What MLflow answers without a password; Prefect answers /api/health."""


class Guard:
    """ASGI middleware that lets requests pass which people and programs of this home sent on purpose.

    Args:
        app: The server's own app.
        names: Host names it is known by. Addresses and `localhost` always are: no page of somebody else's can have such a name.
        login: `user:password` asked of every request but /health; None where the app asks by itself.
    """

    def __init__(self, app: "ASGIApp", names: tuple[str, ...] = (), login: str | None = None) -> None:
        self.app = app
        self.names = frozenset({"localhost", *map(str.lower, names)})
        self.login = None if login is None else base64.b64encode(login.encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Hand on to the app, or answer why not."""
        if scope["type"] not in {"http", "websocket"}:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        code, reason = self._refusal(scope, headers)
        if not code:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": reason})
        else:
            asked = {"WWW-Authenticate": 'Basic realm="finsent"'} if code == 401 else None
            await PlainTextResponse(reason, code, asked)(scope, receive, send)

    def _refusal(self, scope: "Scope", headers: Headers) -> tuple[int, str]:
        host = headers.get("host", "").lower()
        if len(headers.getlist("host")) != 1 or not self._is_known(host):
            # a page whose name was made to resolve to this machine (DNS rebinding)
            return 400, "This server does not go by that Host. If it does, start `finsent up` with --allow-host."
        origin = headers.get("origin")
        if origin is not None and origin.lower().partition("://")[2] != host:
            return 403, "Requests of pages from elsewhere are refused."
        # what a page from elsewhere loads or embeds comes without Origin; a link that is followed may open a page
        followed = scope.get("method") == "GET" and headers.get("sec-fetch-dest") == "document"
        if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"} and not followed:
            return 403, "Requests of pages from elsewhere are refused."
        if self.login is not None and scope["path"] != _HEALTH:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            if scheme.lower() != "basic" or not hmac.compare_digest(given.strip().encode(), self.login):
                return 401, "User name and password, please: `finsent status` says where they are."
        return 0, ""

    def _is_known(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
            return name in self.names or bool(ipaddress.ip_address(name))
        except ValueError:
            return False


def _with_headers(send: "Send") -> "Send":
    """Nobody else's page shows one of the server's in a frame, and none of the server's sends anything elsewhere.

    Prefect's would: what its reader does goes to a service that replays sessions (amplitude.com), whatever the settings say.
    """

    async def wrapped(message: "Message") -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            headers["X-Frame-Options"] = "SAMEORIGIN"
            headers["X-Content-Type-Options"] = "nosniff"
            headers.append("Content-Security-Policy", "connect-src 'self'; frame-ancestors 'self'")
        await send(message)

    return wrapped


def prefect_app() -> "ASGIApp":
    """API, UI and background services, as `prefect server start` runs them; the app asks for the password of its settings."""
    from prefect.server.api.server import create_app

    return create_app(final=True)


def mlflow_app(store: str, artifacts: str) -> "ASGIApp":
    """API and UI, as `mlflow server --no-serve-artifacts` runs them in a second process."""
    from mlflow.server import constants

    named = {constants.BACKEND_STORE_URI_ENV_VAR: store, constants.REGISTRY_STORE_URI_ENV_VAR: store}
    os.environ.update({**named, constants.ARTIFACT_ROOT_ENV_VAR: artifacts})
    # it lets in any page of this machine's, whoever's that is; the guard does what it does, for the server's own pages alone
    os.environ["MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"] = "true"
    from mlflow.server.fastapi_app import app
    from mlflow.server.handlers import initialize_backend_stores

    initialize_backend_stores(store, store, artifacts)  # makes the tables on the first start
    return app  # type: ignore[no-any-return, unused-ignore]


def log_config() -> dict[str, Any]:
    """Uvicorn's logging with the time in each line, and warnings and errors of the app that has no handler of its own."""
    config = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    for formatter in config["formatters"].values():
        formatter["fmt"] = f"%(asctime)s {formatter['fmt']}"
    return {**config, "root": {"handlers": ["default"], "level": "WARNING"}}


def log_level(name: str) -> str:
    """The web server's log level for Prefect's: at DEBUG it would log the headers of web sockets, the password among them."""
    return "info" if name == "DEBUG" else name.lower()


def serve(app: "ASGIApp", numbers: Sequence[int], **options: Any) -> None:
    """What `uvicorn.run` does, at sockets that listen already; its own `fd` takes one, and for a Unix socket."""
    server = uvicorn.Server(uvicorn.Config(app, **options))
    sockets = [socket.socket(fileno=number) for number in numbers]
    for one in sockets:
        one.set_inheritable(False)
    with suppress(KeyboardInterrupt):
        server.run(sockets)
    if not server.started:
        sys.exit(3)


def main() -> None:
    """Run until SIGINT or SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("server", choices=("mlflow", "prefect"))
    parser.add_argument("--host", required=True)
    parser.add_argument("--fd", type=int, action="append", required=True)
    parser.add_argument("--allow-host", action="append", default=[])
    parser.add_argument("--store")
    parser.add_argument("--artifacts")
    given = parser.parse_args()
    names = (socket.gethostname(), given.host, *given.allow_host)
    if given.server == "mlflow":
        login = urlsplit(os.environ[LOGIN_VARIABLE]).netloc.rpartition("@")[0]
        app = Guard(mlflow_app(given.store, given.artifacts), names, login)
        serve(app, given.fd, log_config=log_config())
        return
    from prefect.settings import get_current_settings

    server = get_current_settings().server
    serve(
        Guard(prefect_app(), names),
        given.fd,
        timeout_keep_alive=server.api.keepalive_timeout,
        ws_ping_interval=server.api.websocket_ping_interval,
        ws_ping_timeout=server.api.websocket_ping_timeout,
        log_level=log_level(server.logging_level),
        log_config=log_config(),
    )


if __name__ == "__main__":
    main()
