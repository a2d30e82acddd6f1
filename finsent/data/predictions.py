"""Which predictions are a model's, by the content of its adapter: a name and a number can be given a second time."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
