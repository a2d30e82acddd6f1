"""What placing rows works on and with: rows as parallel arrays, their near-duplicate graph, and entering rows into a group."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finsent.config import DataConfig
from finsent.data.contract import Reason
from finsent.data.linking import TextsOf
from finsent.data.shingles import Int64
from finsent.data.signatures import Signatures
from finsent.data.splits import OUT, Codes, SplitRule, code_of

ACCEPTED, DUPLICATE, QUARANTINED = range(3)
PENDING: Final = -1


@dataclass(frozen=True)
class Rows:
    """Rows as parallel arrays [N]."""

    ids: pa.StringArray
    labels: npt.NDArray[np.int8]
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Before:
    """Rows accepted before, as parallel arrays [M]."""

    rows: Rows
    groups: Int64
    """Number of each row's group in `names`."""
    names: pa.StringArray
    splits: Codes


@dataclass(frozen=True)
class Refusal:
    """A row quarantined because of others."""

    row: int
    reason: Reason
    against: tuple[tuple[bool, int], ...] = ()
    """The other sides: whether accepted before, and the row's number."""
    detail: str = ""
    """Said instead of the sides."""


@dataclass(frozen=True)
class Graph:
    """Texts and what they are near to. A node is a distinct template, those of rows accepted before come first."""

    signatures: Signatures
    new_nodes: Int64
    """Node of each new row [N]."""
    old_nodes: Int64
    """Node of each row accepted before [M]."""
    components: Int64
    """Component of each node, numbered by its lowest node."""
    first_new: int
    """Nodes from here on are of no row accepted before."""


@dataclass(frozen=True)
class Placement:
    """Where new rows ended; every one of them has one outcome."""

    outcome: Codes
    """ACCEPTED, DUPLICATE or QUARANTINED [N]."""
    groups: Int64
    """Group of each accepted row: number of the new row that it is named after, or N + number of the group from before."""
    splits: Codes
    """Split of each accepted row."""
    refusals: list[Refusal] = field(default_factory=list)
    conflicts: int = 0
    """Groups whose members disagree on the label."""
    bridges: int = 0
    """Groups of new rows that touched two splits."""


@dataclass(frozen=True)
class Scene:
    """What placing one group looks at, and where the result goes."""

    new: Rows
    before: Before
    graph: Graph
    old_members: Mapping[int, Sequence[int]]
    """Rows accepted before of each component that new rows touch."""
    stay_out: npt.NDArray[np.bool_]
    """New rows whose text an earlier ingestion quarantined as contradictory [N]."""
    wanted: Codes | None
    """The split that each new row asks for, where rows do that [N]."""
    order: Int64
    """Rank of each new row: the first of a group decides its split, where rows ask for one."""
    rule: SplitRule
    config: DataConfig
    texts_of: TextsOf
    into: Placement


def homes_of(before: Before, old: Iterable[int]) -> set[tuple[int, int]]:
    """Splits and group numbers of rows accepted before."""
    return {(int(before.splits[row]), int(before.groups[row])) for row in old}


def first_home(before: Before, homes: AbstractSet[tuple[int, int]]) -> tuple[int, int] | None:
    """The home that new rows go to: one that is used for something, of several the first by name."""
    return min(homes, key=lambda home: (home[0], before.names[home[1]].as_py()), default=None)


def enter(scene: Scene, rows: Sequence[int], home: tuple[int, int] | None) -> None:
    """Accept rows into `home` (split, number of a group from before), or into a new group when they have none."""
    into, kept = scene.into, []
    for row in rows:
        if scene.stay_out[row]:
            into.outcome[row] = QUARANTINED
            into.refusals.append(Refusal(row, "contradictory label"))
        else:
            kept.append(row)
    if not kept:
        return
    names = scene.new.ids.take(pa.array(kept)).to_pylist()
    split, group = _found(scene, kept, names) if home is None else (home[0], len(scene.new) + home[1])
    seen: set[str] = set()
    for row, name in zip(kept, names, strict=True):
        into.outcome[row] = DUPLICATE if name in seen else ACCEPTED
        seen.add(name)
    if scene.wanted is not None:
        if split == OUT:  # a group of excluded rows binds nobody
            split = int(scene.wanted[min(kept, key=scene.order.__getitem__)])
        into.splits[kept] = np.where(scene.wanted[kept] == split, split, OUT)
    else:
        into.splits[kept] = split
    into.groups[kept] = group


def _found(scene: Scene, rows: Sequence[int], names: Sequence[str]) -> tuple[int, int]:
    """Split and group of rows that are near to none accepted before: the group is named after the smallest id."""
    founder, row = min(zip(names, rows, strict=True))
    if scene.wanted is not None:
        return int(scene.wanted[min(rows, key=scene.order.__getitem__)]), row
    return code_of(founder, scene.rule), row
