"""Opens Delta tables: where they lie, what their schema must have, their migrations, and Delta's errors as finsent's own."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from finsent.data.delta_log import damaged_commit, flushed
from finsent.data.table_schemas import ADDED_COLUMNS, SCHEMAS, TABLE_PROPERTIES
from finsent.errors import FinsentError, InputError, ServiceError, format_names, shorten
from finsent.files import make_folder
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from deltalake import DeltaTable

ATTEMPTS: Final = 10
"""Of a commit that conflicts; each failure means that another run committed first."""
COMMIT_ID: Final = "finsent.commit"
"""Key of what marks a commit of finsent's, different in each."""
_GONE: Final = re.compile(r"Object at location (\S+\.parquet) not found")
_REMEDY: Final = "Restore the tables from a backup, or train anew on the data as it is now (`finsent train`)."
_CAUSES: Final[tuple[tuple[str, bool, type[FinsentError], str], ...]] = (
    (
        "No space left on device|quota exceeded|File too large",
        False,
        InputError,
        "no space is left: free some, then run this again",
    ),
    ("Permission denied|Read-only file system|have access", False, InputError, "check owner and permissions of the folder"),
    (
        r"(?i)\b40[13]\b|forbidden|unauth|access ?denied|signature|privileges|loading credentials|credentials found",
        True,
        InputError,
        "check the credentials in the environment",
    ),
    (
        "Unknown scheme|recognise URL|URL did not match|must be specified",
        True,
        InputError,
        "check the address (FINSENT_TABLES) and its settings",
    ),
    (
        r"Generic \w+ error|retries|sending request|timed out",
        True,
        ServiceError,
        "the store does not answer: run this again later",
    ),
    ("(?i)concurrent|already exists", False, ServiceError, "other runs committed first, each time: run this again after them"),
    ("", False, InputError, "if somebody changed the table, undo that; if it is damaged, restore it from a backup"),
)
"""Pattern of what Delta says, whether it counts for stores behind a URL alone, our error, and what to do; the first that fits."""


class UnreadableVersionError(InputError):
    """A version of a table was there and can no longer be read: its log entries or its files were removed."""


def location(home: Workspace, name: str) -> str:
    """Folder or URL of a table."""
    if name not in SCHEMAS:
        raise InputError(f"there is no table {name!r}. Tables: {', '.join(SCHEMAS)}.")
    return f"{home.tables_url.rstrip('/')}/{name}"


