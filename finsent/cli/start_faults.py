"""Why a server of `finsent up` did not start, as far as the end of its log says it, and what to do."""

import os
import re
from typing import Final

_DATABASE: Final = "PREFECT_SERVER_DATABASE_CONNECTION_URL"

_ADVICE: Final = {
    r"No space left on device|database or disk is full|Disk quota exceeded": (
        "The disk of the home, or this user's quota, is full: make room there."
    ),
    r"disk image is malformed|file is not a database": (
        "Its database in the home is damaged: stop everything that uses it and put a backup in its place (docs/operations.md). "
        "Prefect's, prefect/prefect.db, holds run history and pauses alone: moved away, it is made anew."
    ),
    r"readonly database|Read-only file system|unable to open database file|Permission denied": (
        "It cannot write to the home: check owner, permissions and mount of it and of what is in it."
    ),
    r"database is locked": (
        "Another process holds its database in the home: end what else uses it, such as a backup or an SQLite shell."
    ),
    r"Can't locate revision identified by|out-of-date database schema": (
        "Its database was written by another version of its library: install the versions of constraints.txt."
    ),
    r"password authentication failed|InvalidPasswordError|InvalidAuthorizationSpecification|role \".*\" does not exist": (
        "The database server rejects the user or the password{url}: correct them."
    ),
    r"InvalidCatalogNameError|database \".*\" does not exist": (
        "The database server does not have that database{url}: create it, or correct the name."
    ),
    r"Connect call failed|[Cc]onnection refused|ConnectionRefusedError|CannotConnectNowError|gaierror|Name or service not known"
    r"|Temporary failure in name resolution|TooManyConnectionsError|No route to host": (
        "The database server cannot be reached{url}: start it, or correct the address."
    ),
    r"MemoryError|Cannot allocate memory": "Memory is used up: free some, or give the container more.",
}
"""What the logs of MLflow, Prefect, SQLite and asyncpg say, the surest signs first."""


def explain(name: str, code: int | None, log: str) -> str:
    """A sentence about the cause; empty where the log says nothing known. `code` is the exit code, None where it still runs."""
    from finsent.registry.mlflow_errors import public_uri

    given = os.environ.get(_DATABASE)
    url = f" ({_DATABASE} = {public_uri(given)!r})" if given and name == "prefect" else ""
    for pattern, advice in _ADVICE.items():
        if re.search(pattern, log):
            return advice.format(url=url)
    return "It was killed from outside, mostly for memory: look at the system's log." if code == -9 else ""
