"""Upkeep of the Delta tables: merges small files and removes files that no version in use needs."""

import logging
from dataclasses import dataclass
from typing import Final

from finsent.data.table_access import open_or_create, open_table, writing
from finsent.data.table_schemas import SCHEMAS, TABLE_PROPERTIES
from finsent.errors import FinsentError
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

MERGED_FROM: Final = 100
"""Files from which a table is compacted. Of `tweets` each compaction stores the rows once more, since all versions are kept."""
_RETENTION_HOURS: Final = 168  # Delta's default: longer than any reader or writer is at work. A table may ask for more


@dataclass(frozen=True)
class TableUpkeep:
    """What was done, or would be done, to a table."""

    name: str
    merged: int
    """Small files that were merged; no version loses them by that."""
    removed: int
    """Files removed that belonged to versions of a week ago and earlier, or to writers that died."""
    problem: str | None = None
    """Why it could not be done."""


def tidy_tables(home: Workspace, *, dry_run: bool = False) -> tuple[TableUpkeep, ...]:
    """Compact tables of many small files, and vacuum those of which only the latest version is used.

    `tweets` is never vacuumed: registry, evidence and reports refer to its versions, and all of them stay readable.
    A table that was changed by other means, or whose store does not answer, keeps no other from it: its `problem` says why.
    """
    done = []
    for name in SCHEMAS:
        try:
            done.append(_tidy(home, name, dry_run=dry_run))
        except FinsentError as error:
            done.append(TableUpkeep(name, 0, 0, str(error)))
    return tuple(item for item in done if item.merged or item.removed or item.problem)


def _tidy(home: Workspace, name: str, *, dry_run: bool) -> TableUpkeep:
    from deltalake.exceptions import CommitFailedError, DeltaError

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
        # full: checkpoints forget removed files after a while, and writers that died never told of theirs
        try:
            removed = handle.vacuum(retention_hours=_RETENTION_HOURS, dry_run=dry_run, full=True)
        except DeltaError:  # refused where delta.deletedFileRetentionDuration is longer, which then holds
            removed = handle.vacuum(dry_run=dry_run, full=True)
    return TableUpkeep(name, merged, len(removed))
