"""Artifact locations of a home's own MLflow store.

MLflow keeps them absolute, so that a home which is copied, moved or restored elsewhere would write into the original, or find
nothing. `connect` refuses such a store; `finsent home move` rewrites it.
"""

import json
import shlex
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote, unquote, urlsplit

from finsent.errors import CheckFailed, InputError, ServiceError
from finsent.files import atomic_write, sync
from finsent.proxies import is_loopback
from finsent.registry.mlflow_errors import translate
from finsent.workspace import Workspace

_FOLDER: Final = "mlartifacts"
_COLUMNS: Final = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
    ("model_versions", "source"),
)
"""Where MLflow keeps locations of artifacts."""
_BUSY_SECONDS: Final = 10.0
_FINSENT_RUN: Final = "exists (select 1 from tags where tags.run_uuid = runs.run_uuid and tags.key = 'kind')"


@dataclass(frozen=True)
class MovedHome:
    """What `move_locations` changed."""

    home: Path
    was: tuple[str, ...]
    """Folders that the locations were in."""
    changed: int
    """Locations that lay outside the home, each counted once however many rows of the store name it."""
    backup: Path
    """The store as it was."""
    missing: tuple[str, ...]
    """Registered versions whose files are not in this home."""


def store_file(home: Workspace) -> Path | None:
    """SQLite file of the home's own MLflow store, whether or not the home's own server is asked for it.

    None where it does not exist yet or the home uses another one.
    """
    file = home.root / "mlflow.db"
    own = home.tracking_uri == f"sqlite:///{file}" or _is_own_server(home)
    return file if own and file.is_file() else None


def _is_own_server(home: Workspace) -> bool:
    """Whether it is the server that `finsent up` started on the store; `finsent.cli.services_file` writes down which."""
    try:
        services = json.loads((home.root / "services.json").read_bytes())
        given, own = (urlsplit(str(url)) for url in (home.tracking_uri, services["mlflow"]))
        same_host = given.hostname == own.hostname or (is_loopback(given.geturl()) and is_loopback(own.geturl()))
        return services["home"] == str(home.root) and same_host and given.port == own.port and given.scheme == own.scheme
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False


def require_own_locations(home: Workspace) -> None:
    """Refuse a home whose store names artifacts outside it.

    Raises:
        CheckFailed: it was copied, moved or restored, and finsent would write elsewhere, or look for models there.
        ServiceError: the store is locked or cannot be read.
    """
    found = foreign_locations(home)
    if found:
        raise CheckFailed(
            f"the MLflow store of the home {str(home.root)!r} keeps {len(found)} artifact locations outside it, such as "
            f"{found[0]!r}: the home was copied, moved or restored. Nothing was written. Run `finsent home move --home "
            f"{shlex.quote(str(home.root))}`, and it uses its own files; no other home is touched."
        )


def foreign_locations(home: Workspace) -> list[str]:
    """Local artifact locations in the home's own store that lie outside the home, sorted.

    Those of runs that others have logged into the store without a server count only where they are another home's.
    """
    file = store_file(home)
    if file is None:
        return []
    found: set[str] = set()
    with _opened(file, "read") as store:
        for table, column in _columns(store):
            own = (f"{home.artifacts.as_uri()}/", f"{home.artifacts}/")
            outside = " and ".join(f"substr({column}, 1, {len(prefix)}) <> ?" for prefix in own)
            mark = _FINSENT_RUN if table == "runs" else "0"
            query = f"select distinct {column}, {mark} from {table} where {outside}"  # noqa: S608 - names from above
            found |= {place for place, finsents in store.execute(query, own) if _is_foreign(place, home, finsents=bool(finsents))}
    return sorted(found)


def missing_artifacts(home: Workspace) -> list[str]:
    """Registered versions, as `name version 3`, whose local artifacts do not exist."""
    file = store_file(home)
    if file is None:
        return []
    with _opened(file, "read") as store:
        if ("model_versions", "storage_location") not in _columns(store):
            return []
        rows = store.execute(
            "select name, version, storage_location from model_versions where current_stage <> 'Deleted_Internal' order by 1, 2"
        ).fetchall()
    places = [(f"{name} version {version}", local_path(place or "")) for name, version, place in rows]
    return [what for what, place in places if place is not None and not place.is_dir()]


def move_locations(home: Workspace, source: Path | None = None) -> MovedHome:
    """Rewrite the locations in the home's own store to lie in the home, in one transaction, after a backup beside the store.

    Args:
        home: The home that was copied, moved or restored.
        source: Folder that takes the place of the former home's `mlartifacts`, for locations that name none.

    Raises:
        InputError: there is no store, or nothing lies outside the home, or not in `source`.
        ServiceError: the store is in use.
    """
    file = store_file(home)
    if file is None:
        raise InputError(f"{str(home.root)!r} holds no MLflow store of its own (mlflow.db): nothing to move.")
    foreign = foreign_locations(home)
    if not foreign:
        raise InputError(f"every artifact location of {str(file)!r} lies in this home: nothing to move.")
    moved = {place: _moved(place, home, source) for place in foreign}
    unknown = [place for place, target in moved.items() if target is None]
    if unknown:
        raise InputError(
            f"{len(unknown)} locations, such as {unknown[0]!r}, are in no folder {_FOLDER!r}. Copy the folder that holds them to "
            f"{str(home.artifacts)!r}, and name it with --from. Nothing was changed."
        )
    pairs = {place: target for place, target in moved.items() if target is not None}
    was = sorted({_former(place, target, home) for place, target in pairs.items()})
    roots = {folder.removesuffix(f"/{_FOLDER}") for folder in was if folder.endswith(f"/{_FOLDER}")}
    backup = _back_up(file)
    _move_results(home, roots)
    with _opened(file, "changed") as store:
        store.execute("begin immediate")
        for table, column in _columns(store):
            update = f"update {table} set {column} = ? where {column} = ?"  # noqa: S608 - names from above
            store.executemany(update, [(target, place) for place, target in pairs.items()])
        _move_datasets(store, home, roots)
        store.execute("commit")
    return MovedHome(home.root, tuple(was), len(pairs), backup, tuple(missing_artifacts(home)))