def open_table(home: Workspace, name: str) -> "DeltaTable | None":
    """The table at its latest version; None when it does not exist yet.

    Raises:
        InputError: its log is damaged, or gone: what is left must not pass for the whole table, or for one that was never there.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    place = location(home, name)
    if not _is_remote(place) and not Path(place).exists():
        return None
    if not _is_remote(place) and (damaged := damaged_commit(Path(place))) is not None:
        raise InputError(
            f"table {name!r} in {home.tables_url!r}: its commit {str(damaged)!r} is empty or cut off, as a power cut leaves it, "
            "and its rows would be missing. What to do: restore it from a backup. Where there is none and it is the newest "
            "commit, remove that file, then run again what wrote it."
        )
    try:
        return DeltaTable(place)
    except TableNotFoundError as error:
        if "No files in log segment" not in str(error):  # an unknown scheme, or a folder that may not be read
            raise
        if not _is_remote(place) and any(Path(place).glob("*.parquet")):
            raise InputError(
                f"table {name!r} in {home.tables_url!r} has data files and no log: half of it is gone. Restore the folder "
                f"{place!r} from a backup, `_delta_log` included."
            ) from error
        return None


def open_version(home: Workspace, name: str, version: int | None) -> "DeltaTable | None":
    """The table at a version, by default the latest.

    Raises:
        UnreadableVersionError: log clean-up removed the version.
        InputError: no such version.
    """
    from deltalake.exceptions import TableNotFoundError

    handle = open_table(home, name)
    if version is None:
        return handle
    if handle is None:
        raise InputError(f"table {name!r} has no version {version}: it does not exist yet. Run `finsent ingest` first.")
    if not 0 <= version <= handle.version():
        raise InputError(f"table {name!r} has no version {version}. Its latest is {handle.version()}.")
    if version == handle.version():
        return handle
    try:
        handle.load_as_version(version)
    except TableNotFoundError as error:
        fresh = open_table(home, name)  # the other handle has lost its state
        oldest = min((int(commit["version"]) for commit in fresh.history()), default=0) if fresh is not None else 0
        raise UnreadableVersionError(
            f"version {version} of table {name!r} can no longer be opened: its log entries were removed by Delta's log clean-up "
            f"(delta.logRetentionDuration, 30 days where a table does not set it); the oldest left is version {oldest}. "
            + _REMEDY
        ) from error
    return handle


def open_or_create(home: Workspace, name: str) -> "DeltaTable":
    """The table, ready to be written to: created, or migrated, where it has to be.

    Raises:
        InputError: somebody changed its columns so that rows cannot be appended.
    """
    from deltalake import CommitProperties, DeltaTable
    from deltalake.exceptions import DeltaError

    handle = open_table(home, name)
    if handle is None:
        if not _is_remote(home.tables_url):
            make_folder(Path(location(home, name)))
        try:
            # no retry by Delta: the losing creation would be committed after the other, and fail those who write by then
            once = CommitProperties(max_commit_retries=0)
            return DeltaTable.create(
                location(home, name),
                SCHEMAS[name],
                mode="error",
                configuration=TABLE_PROPERTIES.get(name),
                commit_properties=once,
            )
        except DeltaError:
            handle = open_table(home, name)  # another process created it in between
            if handle is None:
                raise
    handle = _migrate(handle, name)
    require_writable(handle, name)
    return handle


def _migrate(handle: "DeltaTable", name: str) -> "DeltaTable":
    """Add the columns and properties that tables of earlier releases lack."""
    from deltalake import PostCommitHookProperties
    from deltalake.exceptions import CommitFailedError
    from deltalake.schema import Field, PrimitiveType

    kept = PostCommitHookProperties(cleanup_expired_logs=False)  # the commit that stops the clean-up must not run it
    for left in reversed(range(ATTEMPTS)):
        there, configured = {field.name for field in handle.schema().fields}, handle.metadata().configuration
        missing = [column for column in ADDED_COLUMNS.get(name, ()) if column not in there]
        unset = {key: value for key, value in TABLE_PROPERTIES.get(name, {}).items() if configured.get(key) != value}
        if not missing and not unset:
            break
        seen = int(handle.version())
        try:
            if unset:
                handle.alter.set_table_properties(unset, post_commithook_properties=kept)
            if missing:
                new = [Field(column, PrimitiveType(str(SCHEMAS[name].field(column).type))) for column in missing]
                handle.alter.add_columns(new, post_commithook_properties=kept)
        except CommitFailedError:
            if not left or not has_new_commits(handle, seen):
                raise  # another reason, or conflicts each time
    return handle


def has_new_commits(handle: "DeltaTable", seen: int) -> bool:
    """Whether another run committed since version `seen`; if not, a commit failed for another reason."""
    handle.update_incremental()
    return int(handle.version()) != seen


def commits_after(handle: "DeltaTable", version: int) -> list[dict[str, Any]]:
    """Metadata of each commit after a version, the newest first; the oldest may be missing, if log clean-up removed it."""
    while True:
        latest = int(handle.version())
        found = handle.history(max(latest - version, 1))
        # Delta numbers them down from the handle's version: wrongly, if another run committed in between
        if not has_new_commits(handle, latest):
            return [commit for commit in found if commit["version"] > version]


def arrow_schema(handle: "DeltaTable") -> pa.Schema:
    """The columns that the table has now, those too that others added."""
    return pa.schema(handle.schema())


def require_columns(handle: "DeltaTable", name: str, columns: Iterable[str]) -> pa.Schema:
    """The table's columns, if these have the types that finsent gave them; columns that a migration adds may be missing.

    Raises:
        InputError: a column was dropped, renamed or retyped by somebody else.
    """
    there = arrow_schema(handle)
    for column in columns:
        wanted = SCHEMAS[name].field(column).type
        if column not in there.names:
            if column not in ADDED_COLUMNS.get(name, ()):
                raise InputError(_changed(name, handle, f"has no column {column!r} any more", f"Add it again ({wanted})"))
        elif there.field(column).type != wanted:
            found = there.field(column).type
            raise InputError(_changed(name, handle, f"has {found} in column {column!r}", f"Give it back its type {wanted}"))
    return there


def require_writable(handle: "DeltaTable", name: str) -> None:
    """Check that rows of `SCHEMAS[name]` can be appended and read back; nullable columns of others are left null.

    Raises:
        InputError: they cannot, because of what somebody else changed in the table.
    """
    from deltalake.table import SUPPORTED_READER_FEATURES

    there = require_columns(handle, name, SCHEMAS[name].names)
    for field in there:
        if field.name not in SCHEMAS[name].names and not field.nullable:
            raise InputError(
                _changed(name, handle, f"has the column {field.name!r}, which allows no nulls and which finsent does not know",
                         "Make it nullable (ALTER TABLE ... ALTER COLUMN ... DROP NOT NULL)")
            )  # fmt: skip
    unknown = sorted(set(handle.protocol().reader_features or ()) - SUPPORTED_READER_FEATURES)
    if unknown:
        raise InputError(
            _changed(name, handle, f"has features that finsent's Delta reader does not know: {format_names(unknown)}",
                     "Drop them (ALTER TABLE ... DROP FEATURE)")
        )  # fmt: skip


def _changed(name: str, handle: "DeltaTable", what: str, remedy: str) -> str:
    return f"table {name!r} ({handle.table_uri}) was changed by other means: it {what}. {remedy}, or restore an earlier version."


def fill_columns(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the columns of `schema`, in its order; null where it lacks one that a migration or somebody else added."""
    for field in schema:
        own = field.name in SCHEMAS[name].names and field.name not in ADDED_COLUMNS.get(name, ())
        if field.name not in table.column_names and not own:
            table = table.append_column(field.name, pa.nulls(table.num_rows, field.type))
    return table.select(schema.names).cast(schema)


