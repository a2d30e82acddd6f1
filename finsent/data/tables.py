"""Delta tables: ACID commits, time travel, idempotent appends, retries on conflicts. The first append creates a table."""

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar, get_args

import pyarrow as pa

from finsent.data.table_access import (
    ATTEMPTS,
    COMMIT_ID,
    applied,
    arrow_schema,
    changed_rows,
    commits_after,
    delta_errors,
    fill_columns,
    fill_reader,
    has_new_commits,
    location,
    open_or_create,
    open_table,
    open_version,
    require_columns,
    require_writable,
    writing,
)
from finsent.data.table_schemas import ADDED_COLUMNS, ALLOWED_VALUES, REQUIRED_COLUMNS, SCHEMAS, CommitKey, CommitMetadata
from finsent.errors import CheckFailed, InputError
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from deltalake import DeltaTable

_log = logging.getLogger(__name__)
_Result = TypeVar("_Result")


def version(home: Workspace, name: str) -> int | None:
    """Latest version of a table; None when it does not exist yet."""
    with delta_errors(home, name):
        handle = open_table(home, name)
        return None if handle is None else int(handle.version())


def read(
    home: Workspace, name: str, *, version: int | None = None, columns: Sequence[str] | None = None, filters: Any = None
) -> pa.Table:
    """Rows of a table at a version, by default its latest; no rows when the table does not exist yet.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`.
        version: Version to read (time travel).
        columns: Columns to read; all by default.
        filters: pyarrow expression, or tuples such as [("split", "=", "test")], applied while reading.

    Raises:
        UnreadableVersionError: log clean-up or a vacuum removed what the version needs.
        InputError: no such version, no such table in `SCHEMAS`, a column that somebody else changed, or a row without one of the
            `REQUIRED_COLUMNS`, or with another value than the `ALLOWED_VALUES`.
        ServiceError: the store does not answer.
    """
    schema = SCHEMAS[name] if columns is None else pa.schema([SCHEMAS[name].field(column) for column in columns])
    with delta_errors(home, name, version):
        handle = open_version(home, name, version)
        if handle is None:
            return schema.empty_table()
        there = require_columns(handle, name, schema.names)
        found = _scan(handle, name, [column for column in schema.names if column in there.names], filters).to_table()
        return _require_values(name, fill_columns(name, found, schema))


def batches(
    home: Workspace, name: str, columns: Sequence[str], *, version: int | None = None, filters: Any = None, rows: int = 65_536
) -> Iterator[pa.RecordBatch]:
    """Rows of a table at a version, by default its latest, in batches; the order is the same each time for one version.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`.
        columns: Columns to read.
        version: Version to read (time travel).
        filters: pyarrow expression, applied while reading.
        rows: Largest number of rows in a batch.

    Raises:
        UnreadableVersionError, InputError, ServiceError: as for `read`.
    """
    schema = pa.schema([SCHEMAS[name].field(column) for column in columns])
    with delta_errors(home, name, version):
        handle = open_version(home, name, version)
        if handle is None:
            return
        there = [column for column in columns if column in require_columns(handle, name, columns).names]
        found = _scan(handle, name, there, filters, batch_size=rows, batch_readahead=2, fragment_readahead=1).to_batches()
    while True:
        with delta_errors(home, name, version):  # around the reading alone: what the caller does with a batch is its own
            batch = next(found, None)
        if batch is None:
            return
        if batch.num_rows:
            filled = fill_columns(name, pa.Table.from_batches([batch]), schema)
            yield from _require_values(name, filled).combine_chunks().to_batches()


def _scan(handle: "DeltaTable", name: str, columns: Sequence[str], filters: Any, **reading: Any) -> "pa.dataset.Scanner":
    # without Arrow's threads: a process that ends soon after they scanned is sometimes aborted by the C++ runtime
    from pyarrow.parquet import filters_to_expression

    expression = filters_to_expression(filters) if isinstance(filters, list) else filters
    found = handle.to_pyarrow_dataset()
    # a filter may name a column that the table has not got yet
    later = [SCHEMAS[name].field(column) for column in ADDED_COLUMNS.get(name, ()) if column not in found.schema.names]
    found = found.replace_schema(pa.schema([*found.schema, *later]))
    return found.scanner(columns=list(columns), filter=expression, use_threads=False, **reading)


def _require_values(name: str, table: pa.Table) -> pa.Table:
    """The table, if it has a value in every required column, and no unknown label or split."""
    import pyarrow.compute as pc

    for column in REQUIRED_COLUMNS.get(name, ()):
        if column in table.column_names and table[column].null_count:
            raise InputError(
                f"the table {name!r} has rows without a value in column {column!r}. Was the table changed by hand? "
                "Restore an earlier version, or ingest into a new FINSENT_HOME."
            )
    for column, names in ALLOWED_VALUES.get(name, {}).items():
        if column in table.column_names:
            odd = table[column].filter(pc.invert(pc.is_in(table[column], value_set=pa.array([*names, None], pa.string()))))
            if len(odd):
                raise InputError(
                    f"the table {name!r} has a row whose {column} is {odd[0].as_py()!r}; {column}s are {', '.join(names)}. "
                    "Was the table changed by hand? Restore an earlier version, or begin anew in a new FINSENT_HOME."
                )
    return table


