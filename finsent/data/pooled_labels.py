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

_MOST_STORED: Final = 20_000


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
        earlier = tables.read(
            home, "tweets", columns=["label", "text"], filters=pc.field("source").isin(pa.array(names, pa.string()))
        )
        earlier = earlier.slice(max(0, len(earlier) - _MOST_STORED))
        pooled.add(zip(earlier["label"].to_pylist(), earlier["text"].to_pylist(), strict=True))
        if mismatch := check_label_polarity(pooled, items[0].labels):
            raise CheckFailed(format_label_mismatch(mismatch, ", ".join(names)))
