"""Writing predictions, each exactly once: a chunk is one Delta commit that carries a number of its model version.

The number is read before what is due is derived. Of two runs that derived the same, the first to commit a number wins;
the other's commit is not made, which it finds by the mark on the commit, and it derives anew.
"""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from finsent.data import tables
from finsent.home import Home

if TYPE_CHECKING:
    import pyarrow as pa

_MARK: Final = "finsent.chunk"


@dataclass(frozen=True)
class Position:
    """Where the table of predictions stands."""

    version: int
    """Delta version; -1 before the first commit."""
    number: int
    """Last number committed for the application; 0 before the first."""


def application(model_name: str, model_version: str) -> str:
    """Id under which the chunks of a model version are numbered."""
    return f"finsent-score/{model_name}/{model_version}"


def position(home: Home, application: str) -> Position:
    """Where the table stands now. Read this before deriving what is due."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        handle = DeltaTable(tables.location(home, "predictions"))
    except TableNotFoundError:
        return Position(-1, 0)
    return Position(int(handle.version()), int(handle.transaction_version(application) or 0))


def write(home: Home, rows: "pa.Table", application: str, after: Position) -> Position | None:
    """Commit a chunk as the number that follows `after`; the new position, or None if another run took that number first."""
    from deltalake import DeltaTable

    number, mark = after.number + 1, uuid.uuid4().hex
    version = tables.append(home, "predictions", rows, transaction=(application, number), metadata={_MARK: mark})
    # of the commits since, one is ours; others may have come from runs of other model versions
    since = DeltaTable(tables.location(home, "predictions")).history(max(version - after.version, 1))
    ours = any(commit.get(_MARK) == mark for commit in since)
    return Position(version, number) if ours else None
