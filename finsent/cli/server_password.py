"""The password of a home's own servers: made once by `finsent up`, read by every command of the home, sent to no other server."""

import os
import re
import secrets
import stat
from pathlib import Path
from typing import Final

from finsent.errors import InputError
from finsent.files import atomic_write, locked
from finsent.workspace import Workspace

USER: Final = "finsent"
"""User name that goes with it, at both servers."""
_PASSWORD: Final = re.compile(r"[A-Za-z0-9_-]{16,}\n?")
"""What needs no escape in a URL, a header or a shell."""


def password_path(root: Path) -> Path:
    """The file with the password, one line, for the home's owner alone."""
    return root / "server_password"


def make_password(home: Workspace) -> None:
    """Make the password where there is none yet; one that is there stays.

    Raises:
        InputError: what is there is no password, see `auth_string`.
    """
    path = password_path(home.root)
    with locked(home.lock("server-password"), 10, f"another process makes {str(path)!r}. Try again.", InputError):
        if not path.exists():
            atomic_write(path, f"{secrets.token_urlsafe(32)}\n", 0o600)
    auth_string(home.root)


def guard_temporary_server() -> None:
    """Let nobody else use the Prefect server that Prefect starts, on loopback, for the flows of this process."""
    auth = f"{USER}:{secrets.token_urlsafe(32)}"
    os.environ |= {
        "PREFECT_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_AUTH_STRING": auth,
        "PREFECT_SERVER_API_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS": "https://nobody.invalid",
    }


def auth_string(root: Path) -> str:
    """`user:password` for the home's own servers.

    Raises:
        InputError: the file is missing, cannot be read, may be read by every user, or holds something else.
    """
    path = password_path(root)
    again = "Delete it and start `finsent up` again, which makes a new one."
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"the password of this home's servers is missing: {str(path)!r}. Start `finsent up` again.") from error
    except OSError as error:
        raise InputError(
            f"the password of this home's servers, {str(path)!r}, cannot be read: {error.strerror}. They serve who may read it."
        ) from error
    if mode & (stat.S_IRWXO | stat.S_IWGRP):
        raise InputError(
            f"{str(path)!r}, the password of this home's servers, is open to others (mode {stat.S_IMODE(mode):o}), who may know "
            f"it by now. {again}"
        )
    text = content.decode("utf-8", errors="replace")
    if not _PASSWORD.fullmatch(text):
        found = "is empty" if not text.strip() else "holds no password (one line of at least 16 letters, digits, '-' and '_')"
        raise InputError(f"{str(path)!r} {found}. {again}")
    return f"{USER}:{text.strip()}"
