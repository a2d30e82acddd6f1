"""Writing predictions, each exactly once: a chunk is one Delta commit that carries a number of its model version.

The number is read before what is due is derived. Of two runs that derived the same, the first to commit a number wins;
the other's commit is not made, which it finds by the mark on the commit, and it derives anew.
"""

from typing import TYPE_CHECKING

from finsent.data import tables
from finsent.data.tables import Position
from finsent.home import Home

if TYPE_CHECKING:
    import pyarrow as pa


def application(model_name: str, model_version: str) -> str:
    """Id under which the chunks of a model version are numbered."""
    return f"finsent-score/{model_name}/{model_version}"


def position(home: Home, application: str) -> Position:
    """Where the table stands now. Read this before deriving what is due."""
    return tables.position(home, "predictions", application)


def write(home: Home, rows: "pa.Table", application: str, after: Position) -> Position | None:
    """Commit a chunk as the number that follows `after`; the new position, or None if another run took that number first."""
    return tables.append_if_unchanged(home, "predictions", rows, application, after)