def append(
    home: Workspace,
    name: str,
    table: pa.Table | pa.RecordBatchReader,
    *,
    transaction: tuple[str, int] | None = None,
    metadata: CommitMetadata | None = None,
) -> int:
    """Append rows in one commit and return the table's version after it.

    Args:
        home: Where the tables are.
        name: One of `SCHEMAS`; the rows must have its columns, in any order. Columns that others added to the table stay null.
        table: Rows to append; of a reader one row group is in memory at a time.
        transaction: (application, number): nothing is written if the application has reached that number already, which makes a
            rerun after a crash idempotent. Numbers of one application must rise.
        metadata: Recorded with the commit.

    Raises:
        InputError: somebody changed the table so that the rows do not fit.
        ServiceError: the store does not answer, or other runs kept committing first.
    """
    with writing(home, name):
        return _append(home, name, table, transaction, metadata)


def _append(
    home: Workspace,
    name: str,
    table: pa.Table | pa.RecordBatchReader,
    transaction: tuple[str, int] | None,
    metadata: CommitMetadata | None,
) -> int:
    """See `append`; raises what Delta raises."""
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    properties = CommitProperties(
        custom_metadata=metadata, app_transactions=[Transaction(*transaction)] if transaction is not None else None
    )

    def write(handle: "DeltaTable") -> None:
        if applied(handle, transaction):
            return
        data = (fill_columns if isinstance(table, pa.Table) else fill_reader)(name, table, arrow_schema(handle))
        try:
            # through the handle that was checked: only then does Delta notice a competing commit of the same application
            write_deltalake(handle, data, mode="append", commit_properties=properties)
        except CommitFailedError:
            if not applied(open_or_create(home, name), transaction):
                raise

    # a reader is used up once it was read: then the caller has to retry a failed commit
    handle = _write_with_retry(home, name, write, attempts=ATTEMPTS if isinstance(table, pa.Table) else 1)
    handle.update_incremental()
    return int(handle.version())


def replace(home: Workspace, name: str, table: pa.Table, *, metadata: CommitMetadata | None = None) -> None:
    """Replace all rows of a table in one commit, those too that another run adds meanwhile; only for derived data."""
    from deltalake import CommitProperties, write_deltalake

    properties = CommitProperties(custom_metadata=metadata)

    def write(handle: "DeltaTable") -> None:
        data = fill_columns(name, table, arrow_schema(handle))
        write_deltalake(handle, data, mode="overwrite", commit_properties=properties)

    with writing(home, name):
        _write_with_retry(home, name, write)


def _write_with_retry(
    home: Workspace, name: str, write: Callable[["DeltaTable"], None], attempts: int = ATTEMPTS
) -> "DeltaTable":
    """The table after `write`, which is retried where Delta rejected the commit because another one came first.

    Concurrent appends do not conflict, except with the table's creation, its migration or a replacement of its rows.
    """
    from deltalake.exceptions import CommitFailedError

    for left in reversed(range(attempts)):
        handle = open_or_create(home, name)
        seen = int(handle.version())
        try:
            write(handle)
            break
        except CommitFailedError:
            if not left or not has_new_commits(handle, seen):
                raise
            _log.info("another run changed table %r in between: retrying the commit", name)
    return handle


@dataclass(frozen=True)
class Position:
    """Version of a table, and last transaction number of an application."""

    version: int
    """Delta version; -1 before the first commit."""
    number: int
    """Last number committed by the application; 0 before the first."""


def position(home: Workspace, name: str, application: str) -> Position:
    """The current position. Read it before computing what to append.

    Raises:
        InputError: somebody changed the table so that nothing can be appended; told before anything is computed.
    """
    with delta_errors(home, name):
        handle = open_table(home, name)
        if handle is None:
            return Position(-1, 0)
        require_writable(handle, name)
        return Position(int(handle.version()), int(handle.transaction_version(application) or 0))


def require_writable_tables(home: Workspace, names: Sequence[str]) -> None:
    """Check tables before any work whose results will be written to them.

    Raises:
        InputError: somebody changed one so that nothing can be appended.
    """
    for name in names:
        position(home, name, "")


def append_if_unchanged(
    home: Workspace,
    name: str,
    table: pa.Table | pa.RecordBatchReader,
    application: str,
    after: Position,
    metadata: CommitMetadata | None = None,
) -> Position | None:
    """Append rows as the transaction number after `after`; the new position, or None if another run took that number first.

    Optimistic concurrency control that works across machines, unlike a lock file.
    """
    from deltalake.exceptions import CommitFailedError

    number, mark = after.number + 1, uuid.uuid4().hex
    with writing(home, name):
        try:
            _append(home, name, table, (application, number), {**(metadata or {}), COMMIT_ID: mark})
        except CommitFailedError:
            if position(home, name, application).version == after.version:
                raise  # no other commit: it failed for another reason
            return None
        return _find_commit(home, name, mark, after, number)


