"""Which predictions are a model's, by the content of its adapter: a name and a number can be given a second time."""

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyarrow.compute import Expression


@dataclass(frozen=True)
class ChampionLine:
    """The champions of one registry, one after the other: what one of them has scored, its successors leave as it is.

    Another registry's champions score for themselves, into the same tables or not.
    """

    key: str
    """Tells the registry: when its registered model was made, and the hash of the first decision about it."""
    digests: frozenset[str]
    """Of its champions."""
    since: datetime
    """When the registered model was made."""


@dataclass(frozen=True)
class ModelIdentity:
    """A registered version, and what it is."""

    name: str
    """Registered model."""
    version: str
    digest: str
    """SHA-256 of the adapter's manifest, which lists every file's; empty where the version carries none."""
    registered_at: datetime
    line: ChampionLine | None = None
    """None: its own predictions alone count as made."""

    @property
    def line_key(self) -> str:
        """Tells whose predictions count."""
        return self.line.key if self.line is not None else self.digest


def failed_by(digest: str) -> str:
    """`input` of a row in quarantine for which the model with this digest has no finite logits."""
    return f"model:{digest}"


def predicted_in_line(model: ModelIdentity) -> "Expression":
    """Filter for the table `predictions`: rows that this model or another champion of its registry scored.

    Rows from before the column `model_digest` count by the registered model's name, unless they are older than the registry.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if model.line is None:
        return predicted_by(model)
    since = pa.scalar(model.line.since, pa.timestamp("us", tz="UTC"))
    digest = pc.coalesce(pc.field("model_digest"), pc.scalar(""))
    earlier = (digest == "") & (pc.field("model_name") == model.name) & (pc.field("scored_at") >= since)
    return digest.isin(pa.array(sorted({model.digest, *model.line.digests} - {""}), pa.string())) | earlier


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
