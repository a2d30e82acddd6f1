"""Types of the assignment of rows to groups and splits, and entering rows into one group."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finsent.config import DataConfig
from finsent.data.dedup.near_duplicates import TemplateLookup
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import Signatures
from finsent.data.splits import EXCLUDED_CODE, SplitCodes, SplitRule, split_of_group
from finsent.data.validation.row_validation import Reason

ACCEPTED, DUPLICATE, QUARANTINED = range(3)
PENDING: Final = -1

Mask = npt.NDArray[np.bool_]
GroupAssignment = tuple[int, int]
"""A split that is used, and a group in it, numbered as in `AssignmentResult.groups`."""


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
    """Rows accepted earlier, as parallel arrays [M]."""

    rows: RowArrays
    groups: Int64
    """Number of each row's group in `names`."""
    names: pa.StringArray
    splits: SplitCodes


@dataclass(frozen=True)
class NearDuplicateGraph:
    """Near-duplicate graph of all rows. A node is a distinct template; nodes of existing rows come first."""

    signatures: Signatures
    new_nodes: Int64
    """Node of each new row [N]."""
    old_nodes: Int64
    """Node of each existing row [M]."""
    components: Int64
    """Component of each node, numbered by its lowest node."""
    first_new: int
    """First node without an existing row."""
    active: Mask
    """Nodes of new rows whose id is new: everything near to them was searched, whatever other rows the node has."""


@dataclass(frozen=True)
class GroupedRows:
    """New rows, existing rows, and the near-duplicate graph of both."""

    new: RowArrays
    """In reading order: of several copies the first is kept."""
    existing: ExistingRows
    graph: NearDuplicateGraph
    templates: TemplateLookup
    """Templates of the graph's nodes."""
    wordings: TemplateLookup
    """`finsent.text.wording` of rows by number: existing rows, then new ones."""
    confirmed: Mask
    """New rows whose label a reviewer confirmed or fixed [N]."""
    dropped: Mask
    """New rows that a reviewer dropped [N]."""
    conflicting: Mask
    """New rows whose text an earlier ingestion quarantined as contradictory, without a decision since [N]."""


@dataclass(frozen=True)
class GroupRejection:
    """A row quarantined because of other rows."""

    row: int
    reason: Reason
    against: tuple[tuple[bool, int], ...] = ()
    """The other sides: whether it is an existing row, and the row's number."""
    detail: str = ""
    """Explanation where there are no other sides."""


@dataclass(frozen=True)
class AssignmentResult:
    """The outcome of each new row."""

    outcome: SplitCodes
    """ACCEPTED, DUPLICATE or QUARANTINED [N]."""
    groups: Int64
    """Group of each accepted row: number of the new row that it is named after, or N + number of an existing group."""
    splits: SplitCodes
    """Split of each accepted row."""
    rejections: list[GroupRejection] = field(default_factory=list)
    conflicts: int = 0
    """Groups whose members disagree on the label."""
    split_conflicts: int = 0
    """Groups of new rows that touched two splits."""


@dataclass(frozen=True)
class AssignmentContext:
    """Everything that the assignment of one group reads, and the result that it writes to."""

    rows: GroupedRows
    old_members: Mapping[int, Sequence[int]]
    """Existing rows of each component with new rows."""
    requested: SplitCodes | None
    """The split that each new row requests, under a rule by time or source [N]."""
    order: Int64
    """Rank of each new row [N]: the first of a group decides its split, where rows request one."""
    rule: SplitRule
    config: DataConfig
    result: AssignmentResult
    wordings: Mapping[int, str] = field(default_factory=dict)
    """Wording of each row, numbered as for `GroupedRows.wordings`, of the groups whose labels disagree."""


def existing_assignments(context: AssignmentContext, old: Iterable[int]) -> set[GroupAssignment]:
    """Splits and groups of existing rows, without the excluded ones."""
    existing, count = context.rows.existing, len(context.rows.new)
    return {
        (int(existing.splits[row]), count + int(existing.groups[row])) for row in old if existing.splits[row] != EXCLUDED_CODE
    }


def group_name(context: AssignmentContext, group: int) -> str:
    """Id of a group."""
    new, existing = context.rows.new, context.rows.existing
    return str((new.ids[group] if group < len(new) else existing.names[group - len(new)]).as_py())


def preferred_assignment(context: AssignmentContext, found: AbstractSet[GroupAssignment]) -> GroupAssignment | None:
    """The assignment that new rows take: of several the first by split and name; None of none."""
    return min(found, key=lambda item: (item[0], group_name(context, item[1])), default=None)


def assign_group(context: AssignmentContext, rows: Sequence[int], assignment: GroupAssignment | None) -> GroupAssignment | None:
    """Accept rows into a group, a new one by default; returns their assignment, or None where no row of the group is used.

    Of rows with the same text the first by `context.order` is kept.
    """
    new, result, kept = context.rows.new, context.result, []
    for row in sorted(rows, key=context.order.__getitem__):
        if context.rows.conflicting[row]:
            result.outcome[row] = QUARANTINED
            result.rejections.append(GroupRejection(row, "contradictory label"))
        else:
            kept.append(row)
    if not kept:
        return None
    ids = new.ids.take(pa.array(kept)).to_pylist()
    if assignment is None:
        founder, group = min(zip(ids, kept, strict=True))
        split = split_of_group(founder, context.rule) if context.requested is None else int(context.requested[kept[0]])
    else:
        split, group = assignment
    seen: set[str] = set()
    for row, row_id in zip(kept, ids, strict=True):
        result.outcome[row] = DUPLICATE if row_id in seen else ACCEPTED
        seen.add(row_id)
    result.splits[kept] = split if context.requested is None else np.where(context.requested[kept] == split, split, EXCLUDED_CODE)
    result.groups[kept] = group
    return None if split == EXCLUDED_CODE else (split, group)