def _find_commit(home: Workspace, name: str, mark: str, after: Position, number: int) -> Position | None:
    """Position of our commit among those since `after`; the others may be maintenance, of other applications, or later."""
    handle = open_table(home, name)
    since = commits_after(handle, after.version) if handle is not None else []
    ours = next((int(commit["version"]) for commit in since if commit.get(COMMIT_ID) == mark), None)
    return None if ours is None else Position(ours, number)


def retry_on_conflict(home: Workspace, name: str, application: str, attempt: Callable[[Position], _Result | None]) -> _Result:
    """The result of `attempt` at the table's position; retried at the then current position while it returns None.

    Raises:
        CheckFailed: other runs committed first at every attempt.
    """
    for _ in range(ATTEMPTS):
        result = attempt(position(home, name, application))
        if result is not None:
            return result
        _log.warning("another run wrote to table %r in between: trying again", name)
    raise CheckFailed(
        f"other runs wrote to table {name!r} ({location(home, name)}) before each of {ATTEMPTS} attempts. "
        "Wait until they are through, then run this again: nothing is lost or doubled by that."
    )


def commit_history(home: Workspace, name: str, *, version: int | None = None, last: int | None = None) -> list[dict[str, Any]]:
    """Metadata of each commit, the newest first: of the `last` ones, of those up to `version`, or of all."""
    with delta_errors(home, name):
        handle = open_table(home, name)
        found = handle.history(last) if handle is not None else []
    # another program's commit may carry the same plain keys, which say nothing about our rows
    foreign = set(get_args(CommitKey)) if name == "tweets" else set()
    found = [c if COMMIT_ID in c else {key: value for key, value in c.items() if key not in foreign} for c in found]
    return [commit for commit in found if version is None or int(commit["version"]) <= version]


def last_metadata(home: Workspace, name: str, key: CommitKey) -> str | None:
    """Value of `key` in the latest commit that recorded it; maintenance commits (compaction) record nothing."""
    return next((str(commit[key]) for commit in commit_history(home, name) if key in commit), None)


def update_rows(
    home: Workspace, name: str, changes: pa.Table, application: str, after: Position, metadata: CommitMetadata | None = None
) -> Position | None:
    """Update and remove rows by their id in one commit, as the transaction number after `after`.

    Args:
        home: Where the tables are.
        name: A table that exists and whose ids are unique.
        changes: Columns `id`, `removed` (bool) and those to be overwritten in rows that stay. Unknown ids are ignored.
        application: The application that numbers its commits.
        after: Position that `changes` were computed from.
        metadata: Recorded with the commit.

    Returns:
        The new position, or None if another run took that number first, or rewrote the same files (compaction).
    """
    import pyarrow.compute as pc

    ids = changes["id"].to_pylist()
    listed = ", ".join("'" + row_id.replace("'", "''") + "'" for row_id in ids)
    chosen = pc.field("id").isin(pa.array(ids, pa.string()))

    return replace_where(
        home, name, f"id IN ({listed})", (chosen, lambda there: changed_rows(there, changes)), application, after, metadata
    )


def replace_where(
    home: Workspace,
    name: str,
    predicate: str,
    stay: tuple[Any, Callable[[pa.Table], pa.Table]] | None,
    application: str,
    after: Position,
    metadata: CommitMetadata | None = None,
) -> Position | None:
    """Replace the rows that match an SQL predicate in one commit; `application`, `after` and the result as of `update_rows`.

    `stay` is the predicate as a pyarrow expression, and what makes of the rows that match it those to be written in their
    place; None removes them unread.
    """
    from deltalake import CommitProperties, Transaction, write_deltalake
    from deltalake.exceptions import CommitFailedError

    number, mark = after.number + 1, uuid.uuid4().hex
    with writing(home, name):
        handle = open_or_create(home, name)
        if applied(handle, (application, number)):
            return None
        seen, schema = int(handle.version()), arrow_schema(handle)
        rows = schema.empty_table() if stay is None else stay[1](_scan(handle, name, schema.names, stay[0]).to_table())
        properties = CommitProperties(
            custom_metadata={**(metadata or {}), COMMIT_ID: mark}, app_transactions=[Transaction(application, number)]
        )
        try:
            # Not DeltaTable.merge, update or delete: those write strings as string_view, which pyarrow's filters cannot read
            # back (delta-rs issue 4579). Through the handle that was read, so that Delta notices a competing commit.
            write_deltalake(handle, rows, mode="overwrite", predicate=predicate, commit_properties=properties)
        except CommitFailedError:
            if not has_new_commits(handle, seen):
                raise
            return None
        return _find_commit(home, name, mark, after, number)
