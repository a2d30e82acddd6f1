"""Which servers belong to a home: `services.json`, written by `finsent up` while it runs."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from finsent.errors import InputError
from finsent.files import atomic_write


@dataclass(frozen=True)
class RunningServices:
    """The servers of one `finsent up`."""

    pid: int
    """Process that started them and stops them."""
    mlflow: str
    """URL of the MLflow server."""
    prefect: str
    """URL of the Prefect UI; its API is under /api."""

    @property
    def prefect_api(self) -> str:
        """URL that PREFECT_API_URL takes."""
        return f"{self.prefect}/api"


def services_path(root: Path) -> Path:
    """The file that names a home's running servers."""
    return root / "services.json"


def write_services(root: Path, running: RunningServices) -> None:
    """Write `services.json` atomically."""
    atomic_write(services_path(root), json.dumps(asdict(running), indent=2) + "\n")


def read_services(root: Path) -> RunningServices | None:
    """The servers in `services.json`, whether or not they still answer; None without the file.

    Raises:
        InputError: the file is not what `finsent up` writes.
    """
    target = services_path(root)
    if not target.is_file():
        return None
    try:
        return RunningServices(**json.loads(target.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise InputError(
            f"{str(target)!r} is not what `finsent up` writes ({error}). Delete it and run `finsent up` again."
        ) from error


def prefect_url(root: Path) -> str | None:
    """API of the Prefect server to use: PREFECT_API_URL, else the running one of this home, else None."""
    running = read_services(root)
    return os.environ.get("PREFECT_API_URL") or (running.prefect_api if running else None)


def is_healthy(url: str, timeout: float = 2.0) -> bool:
    """Whether `url`/health, of an MLflow server or a Prefect API, answers within `timeout` seconds."""
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{url}/health", timeout=timeout) as response:  # noqa: S310 - our own http URLs
            return bool(response.status < 400)
    except (urllib.error.URLError, OSError, ValueError):
        return False
