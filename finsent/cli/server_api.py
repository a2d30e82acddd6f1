"""Requests to the API of a Prefect or MLflow server without its own client, whose import takes two seconds and 80 MB."""

import base64
import json
import os
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final

from finsent.proxies import is_loopback

Ask = Callable[..., Any]
"""`ask(path)` gets, `ask(path, body)` posts, `ask(path, body, method="PATCH")` patches; the answer's JSON, {} for none.

Raises OSError, ValueError and HTTPException: no answer in time, another status than 2xx, or no JSON.
"""

_PAUSES: Final = (1.0, 2.0, 3.0)  # a server on SQLite answers 503 where its database is locked for too long
_PAGE: Final = 200  # the most that Prefect's API answers with at once
_CLIENT: Final = uuid.uuid4().hex  # one for this process: the server keeps a row for each


def connect(api: str, auth: str | None = None, *, direct: bool, timeout: float = 5.0) -> Ask:
    """How to ask an API. Redirects are not followed: the password goes where it was meant to go.

    Args:
        api: its URL, Prefect's `.../api` or MLflow's `.../api/2.0/mlflow`.
        auth: `user:password`; left out, what PREFECT_API_AUTH_STRING says.
        direct: whether to ask without the proxy of the environment, which would read the password: a home's own server. One of
            this machine always is.
        timeout: in seconds.
    """
    return partial(_ask, api.rstrip("/"), auth or os.environ.get("PREFECT_API_AUTH_STRING"), direct or is_loopback(api), timeout)


def read_pages(ask: Ask, path: str, body: Mapping[str, Any], at_most: int | None = None) -> list[Any]:
    """All that a filter of Prefect's finds, or as many pages of it."""
    found: list[Any] = []
    pages = 0
    while at_most is None or pages < at_most:
        part = ask(path, {**body, "limit": _PAGE, "offset": pages * _PAGE})
        found += part
        pages += 1
        if len(part) < _PAGE:
            break
    return found


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow nothing."""


def _ask(
    api: str,
    auth: str | None,
    direct: bool,
    timeout: float,
    path: str,
    body: Mapping[str, Any] | list[Any] | None = None,
    *,
    method: str | None = None,
) -> Any:
    headers = {"Content-Type": "application/json"}
    if auth:
        headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    changes = method not in {None, "GET"} or body is not None
    if changes and not api.endswith("/mlflow") and (token := _csrf_token(api, auth, direct, int(time.monotonic() // 600))):
        headers |= {"Prefect-Csrf-Token": token, "Prefect-Csrf-Client": _CLIENT}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{api}/{path}", data, headers, method=method)  # noqa: S310 - our own http URLs
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if direct else None), _NoRedirect)
    for pause in (*_PAUSES, None):
        try:
            with opener.open(request, timeout=timeout) as response:
                answer = response.read()
            break
        except urllib.error.HTTPError as error:
            if error.code != 503 or pause is None:
                raise
            time.sleep(pause)
    try:
        return json.loads(answer) if answer else {}
    except RecursionError as error:
        raise ValueError("it answers with JSON of endless nests") from error


@lru_cache(maxsize=2)
def _csrf_token(api: str, auth: str | None, direct: bool, _tenth_minute: int) -> str | None:
    """Of an hour's validity, kept for ten minutes: each that is asked for is written to the server's database."""
    try:
        return str(_ask(api, auth, direct, 30.0, f"csrf-token?client={_CLIENT}")["token"])
    except urllib.error.HTTPError as error:
        if error.code in {404, 422}:  # a server that has none, or does not ask for them
            return None
        raise
