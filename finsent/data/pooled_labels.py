"""Checks labels over all that one map was used for: every source of a command, and what those sources brought earlier.

Files of a few rows are too small to be judged one by one, so that a wrong map would pass day by day.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.validation.label_check import PolarityStats, check_label_polarity, format_label_mismatch
from finsent.errors import CheckFailed
from finsent.workspace import Workspace

_ENOUGH: Final = 20_000
"""New rows from which those stored earlier add nothing."""


class SourcePolarity(NamedTuple):
    """What was gathered of one configured source."""

    names: tuple[str, ...]
    labels: Mapping[str, str] | None
    """Its label map."""
    gathered: PolarityStats


def check_pooled_labels(home: Workspace, read: Sequence[SourcePolarity]) -> None:
    """Check the sources that were read under one map together, with their rows in the table.

    Raises:
        CheckFailed: their labels look mapped wrongly.
    """
    pools: dict[tuple[tuple[str, str], ...], list[SourcePolarity]] = {}
    for item in read:
        pools.setdefault(tuple(sorted((item.labels or {}).items())), []).append(item)
    for items in pools.values():
        names = list(dict.fromkeys(name for item in items for name in item.names))
        pooled = PolarityStats()
        for item in items:
            pooled.merge(item.gathered)
        if not pooled.samples:
            continue
        if sum(sample.rows for sample in pooled.samples.values()) < _ENOUGH:
            earlier = _stored(home, names)
            # what is reversed already was accepted by somebody, and must not stop every later ingestion
            if check_label_polarity(earlier) is None:
                pooled.merge(earlier)
        if mismatch := check_label_polarity(pooled, items[0].labels):
            raise CheckFailed(format_label_mismatch(mismatch, ", ".join(names)))


def _stored(home: Workspace, names: Sequence[str]) -> PolarityStats:
    """Of the rows that these sources brought earlier, batch by batch: there may be millions."""
    found = PolarityStats()
    if tables.version(home, "tweets") is not None:
        of_these = pc.field("source").isin(pa.array(names, pa.string()))
        for batch in tables.batches(home, "tweets", ("label", "text"), filters=of_these):
            found.add(zip(batch.column("label").to_pylist(), batch.column("text").to_pylist(), strict=True))
    return found
