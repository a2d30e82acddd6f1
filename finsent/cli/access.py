"""What this user may write and what the servers let this account do, for `finsent doctor`: rights, logins, room, frozen locks."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from finsent.cli.server_password import auth_string, password_path
from finsent.cli.services_file import find_prefect
from finsent.cli.surroundings import Finding
from finsent.config import Config
from finsent.environ import is_url
from finsent.errors import FinsentError, InputError, one_line
from finsent.files import lock_holder
from finsent.registry.client import Registry
from finsent.registry.mlflow_errors import public_uri
from finsent.workspace import Workspace

GIB: Final = 1 << 30
_NO_ALIAS: Final = "finsent-doctor"
"""An alias that no version carries: taking it away needs the right to set one, and changes nothing."""


def find_access(config: Config, home: Workspace) -> Iterator[Finding]:
    """All of it; nothing is changed."""
    yield from _writing(home)
    yield from _room(home)
    yield from _locks(home)
    yield from _mlflow_account(config, home)
    yield from _prefect_account(home)
    yield from _password(home)


def _writing(home: Workspace) -> Iterator[Finding]:
    """Files and folders that deciding, ingesting and scoring write; the home itself is another check's."""
    tables = [] if is_url(home.tables_url) else [Path(home.tables_url), *Path(home.tables_url).glob("*/_delta_log")]
    for name, needed_for, paths in (
        ("audit log", "to evaluate, promote, approve or roll back", [home.audit_log, Path(f"{home.audit_log}.lock")]),
        ("locks", "for anything but looking", [home.root / "locks", *(home.root / "locks").glob("*.lock")]),
        ("tables", "to ingest or score", tables),
    ):
        shut = [path for path in paths if path.exists() and not os.access(path, os.W_OK)]
        if shut:
            advice = f"This user may read and not write it, as is needed {needed_for}: change its owner, group or permissions."
            yield name, "fail", f"{str(shut[0])!r} cannot be written", advice


def _room(home: Workspace) -> Iterator[Finding]:
    """Free space of the disks that are not the home's own."""
    places = {"artifacts": home.artifacts, "Prefect's files": Path(os.environ.get("PREFECT_HOME") or home.root / "prefect")}
    if not is_url(home.tables_url):
        places["tables"] = Path(home.tables_url)
    seen = {_existing(home.root).stat().st_dev}
    for name, place in places.items():
        folder = _existing(place.expanduser())
        if (device := folder.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(folder).free / GIB
        state: Literal["ok", "warn", "fail"] = "ok" if free >= 5 else "warn" if free >= 1 else "fail"
        yield f"disk of {name}", state, f"{free:.1f} GiB free, {folder}", "" if free >= 5 else "Make room on that disk."


def _existing(place: Path) -> Path:
    return next(folder for folder in (place, *place.parents) if folder.exists())


def _locks(home: Workspace) -> Iterator[Finding]:
    for path in (*(home.root / "locks").glob("*.lock"), Path(f"{home.audit_log}.lock")):
        holder = lock_holder(path)
        if holder is not None and holder.is_stopped:
            yield f"lock {path.stem}", "fail", f"process {holder.pid} is stopped", f"{holder} Others wait for it."


def _mlflow_account(config: Config, home: Workspace) -> Iterator[Finding]:
    """One call that needs a login, and one that needs the right to promote."""
    if not home.tracking_uri.startswith("http"):
        return
    registry = Registry(home, config.registered_model, config.experiment)
    try:
        known = registry.client.search_registered_models(f"name='{registry.name}'") if registry.aliases() is not None else []
    except FinsentError as error:
        yield "MLflow's account", "fail", f"{public_uri(home.tracking_uri)} rejects it or does not answer", str(error)
        return
    if not known:
        yield "MLflow's account", "ok", "may read; nothing is registered yet that it could promote", ""
        return
    try:
        registry.client.delete_registered_model_alias(registry.name, _NO_ALIAS)
    except FinsentError as error:
        advice = (
            f"That is enough to score; to promote, approve or roll back it needs the right to set aliases: {one_line(error)}."
        )
        yield "MLflow's account", "warn", f"may not promote versions of {registry.name!r}", advice
        return
    yield "MLflow's account", "ok", "may promote", ""


def _prefect_account(home: Workspace) -> Iterator[Finding]:
    """One call that needs the password, of a server that the user named; the home's own is asked with its own password anyway."""
    server = find_prefect(home.root)
    if server is None or server.problem is not None or server.auth is not None:
        return
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectHTTPStatusError

    try:
        with get_client(sync_client=True) as client:
            client.read_flows(limit=1)
    except PrefectHTTPStatusError as error:
        status = error.response.status_code
        login = "Set PREFECT_API_AUTH_STRING to the server's PREFECT_SERVER_API_AUTH_STRING."
        advice = login if status == 401 else "Look at its log."
        yield "Prefect's account", "fail", f"{public_uri(server.url)} answers with status {status}", advice
    except Exception as error:  # noqa: BLE001 - a server that is away, or a broken one
        yield "Prefect's account", "fail", f"{public_uri(server.url)} cannot be asked", one_line(error)
    else:
        yield "Prefect's account", "ok", "let in", ""


def _password(home: Workspace) -> Iterator[Finding]:
    """That of the home's own servers, once there is one."""
    if not password_path(home.root).exists():
        return
    try:
        auth_string(home.root)
    except InputError as error:
        yield "servers' password", "fail", str(password_path(home.root)), str(error)
    else:
        yield "servers' password", "ok", "private", ""