def local_path(location: str) -> Path | None:
    """The folder that a location names; None where it is not on this machine."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if not parts.scheme and location.startswith("/") else None


def _is_foreign(location: str | None, home: Workspace, *, finsents: bool) -> bool:
    path = local_path(location or "")
    if path is None or path.resolve().is_relative_to(home.artifacts):
        return False
    return _FOLDER in path.parts or (finsents and not path.resolve().is_relative_to(home.root))


def _moved(location: str, home: Workspace, source: Path | None) -> str | None:
    """The same location in this home, in the same spelling; None where it names no folder to start from."""
    base = home.artifacts.as_uri() if location.startswith("file:") else str(home.artifacts)
    if source is not None:
        given = source.as_uri() if location.startswith("file:") else str(source)
        if location.startswith(f"{given}/"):
            return base + location.removeprefix(given)
    rests = []
    start = location.find(f"/{_FOLDER}/")
    while start >= 0:
        rests.append(location[start + len(_FOLDER) + 1 :])
        start = location.find(f"/{_FOLDER}/", start + 1)
    here = [rest for rest in rests if (path := local_path(base + rest)) is not None and path.exists()]
    return base + (here or rests)[0] if rests else None


def _former(location: str, target: str, home: Workspace) -> str:
    """The folder that was in the place of the home's `mlartifacts`."""
    old, new = local_path(location), local_path(target)
    if old is None or new is None:
        return location
    return str(old.parents[len(new.relative_to(home.artifacts).parts) - 1])


def _move_datasets(store: sqlite3.Connection, home: Workspace, roots: set[str]) -> None:
    """Runs name the table that they read by its folder."""
    if not _has(store, "datasets"):
        return
    for key, text in store.execute("select dataset_uuid, dataset_source from datasets").fetchall():
        try:
            source = json.loads(text)
            path = source["path"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # of somebody else's run
        for root in roots:
            if str(path).startswith(f"{root}/"):
                source["path"] = str(home.root) + path.removeprefix(root)
                store.execute("update datasets set dataset_source = ? where dataset_uuid = ?", (json.dumps(source), key))


def _move_results(home: Workspace, roots: set[str]) -> None:
    """A training that is through but not registered names the folder of its base."""
    for result in home.runs.glob("*/result.json"):
        try:
            recorded = json.loads(result.read_text(encoding="utf-8"))
            folder = recorded["base"]["folder"]
        except (ValueError, TypeError, KeyError, RecursionError):
            continue  # cut off: counts as absent
        for root in roots:
            if str(folder).startswith(f"{root}/"):
                recorded["base"]["folder"] = str(home.root) + folder.removeprefix(root)
                atomic_write(result, json.dumps(recorded))


def _back_up(file: Path) -> Path:
    backup = file.with_name(f"{file.name}.before-move-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    with _opened(file, "read") as store, closing(sqlite3.connect(backup)) as copy:
        backup.chmod(0o600)
        store.backup(copy)
    sync(file.parent)
    return backup


def _has(store: sqlite3.Connection, table: str) -> bool:
    return bool(store.execute("select 1 from sqlite_master where type = 'table' and name = ?", (table,)).fetchone())


def _columns(store: sqlite3.Connection) -> list[tuple[str, str]]:
    """Those of `_COLUMNS` that this store has: one of an earlier MLflow has fewer, one that is being made none yet."""
    there = {
        (table, name)
        for table in {table for table, _ in _COLUMNS} | {"tags"}
        for _, name, *_ in store.execute(f"pragma table_info({table})")
    }
    return [pair for pair in _COLUMNS if pair in there] if ("tags", "key") in there else []


@contextmanager
def _opened(file: Path, purpose: Literal["read", "changed"]) -> Iterator[sqlite3.Connection]:
    """The store, to be `purpose`; SQLite opens one that may not be written for reading alone.

    Never by `mode=ro`: a process that is killed while it writes leaves a journal, which whoever comes next has to roll back.
    """
    try:
        with closing(
            sqlite3.connect(f"file:{quote(str(file))}?mode=rw", uri=True, isolation_level=None, timeout=_BUSY_SECONDS)
        ) as store:
            yield store
    except sqlite3.Error as error:
        found = translate(error, f"sqlite:///{file}")
        if found is not None and not found.retryable:  # damaged, read only, full
            raise found from error
        raise ServiceError(
            f"the MLflow store {str(file)!r} cannot be {purpose} ({error}). Stop what uses it, "
            "`finsent up` above all, and try again."
        ) from error