def fill_reader(name: str, reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """The same for rows that come in batches."""
    filled = (fill_columns(name, pa.Table.from_batches([batch]), schema).to_batches() for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, (batch for batches in filled for batch in batches))


@contextmanager
def delta_errors(home: Workspace, name: str, version: int | None = None) -> Iterator[None]:
    """Turn what Delta, its object store and pyarrow raise into finsent's errors.

    Raises:
        UnreadableVersionError: a file of the version is gone.
        ServiceError: the store does not answer, or other runs kept committing first.
        InputError: anything else is wrong with the table or its place.
    """
    from deltalake.exceptions import DeltaError

    try:
        yield
    except FinsentError:
        raise
    except Exception as error:
        # Arrow's errors inside Delta come as plain exceptions
        if isinstance(error, DeltaError | OSError | pa.ArrowException) or type(error) is Exception:
            raise _translate(home, name, version, error) from error
        raise


@contextmanager
def writing(home: Workspace, name: str) -> Iterator[None]:
    """The same around what commits to a table: in a local folder it is on the disk afterwards.

    Raises:
        InputError, ServiceError: as for `delta_errors`.
    """
    place = location(home, name)
    with delta_errors(home, name), nullcontext() if _is_remote(place) else flushed(Path(place)):
        yield


def _translate(home: Workspace, name: str, version: int | None, error: Exception) -> FinsentError:
    said = re.sub(r"\x1b\[[0-9;]*m", "", " ".join(str(error).split()))
    gone = _GONE.search(said)
    if gone and "_delta_log" not in gone[1]:
        return UnreadableVersionError(_describe_missing_file(home, name, version, gone[1]))
    remote = _is_remote(home.tables_url)
    known = (cause for cause in _CAUSES if (remote or not cause[1]) and re.search(cause[0], said))
    _, _, kind, remedy = next(known)
    return kind(f"table {name!r} in {home.tables_url!r}: {type(error).__name__}: {shorten(said, 300)}. What to do: {remedy}.")


def _describe_missing_file(home: Workspace, name: str, version: int | None, file: str) -> str:
    handle = open_table(home, name)
    commits = handle.history() if handle is not None else []
    vacuumed = [int(commit["version"]) for commit in commits if str(commit.get("operation", "")).startswith("VACUUM")]
    number = version if version is not None else int(commits[0]["version"]) if commits else 0
    later = [commit for commit in vacuumed if commit > number]
    why = f"its files were removed by a vacuum (commit {min(later)})" if later else "its files were removed, but by no vacuum"
    return f"version {number} of table {name!r} can no longer be read: {why}; {Path(file).name!r} is missing. {_REMEDY}"


def _is_remote(place: str) -> bool:
    return "://" in place


def applied(handle: "DeltaTable", transaction: tuple[str, int] | None) -> bool:
    """Whether the table has reached this (application, number)."""
    if transaction is None:
        return False
    reached = handle.transaction_version(transaction[0])
    return reached is not None and reached >= transaction[1]


def changed_rows(rows: pa.Table, changes: pa.Table) -> pa.Table:
    """The rows that stay after `changes` (see `tables.update_rows`), with the changed values."""
    changed = {change.pop("id"): change for change in changes.to_pylist()}
    kept = [
        row | {column: value for column, value in changed.get(row["id"], {}).items() if column != "removed"}
        for row in rows.to_pylist()
        if not changed.get(row["id"], {}).get("removed")
    ]
    return pa.Table.from_pylist(kept, schema=rows.schema)
