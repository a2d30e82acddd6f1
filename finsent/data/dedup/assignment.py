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
from finsent.data.dedup.near_duplicates import TemplateLookup
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import Signatures
from finsent.data.splits import EXCLUDED_CODE, SplitCodes, SplitRule, split_of_group

ACCEPTED, DUPLICATE, QUARANTINED = range(3)
PENDING: Final = -1


@dataclass(frozen=True)
class RowArrays:
    """Rows as parallel arrays [N]."""

    ids: pa.StringArray
    labels: npt.NDArray[np.int8]
    signatures: Signatures

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class ExistingRows:
    """Rows accepted before, as parallel arrays [M]."""

    rows: RowArrays
    groups: Int64
    """Number of each row's group in `names`."""
    names: pa.StringArray
    splits: SplitCodes


@dataclass(frozen=True)
class GroupRejection:
    """A row quarantined because of others."""

    row: int
    reason: Reason
    against: tuple[tuple[bool, int], ...] = ()
    """The other sides: whether accepted before, and the row's number."""
    detail: str = ""
    """Said instead of the sides, where there are none."""


@dataclass(frozen=True)
class NearDuplicateGraph:
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
    active: npt.NDArray[np.bool_]
    """Nodes of new rows that were not accepted before: what they are near to was looked at, whatever else is of the node."""


@dataclass(frozen=True)
class AssignmentResult:
    """Where new rows ended; every one of them has one outcome."""

    outcome: SplitCodes
    """ACCEPTED, DUPLICATE or QUARANTINED [N]."""
    groups: Int64
    """Group of each accepted row: number of the new row that it is named after, or N + number of the group from before."""
    splits: SplitCodes
    """Split of each accepted row."""
    rejections: list[GroupRejection] = field(default_factory=list)
    conflicts: int = 0
    """Groups whose members disagree on the label."""
    split_conflicts: int = 0
    """Groups of new rows that touched two splits."""


@dataclass(frozen=True)
class AssignmentContext:
    """What placing one group looks at, and where the result goes."""

    new: RowArrays
    before: ExistingRows
    graph: NearDuplicateGraph
    old_members: Mapping[int, Sequence[int]]
    """Rows accepted before of each component that new rows touch."""
    stay_out: npt.NDArray[np.bool_]
    """New rows whose text an earlier ingestion quarantined as contradictory [N]."""
    decided: npt.NDArray[np.bool_]
    """New rows of which a person said that the label stands, whatever contradicts it [N]."""
    wanted: SplitCodes | None
    """The split that each new row asks for, where rows do that [N]."""
    order: Int64
    """Rank of each new row: the first of a group decides its split, where rows ask for one."""
    rule: SplitRule
    config: DataConfig
    texts_of: TemplateLookup
    into: AssignmentResult


GroupAssignment = tuple[int, int]
"""A split that is used, and a group in it, as `Placement.groups` has them."""


def existing_assignments(scene: AssignmentContext, old: Iterable[int]) -> set[GroupAssignment]:
    """Where rows accepted before are; those that are used for nothing bind nobody."""
    before, count = scene.before, len(scene.new)
    return {(int(before.splits[row]), count + int(before.groups[row])) for row in old if before.splits[row] != EXCLUDED_CODE}


def group_name(scene: AssignmentContext, group: int) -> str:
    """Id of a group."""
    count = len(scene.new)
    return str((scene.new.ids[group] if group < count else scene.before.names[group - count]).as_py())


def preferred_assignment(scene: AssignmentContext, homes: AbstractSet[GroupAssignment]) -> GroupAssignment | None:
    """The home that new rows go to: of several the first by split and name."""
    return min(homes, key=lambda home: (home[0], group_name(scene, home[1])), default=None)


def assign_group(scene: AssignmentContext, rows: Sequence[int], home: GroupAssignment | None) -> GroupAssignment | None:
    """Accept rows into `home`, or into a new group when they have none; says where they are, None where nothing of them is used.

    Of rows with the same text the first is kept, in the order in which rows decide.
    """
    into, kept = scene.into, []
    for row in sorted(rows, key=scene.order.__getitem__):
        if scene.stay_out[row]:
            into.outcome[row] = QUARANTINED
            into.rejections.append(GroupRejection(row, "contradictory label"))
        else:
            kept.append(row)
    if not kept:
        return None
    names = scene.new.ids.take(pa.array(kept)).to_pylist()
    if home is None:
        founder, group = min(zip(names, kept, strict=True))
        split = split_of_group(founder, scene.rule) if scene.wanted is None else int(scene.wanted[kept[0]])
    else:
        split, group = home
    seen: set[str] = set()
    for row, name in zip(kept, names, strict=True):
        into.outcome[row] = DUPLICATE if name in seen else ACCEPTED
        seen.add(name)
    into.splits[kept] = split if scene.wanted is None else np.where(scene.wanted[kept] == split, split, EXCLUDED_CODE)
    into.groups[kept] = group
    return None if split == EXCLUDED_CODE else (split, group)
