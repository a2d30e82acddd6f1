"""The current prediction of each tweet: a tweet may have one of each model that was champion.

Current is the newest; of predictions of the same moment, the model's digest decides.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from finsent.data import tables
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.compute import Expression

KEY: Final = ("id", "scored_at", "model_digest")
"""Columns that `find_current` decides by."""


def find_current(batches: "Iterable[pa.RecordBatch | pa.Table]") -> NDArray[np.bool_]:
    """For each row of some batches with the columns `KEY`, in their order, whether it is current among all of them.

    Takes 26 bytes a row, and as much again at the end: of an id 128 bits of hash are kept.
    """
    digests: dict[str, int] = {}
    parts: list[tuple[NDArray[Any], ...]] = []
    for batch in batches:
        ids = batch["id"].to_pylist()
        # Python's own hash has a secret of this process in it: nobody can make ids that share one
        first = np.fromiter(map(hash, ids), np.int64, len(ids))
        second = np.fromiter((hash(f"\0{name}") for name in ids), np.int64, len(ids))
        codes = [digests.setdefault(digest or "", len(digests)) for digest in batch["model_digest"].to_pylist()]
        parts.append((first, second, moments(batch), np.array(codes, np.int16)))
    if not parts:
        return np.zeros(0, np.bool_)
    first, second, moment, code = (np.concatenate(column) for column in zip(*parts, strict=True))
    ranks = np.argsort(np.argsort(np.array(list(digests)))).astype(np.int16)
    order = np.lexsort((ranks[code], moment, second, first))
    newest = np.ones(len(order), np.bool_)
    newest[:-1] = (first[order[1:]] != first[order[:-1]]) | (second[order[1:]] != second[order[:-1]])
    found = np.zeros(len(order), np.bool_)
    found[order[newest]] = True
    return found


def moments(rows: "pa.RecordBatch | pa.Table") -> NDArray[np.int64]:
    """When each row was scored, in microseconds; those without a time count as the oldest."""
    import pyarrow as pa
    import pyarrow.compute as pc

    found = pc.fill_null(rows["scored_at"].cast(pa.int64()), np.iinfo(np.int64).min)
    return np.asarray(found, np.int64)


def read_current(
    home: Workspace, columns: Sequence[str], *, since: datetime | None = None, among: "Expression | None" = None
) -> "pa.Table":
    """Of each tweet its current prediction out of all, or of those since a time and those `among` which it is looked for."""
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = None if since is None else pc.field("scored_at") >= pa.scalar(since, pa.timestamp("us", tz="UTC"))
    if among is not None:
        wanted = among if wanted is None else wanted & among
    rows = tables.read(home, "predictions", columns=[*dict.fromkeys([*columns, *KEY])], filters=wanted)
    return rows.select(list(columns)).filter(pa.array(find_current([rows])))
