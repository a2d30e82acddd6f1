"""Rows that were appended to a Delta table since one of its versions, read without the rest of the table.

Between two versions with nothing but appends between them, the new rows are the files that the later one has more. A compaction
writes rows that were there into new files: the versions before and after it are compared on their own. Whatever else somebody
did to the table makes its changes unknown here, and the caller reads the whole.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import pyarrow as pa

from finsent.data.table_access import (
    COMMIT_ID,
    commits_after,
    delta_errors,
    fill_columns,
    open_table,
    open_version,
    require_columns,
)
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError, one_line
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from deltalake import DeltaTable

_APPENDING: Final = {"WRITE": "mode", "STREAMING UPDATE": "outputMode"}
"""Operations that append rows where this parameter of theirs says so."""
_REWRITING: Final = "OPTIMIZE"
_WITHOUT_ROWS: Final = frozenset({"VACUUM START", "VACUUM END", "SET TBLPROPERTIES", "ADD COLUMN"})


class UnknownChangesError(Exception):
    """What was appended cannot be told from the rest of the table; the message says why."""


@dataclass(frozen=True)
class Appended:
    """Rows appended after one version of a table, up to another."""

    rows: pa.Table
    new_ids: bool
    """Whether every commit says that neither its table nor the predictions had its ids before: see `inbox.receive`."""


def appended_rows(
    home: Workspace, name: str, columns: Sequence[str], *, after: int, upto: int | None = None, stamp: str | None = None
) -> Appended:
    """Rows that were appended after version `after` and are there up to version `upto`.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`.
        columns: Columns to read; without any, no file is read, and the commits alone are looked at.
        after: -1 is before the table's creation.
        upto: A version that exists; left out, the latest.
        stamp: What `commit_stamp` gave for `after`; where the table was restored, it gives something else now.

    Raises:
        UnknownChangesError: rows were removed or changed meanwhile, `after` is another commit than it was, or log entries or
            files that are needed were removed.
        ServiceError: the store does not answer.
    """
    try:
        with delta_errors(home, name):
            handle = open_table(home, name)
            if handle is None:
                raise UnknownChangesError(f"table {name!r} is gone")
            upto = int(handle.version()) if upto is None else upto
            if upto < after:
                raise UnknownChangesError(f"table {name!r} is at version {upto}, and was at {after}")
            return _appended(handle, name, columns, after, upto, stamp)
    except InputError as error:  # what really is broken stops the reading of the whole table, too
        raise UnknownChangesError(one_line(error)) from error


def commit_stamp(home: Workspace, name: str, version: int) -> str | None:
    """What tells the commit of a version from another one of the same number; None where its log entry was removed."""
    with delta_errors(home, name):
        handle = open_table(home, name)
        commits = commits_after(handle, version - 1) if handle is not None else []
        return next((_stamp(handle, commit) for commit in commits if commit["version"] == version), None)


def count_rows(home: Workspace, name: str, version: int | None = None) -> int:
    """Number of rows of a table at a version, by default its latest, as its log tells it, or else its files."""
    with delta_errors(home, name, version):
        handle = open_version(home, name, version)
        counts = pa.table(handle.get_add_actions())["num_records"].to_pylist() if handle is not None else []
        return int(handle.to_pyarrow_dataset().count_rows() if handle is not None and None in counts else sum(counts))


def _stamp(handle: "DeltaTable", commit: dict[str, Any]) -> str:
    return "/".join(str(part) for part in (handle.metadata().id, commit.get("timestamp"), commit.get(COMMIT_ID, "")))


def _appended(handle: "DeltaTable", name: str, columns: Sequence[str], after: int, upto: int, stamp: str | None) -> Appended:
    schema = pa.schema([SCHEMAS[name].field(column) for column in columns])
    commits = [commit for commit in reversed(commits_after(handle, after - 1)) if after <= commit["version"] <= upto]
    if [commit["version"] for commit in commits] != list(range(max(after, 0), upto + 1)):
        raise UnknownChangesError(f"log entries of table {name!r} since version {after} were removed")
    if after >= 0 and stamp is not None and _stamp(handle, commits[0]) != stamp:
        raise UnknownChangesError(f"version {after} of table {name!r} is another one than it was: the table was restored")
    later = [commit for commit in commits if commit["version"] > after]
    appends = [commit for commit in later if _is_append(commit)]
    require_columns(handle, name, columns)
    if cut := set(handle.metadata().partition_columns) & set(columns):  # their values are in the log, not in the files
        raise UnknownChangesError(f"table {name!r} is partitioned by {sorted(cut)}")
    stretches = list(_stretches(name, later, after, upto))
    parts = [_added(handle, columns, start, stop) for start, stop in stretches] if columns else []
    rows = [schema.empty_table(), *(fill_columns(name, part, schema) for part in parts)]
    return Appended(pa.concat_tables(rows), all(_has_new_ids(commit) for commit in appends))


def _stretches(name: str, commits: Sequence[dict[str, Any]], after: int, upto: int) -> Iterator[tuple[int, int]]:
    """Versions between which rows were appended and nothing else was done to them."""
    start, grew = after, False
    for commit in commits:
        version = int(commit["version"])
        if _is_append(commit):
            grew = True
        elif _keeps_rows(commit):
            if grew:
                yield start, version - 1
            start, grew = version, False
        elif commit.get("operation") not in _WITHOUT_ROWS and not (version == 0 and commit.get("operation") == "CREATE TABLE"):
            raise UnknownChangesError(f"commit {version} of table {name!r} is of the kind {commit.get('operation')}")
    if grew:
        yield start, upto


def _is_append(commit: dict[str, Any]) -> bool:
    parameter = _APPENDING.get(str(commit.get("operation")))
    return parameter is not None and commit.get("operationParameters", {}).get(parameter) == "Append"


def _keeps_rows(commit: dict[str, Any]) -> bool:
    """Whether it wrote rows anew without changing what is due: a compaction, or the removal of rows that were scored."""
    return commit.get("operation") == _REWRITING or (COMMIT_ID in commit and "scored_removed" in commit)


def _has_new_ids(commit: dict[str, Any]) -> bool:
    """Whether the ids were looked up in the very version before this one: others may have added the same since then."""
    return COMMIT_ID in commit and commit.get("ids_new_after") == str(int(commit["version"]) - 1)


def _paths(handle: "DeltaTable", version: int) -> set[str]:
    """Of the files of a version; the log has them percent-encoded."""
    if handle.version() != version:
        handle.load_as_version(version)
    return {unquote(path) for path in pa.table(handle.get_add_actions())["path"].to_pylist()}


def _added(handle: "DeltaTable", columns: Sequence[str], start: int, stop: int) -> pa.Table:
    """Rows of the files that the version `stop` has more than the version `start`."""
    from pyarrow.dataset import FileSystemDataset

    before = _paths(handle, start) if start >= 0 else set()
    new = sorted(_paths(handle, stop) - before)
    # asked for no id, it prepares no file: of those of a large table that takes longer than reading the new ones
    whole = handle.to_pyarrow_dataset(file_pruning_predicate=[("id", "=", "")])
    files = [whole.format.make_fragment(path, whole.filesystem) for path in new]
    rows = FileSystemDataset(files, whole.schema, whole.format, whole.filesystem)
    # one thread, as in `tables.read`
    return rows.to_table(columns=[column for column in columns if column in whole.schema.names], use_threads=False)
