"""Requests to a Prefect API without Prefect's client, whose import takes two seconds and 80 MB."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

from finsent.proxies import is_loopback

Ask = Callable[..., Any]
"""`ask(path)` gets, `ask(path, body)` posts; the answer's JSON, None where it has none. Raises OSError and ValueError."""

_TIMEOUT: Final = 5.0
_BUSY: Final = 503  # SQLite is locked by another writer
_ATTEMPTS: Final = 4
_CLIENT: Final = uuid.uuid4().hex  # one for this process: the server keeps a row for each


def connect(api: str, auth: str | None = None) -> Ask:
    """How to ask the API as `auth` (`user:password`), else as PREFECT_API_AUTH_STRING says, with the token it wants against CSRF.

    Raises:
        OSError: it does not answer within seconds, or not with success.
        ValueError: it answers with something else.
    """
    headers = {"Content-Type": "application/json"}
    if password := auth or os.environ.get("PREFECT_API_AUTH_STRING"):
        headers["Authorization"] = "Basic " + base64.b64encode(password.encode()).decode()
    try:
        token = _request(api, headers, f"csrf-token?client={_CLIENT}")["token"]
        headers |= {"Prefect-Csrf-Token": str(token), "Prefect-Csrf-Client": _CLIENT}
    except urllib.error.HTTPError as error:
        if error.code not in {404, 422}:  # it has none, or does not ask for them
            raise
    return partial(_request, api, headers)


def _request(api: str, headers: Mapping[str, str], path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, dict(headers))  # noqa: S310 - our own http URLs
    proxies = urllib.request.ProxyHandler({} if is_loopback(api) else None)
    opener = urllib.request.build_opener(proxies, _NoRedirect)
    for attempt in range(_ATTEMPTS):
        try:
            with opener.open(request, timeout=_TIMEOUT) as response:
                answer = response.read()
            break
        except urllib.error.HTTPError as error:
            if error.code != _BUSY or attempt == _ATTEMPTS - 1:
                raise
            time.sleep(1.0)
    return json.loads(answer) if answer else None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing: the password goes where it was meant to go."""
