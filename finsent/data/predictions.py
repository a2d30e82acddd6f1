"""Which predictions are a model's, by the content of its adapter, and which are current: a tweet may have one of each model."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from finsent.data import tables
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.compute import Expression


@dataclass(frozen=True)
class ModelIdentity:
    """A registered version, and what it is."""

    name: str
    """Registered model."""
    version: str
    digest: str
    """SHA-256 of the adapter's manifest, which lists every file's; empty where the version carries none."""
    registered_at: datetime


def predicted_by(model: ModelIdentity) -> "Expression":
    """Filter for the table `predictions`: rows that this model scored, under whatever name and number.

    Rows from before the column `model_digest` count as its own by name and number, unless they are older than the version: then
    they are of a version that had its number before, in a registry that was lost or in that of another home.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    since = pa.scalar(model.registered_at, pa.timestamp("us", tz="UTC"))
    labelled = (pc.field("model_name") == model.name) & (pc.field("model_version") == model.version)
    # not is_null(): by Delta's statistics Arrow takes a file from before the column to have a value in it
    undigested = pc.coalesce(pc.field("model_digest"), pc.scalar("")) == ""
    earlier = undigested & labelled & (pc.field("scored_at") >= since)
    # a version without a digest (one that another program registered) must not take up what others without one have scored
    return (pc.field("model_digest") == model.digest) | earlier if model.digest else earlier


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
