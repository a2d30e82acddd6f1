"""Upkeep of the Delta tables: merges small files and removes files that no version in use needs; how large and old they are."""

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

import pyarrow as pa

from finsent.data.table_access import commits_after, delta_errors, location, open_or_create, open_table, writing
from finsent.data.table_schemas import SCHEMAS, TABLE_PROPERTIES
from finsent.environ import is_url
from finsent.errors import FinsentError
from finsent.files import atomic_write, disk_use
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from deltalake import DeltaTable

_log = logging.getLogger(__name__)

MERGED_FROM: Final = 100
"""Files from which a table is compacted. Of `tweets` each compaction stores the rows once more, since all versions are kept."""
RETENTION_DAYS: Final = 7
"""Delta's default: longer than any reader or writer is at work. A table may ask for more."""
_RETENTION: Final = "delta.deletedFileRetentionDuration"


@dataclass(frozen=True)
class TableUpkeep:
    """What was done, or would be done, to a table."""

    name: str
    merged: int
    """Small files that were merged; no version loses them by that."""
    removed: int
    """Files removed that belonged to versions before the retention, or to writers that died."""
    problem: str | None = None
    """Why it could not be done."""


def tidy_tables(
    home: Workspace, *, dry_run: bool = False, retention_days: int = RETENTION_DAYS, needed: Mapping[str, int] | None = None
) -> tuple[TableUpkeep, ...]:
    """Compact tables of many small files, and vacuum those of which only the latest version is used.

    `tweets` is never vacuumed: registry, evidence and reports refer to its versions, and all of them stay readable.
    A table that was changed by other means, or whose store does not answer, keeps no other from it: its `problem` says why.

    Args:
        home: Where the tables are.
        dry_run: Only say what would be done.
        retention_days: Files that only earlier versions need stay so long, for readers and writers at work.
        needed: Version of a table since which somebody is going to read what was appended: its files stay however old they are.
    """
    done = []
    for name in SCHEMAS:
        try:
            done.append(_tidy(home, name, (needed or {}).get(name), retention_days * 24, dry_run=dry_run))
        except FinsentError as error:
            done.append(TableUpkeep(name, 0, 0, str(error)))
    return tuple(item for item in done if item.merged or item.removed or item.problem)


def _tidy(home: Workspace, name: str, needed: int | None, hours: int, *, dry_run: bool) -> TableUpkeep:
    from deltalake.exceptions import CommitFailedError

    with writing(home, name):
        handle = open_table(home, name)
        if handle is None:
            return TableUpkeep(name, 0, 0)
        files = len(handle.file_uris())
        merged = files if files >= MERGED_FROM else 0
        if not dry_run:
            handle = open_or_create(home, name)  # with the properties that keep versions
            try:
                merged = int(handle.optimize.compact()["numFilesRemoved"]) if merged else 0
            except CommitFailedError:  # another run rewrote these files; the next upkeep finds them again
                _log.warning("table %r was rewritten by another run meanwhile and is not compacted this time", name)
                merged = 0
        if name in TABLE_PROPERTIES:
            return TableUpkeep(name, merged, 0)
        kept = [] if needed is None else _before_compactions(handle, needed)
        removed = _vacuum(handle, hours, kept, dry_run=True)
        if not is_url(place := location(home, name)):  # those that an earlier one removed are named again for a while
            removed = [path for path in removed if Path(place, unquote(path)).exists()]
        if removed and not dry_run:
            _vacuum(handle, hours, kept, dry_run=False)
    return TableUpkeep(name, merged, len(removed))


def _vacuum(handle: "DeltaTable", hours: int, kept: list[int], *, dry_run: bool) -> list[str]:
    from deltalake.exceptions import DeltaError

    own = _RETENTION in handle.metadata().configuration
    # full: checkpoints forget removed files after a while, and writers that died never told of theirs
    try:
        named = handle.vacuum(hours, dry_run, enforce_retention_duration=own, full=True, keep_versions=kept)
    except DeltaError:
        if not own:
            raise
        named = handle.vacuum(dry_run=dry_run, full=True, keep_versions=kept)  # its own is longer, and holds
    return list(named)


def _before_compactions(handle: "DeltaTable", since: int) -> list[int]:
    """Versions with the files that were appended since then and merged later: `table_changes` reads them as they were."""
    return [int(commit["version"]) - 1 for commit in commits_after(handle, since + 1) if commit.get("operation") == "OPTIMIZE"]


@dataclass(frozen=True)
class TableFigures:
    """Size and age of a table, as its log tells them."""

    name: str
    rows: int | None
    """None where another writer did not say how many its files hold."""
    files: int
    bytes: int
    """Of the latest version's files."""
    disk_bytes: int | None
    """Of the whole folder, with the files of earlier versions and the log; None in an object store."""
    oldest_version: int | None
    """The first that the log still knows; None in an object store."""
    newest_version: int
    written_at: datetime
    """Time of the latest commit."""


def table_figures(home: Workspace, name: str) -> TableFigures | None:
    """Size and age of a table, by its log alone; None where it does not exist yet.

    Raises:
        InputError: its log is damaged.
        ServiceError: the store does not answer.
    """
    with delta_errors(home, name):
        handle = open_table(home, name)
        if handle is None:
            return None
        (latest,), added = handle.history(1), pa.table(handle.get_add_actions())
        counts, place = added["num_records"].to_pylist(), location(home, name)
        return TableFigures(
            name,
            None if None in counts else sum(counts),
            added.num_rows,
            sum(added["size_bytes"].to_pylist()),
            None if is_url(place) else disk_use(Path(place)),
            None if is_url(place) else _oldest_version(Path(place) / "_delta_log"),
            int(handle.version()),
            datetime.fromtimestamp(latest["timestamp"] / 1000, UTC),
        )


def _oldest_version(log: Path) -> int:
    """A version is opened by the log entries since a checkpoint, or since the first."""
    names = [path.name for path in log.iterdir() if path.name[:20].isdecimal()]
    if f"{0:020d}.json" in names:
        return 0
    return min((int(name[:20]) for name in names if ".checkpoint" in name), default=0)


def record_maintenance(home: Workspace, when: datetime, tables: list[str]) -> None:
    """Note when tables were last looked after by this home."""
    atomic_write(home.maintenance, json.dumps({**last_maintained(home), **dict.fromkeys(tables, when.isoformat())}))


def last_maintained(home: Workspace) -> dict[str, str]:
    """When this home last looked after each table, as ISO times in UTC."""
    try:
        found = json.loads(home.maintenance.read_bytes())
    except (OSError, ValueError):
        return {}
    return {str(name): str(when) for name, when in found.items()} if isinstance(found, dict) else {}
