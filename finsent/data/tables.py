"""Delta tables: ACID appends, time travel, each append applied once. A table is created by its first append."""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from finsent.data.table_schemas import ADDED_COLUMNS, REQUIRED_COLUMNS, SCHEMAS
from finsent.errors import InputError, Refused
from finsent.home import Home

if TYPE_CHECKING:
    from deltalake import DeltaTable

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_COMMIT_ID: Final = "finsent.commit"
_ATTEMPTS: Final = 10  # each lost one means that another run got ahead


def location(home: Home, name: str) -> str:
    """Folder or URL of a table."""
    if name not in SCHEMAS:
        raise InputError(f"there is no table {name!r}. Tables: {', '.join(SCHEMAS)}.")
    return f"{home.tables_url.rstrip('/')}/{name}"


def version(home: Home, name: str) -> int | None:
    """Latest version of a table; None when it does not exist yet."""
    handle = _open(home, name)
    return None if handle is None else handle.version()


def read(
    home: Home, name: str, *, version: int | None = None, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """Rows of a table, at its latest version or an earlier one; no rows when it does not exist yet.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`.
        version: Version to read (time travel).
        columns: Columns to read; all when left out.
        filters: pyarrow expression, or tuples such as [("split", "=", "test")], applied while reading.

    Raises:
        InputError: no such version, no such table in `SCHEMAS`, or a row without one of the `REQUIRED` columns.
    """
    schema = SCHEMAS[name] if columns is None else pa.schema([SCHEMAS[name].field(column) for column in columns])
    handle = _open_at(home, name, version)
    if handle is None:
        return schema.empty_table()
    there = {field.name for field in handle.schema().fields}
    found = _scan(handle, [column for column in schema.names if column in there], filters).to_table()
    return _require_values(name, _add_missing_columns(name, found, schema))


def batches(
    home: Home, name: str, columns: Sequence[str], *, version: int | None = None, filters: Any = None, rows: int = 65_536
) -> Iterator[pa.RecordBatch]:
    """Rows of a table in batches, at its latest version or an earlier one; always in the same order for one version.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`.
        columns: Columns to read.
        version: Version to read (time travel).
        filters: pyarrow expression, applied while reading.
        rows: Rows of a batch at most.

    Raises:
        InputError: no such version, or a row without one of the `REQUIRED` columns.
    """
    handle = _open_at(home, name, version)
    if handle is None:
        return
    schema = pa.schema([SCHEMAS[name].field(column) for column in columns])
    there = [column for column in columns if column in {field.name for field in handle.schema().fields}]
    scan = _scan(handle, there, filters, batch_size=rows, batch_readahead=2, fragment_readahead=1)
    for batch in scan.to_batches():
        if batch.num_rows:
            yield from (
                _require_values(name, _add_missing_columns(name, pa.Table.from_batches([batch]), schema))
                .combine_chunks()
                .to_batches()
            )


def _scan(handle: "DeltaTable", columns: Sequence[str], filters: Any, **reading: Any) -> "pa.dataset.Scanner":
    """Not by Arrow's threads: a process that ends soon after they scanned is aborted by the C++ runtime now and then."""
    from pyarrow.parquet import filters_to_expression

    expression = filters_to_expression(filters) if isinstance(filters, list) else filters
    return handle.to_pyarrow_dataset().scanner(columns=list(columns), filter=expression, use_threads=False, **reading)


def _require_values(name: str, table: pa.Table) -> pa.Table:
    """The table, unless a value is missing that every row has."""
    for column in REQUIRED_COLUMNS.get(name, ()):
        if column in table.column_names and table[column].null_count:
            raise InputError(
                f"the table {name!r} has rows without a value in column {column!r}. Was the table changed by hand? "
                "Restore an earlier version, or ingest into a new FINSENT_HOME."
            )
    return table


def _add_missing_columns(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`; those of a migration may be missing, and are null then."""
    for column in set(schema.names) & set(ADDED_COLUMNS.get(name, ())) - set(table.column_names):
        table = table.append_column(column, pa.nulls(table.num_rows, schema.field(column).type))
    return table.select(schema.names).cast(schema)


def append(
    home: Home,
    name: str,
    table: pa.Table | pa.RecordBatchReader,
    *,
    transaction: tuple[str, int] | None = None,
    metadata: dict[str, str] | None = None,
) -> int:
    """Append rows in one commit and return the table's version after it.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`; the rows must have its columns, in any order.
        table: Rows to append; a reader, which must have the table's very schema, is written as it is read, so that memory holds
            one row group of it.
        transaction: (application, number): an append whose number that application has reached already writes nothing, so that
            a rerun after a crash doubles no row. Numbers of one application must rise.
        metadata: Recorded with the commit.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    data = _add_missing_columns(name, table, SCHEMAS[name]) if isinstance(table, pa.Table) else table
    properties = CommitProperties(
        custom_metadata=metadata, app_transactions=[Transaction(*transaction)] if transaction is not None else None
    )

    def write(handle: "DeltaTable") -> None:
        if _applied(handle, transaction):
            return
        try:
            # through the handle that was asked: only then does Delta notice a competing commit of the same application
            write_deltalake(handle, data, mode="append", commit_properties=properties)
        except CommitFailedError:
            if not _applied(_open_or_create(home, name), transaction):
                raise

    # what a reader gave is gone once it was read: a commit that lost is then the caller's to try anew
    handle = _write_with_retry(home, name, write, attempts=_ATTEMPTS if isinstance(table, pa.Table) else 1)
    handle.update_incremental()
    return int(handle.version())


def replace(home: Home, name: str, table: pa.Table, *, metadata: dict[str, str] | None = None) -> None:
    """Put these rows in place of all that a table has, in one commit; only for what can be derived anew.

    Rows that another run adds meanwhile go too.
    """
    from deltalake import CommitProperties, write_deltalake

    data, properties = _add_missing_columns(name, table, SCHEMAS[name]), CommitProperties(custom_metadata=metadata)
    _write_with_retry(home, name, lambda handle: write_deltalake(handle, data, mode="overwrite", commit_properties=properties))


def _write_with_retry(home: Home, name: str, write: Callable[["DeltaTable"], None], attempts: int = _ATTEMPTS) -> "DeltaTable":
    """The table after `write`, which is tried anew where Delta refused the commit because of one that got ahead.

    Appends go together, but for one that meets the table's creation, its migration or a replacement of its rows.
    """
    from deltalake.exceptions import CommitFailedError

    for left in reversed(range(attempts)):
        handle = _open_or_create(home, name)
        seen = int(handle.version())
        try:
            write(handle)
            break
        except CommitFailedError:
            if not left or not _has_new_commits(handle, seen):
                raise
            _log.info("another run changed table %r in between: writing to it again", name)
    return handle


def _has_new_commits(handle: "DeltaTable", seen: int) -> bool:
    """Whether somebody committed since version `seen`: where nobody did, a commit failed for another reason."""
    handle.update_incremental()
    return int(handle.version()) != seen


@dataclass(frozen=True)
class Position:
    """Where a table stands for an application that numbers its commits."""

    version: int
    """Delta version; -1 before the first commit."""
    number: int
    """Last number committed by the application; 0 before the first."""


def position(home: Home, name: str, application: str) -> Position:
    """Where a table stands now. Read this before deriving what to append."""
    handle = _open(home, name)
    if handle is None:
        return Position(-1, 0)
    return Position(int(handle.version()), int(handle.transaction_version(application) or 0))


def append_if_unchanged(
    home: Home,
    name: str,
    table: pa.Table | pa.RecordBatchReader,
    application: str,
    after: Position,
    metadata: Mapping[str, str] | None = None,
) -> Position | None:
    """Append rows as the number that follows `after`; the new position, or None if another run took that number first.

    Holds across machines, where no lock file does.
    """
    from deltalake.exceptions import CommitFailedError

    number, mark = after.number + 1, uuid.uuid4().hex
    try:
        append(home, name, table, transaction=(application, number), metadata={**(metadata or {}), _COMMIT_ID: mark})
    except CommitFailedError:
        if position(home, name, application).version == after.version:
            raise  # nobody got ahead: it failed for another reason
        return None
    return _find_commit(home, name, mark, after, number)


def _find_commit(home: Home, name: str, mark: str, after: Position, number: int) -> Position | None:
    """Of the commits since `after`, the one that has our mark; others may be upkeep, of other applications, or come later."""
    handle = _open(home, name)
    since = handle.history(max(int(handle.version()) - after.version, 1)) if handle is not None else []
    ours = next((int(commit["version"]) for commit in since if commit.get(_COMMIT_ID) == mark), None)
    return None if ours is None else Position(ours, number)


def retry_on_conflict(home: Home, name: str, application: str, attempt: Callable[[Position], _Result | None]) -> _Result:
    """What `attempt` makes of the table's position; tried anew from where the table then stands as long as it gives None.

    Raises:
        Refused: other runs got ahead of every attempt.
    """
    for _ in range(_ATTEMPTS):
        result = attempt(position(home, name, application))
        if result is not None:
            return result
        _log.warning("another run wrote to table %r in between: looking at it again", name)
    raise Refused(
        f"other runs wrote to table {name!r} in {home.tables_url!r} before each of {_ATTEMPTS} attempts. "
        "Wait until they are through, then run this again: nothing is lost or doubled by that."
    )


def commit_history(home: Home, name: str, *, version: int | None = None, last: int | None = None) -> list[dict[str, Any]]:
    """What was recorded with each commit, the newest first: of the `last` ones, of those up to `version`, or of all."""
    handle = _open(home, name)
    found = handle.history(last) if handle is not None else []
    return [commit for commit in found if version is None or int(commit["version"]) <= version]


def last_metadata(home: Home, name: str, key: str) -> str | None:
    """What the latest commit that recorded `key` said; commits of upkeep (compaction) record nothing."""
    return next((str(commit[key]) for commit in commit_history(home, name) if key in commit), None)


def _applied(handle: "DeltaTable", transaction: tuple[str, int] | None) -> bool:
    if transaction is None:
        return False
    reached = handle.transaction_version(transaction[0])
    return reached is not None and reached >= transaction[1]


def _open(home: Home, name: str) -> "DeltaTable | None":
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(location(home, name))
    except TableNotFoundError:
        return None


def _open_at(home: Home, name: str, version: int | None) -> "DeltaTable | None":
    handle = _open(home, name)
    if version is None:
        return handle
    if handle is None:
        raise InputError(f"table {name!r} has no version {version}: it does not exist yet. Run `finsent ingest` first.")
    if not 0 <= version <= handle.version():
        raise InputError(f"table {name!r} has no version {version}. Its latest is {handle.version()}.")
    handle.load_as_version(version)
    return handle


def _migrate(handle: "DeltaTable", name: str) -> "DeltaTable":
    from deltalake.exceptions import CommitFailedError
    from deltalake.schema import Field, PrimitiveType

    for left in reversed(range(_ATTEMPTS)):
        there = {field.name for field in handle.schema().fields}
        missing = [column for column in ADDED_COLUMNS.get(name, ()) if column not in there]
        if not missing:
            break
        seen = int(handle.version())
        try:
            handle.alter.add_columns([Field(column, PrimitiveType(str(SCHEMAS[name].field(column).type))) for column in missing])
        except CommitFailedError:
            if not left or not _has_new_commits(handle, seen):
                raise  # with nobody ahead, or with somebody ahead each time
    return handle


def _open_or_create(home: Home, name: str) -> "DeltaTable":
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import DeltaError

    handle = _open(home, name)
    if handle is not None:
        return _migrate(handle, name)
    if "://" not in home.tables_url:
        Path(location(home, name)).mkdir(parents=True, exist_ok=True)
    try:
        # not tried again by Delta: what lost would be committed on top of the other's, and fail whoever writes by then
        once = CommitProperties(max_commit_retries=0)
        return DeltaTable.create(location(home, name), SCHEMAS[name], mode="error", commit_properties=once)
    except DeltaError:
        handle = _open(home, name)  # another process made it in between
        if handle is None:
            raise
        return _migrate(handle, name)


def update_rows(
    home: Home, name: str, changes: pa.Table, application: str, after: Position, metadata: Mapping[str, str] | None = None
) -> Position | None:
    """Change and remove rows by their id as the number that follows `after`, in one commit; earlier versions keep them.

    Args:
        home: Where the tables are.
        name: A table that exists and whose ids are unique.
        changes: Columns `id`, `removed` (bool: the row goes) and those to be overwritten in the other rows. Ids that the table
            does not have are passed over.
        application: Whose commits are numbered.
        after: Where the table stood when `changes` were derived.
        metadata: Recorded with the commit.

    Returns:
        The new position, or None if another run took that number first, or rewrote the same files (compaction).
    """
    import pyarrow.compute as pc
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    number, mark = after.number + 1, uuid.uuid4().hex
    handle = _open_or_create(home, name)
    if _applied(handle, (application, number)):
        return None
    seen = int(handle.version())
    ids = changes["id"].to_pylist()
    columns = [field.name for field in handle.schema().fields]
    chosen = pc.field("id").isin(pa.array(ids, pa.string()))
    there = _add_missing_columns(name, _scan(handle, columns, chosen).to_table(), SCHEMAS[name])
    properties = CommitProperties(
        custom_metadata={**(metadata or {}), _COMMIT_ID: mark}, app_transactions=[Transaction(application, number)]
    )
    listed = ", ".join("'" + row_id.replace("'", "''") + "'" for row_id in ids)
    try:
        # Rows replaced, not DeltaTable.merge, update or delete: those write strings as string_view, which no filter of pyarrow's
        # reads back (delta-rs issue 4579). Through the handle that was read, so that Delta notices who got ahead.
        write_deltalake(
            handle, changed_rows(there, changes), mode="overwrite", predicate=f"id IN ({listed})", commit_properties=properties
        )
    except CommitFailedError:
        if not _has_new_commits(handle, seen):
            raise
        return None
    return _find_commit(home, name, mark, after, number)


def changed_rows(rows: pa.Table, changes: pa.Table) -> pa.Table:
    """The rows that stay after `changes` (see `update_rows`), with the changed values."""
    changed = {change.pop("id"): change for change in changes.to_pylist()}
    kept = [
        row | {column: value for column, value in changed.get(row["id"], {}).items() if column != "removed"}
        for row in rows.to_pylist()
        if not changed.get(row["id"], {}).get("removed")
    ]
    return pa.Table.from_pylist(kept, schema=rows.schema)
