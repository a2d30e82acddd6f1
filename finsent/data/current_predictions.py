"""The current prediction of each tweet: a tweet may have one of each model that was champion."""

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from finsent.data import tables
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


def read_current(home: Workspace, columns: Sequence[str], *, since: datetime | None = None) -> "pa.Table":
    """Of each tweet its newest prediction; with `since` those made since then.

    Of predictions of the same moment, the model's digest decides.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    asked = [*dict.fromkeys([*columns, "id", "scored_at", "model_digest"])]
    later = None if since is None else pc.field("scored_at") >= pa.scalar(since, pa.timestamp("us", tz="UTC"))
    rows = tables.read(home, "predictions", columns=asked, filters=later)
    if pc.count_distinct(rows["id"], mode="all").as_py() == len(rows):
        return rows.select(list(columns))
    by_age = [("scored_at", "ascending", "at_start"), ("model_digest", "ascending", "at_start")]
    order = pc.sort_indices(rows, sort_keys=by_age)
    places = pa.table({"id": rows["id"].take(order), "place": pa.array(range(len(rows)), pa.int64())})
    newest = places.group_by("id").aggregate([("place", "max")])["place_max"]
    return rows.select(list(columns)).take(order.take(newest.combine_chunks().sort()))
