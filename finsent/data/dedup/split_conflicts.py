"""Resolves components that would join two splits: new rows near existing rows of different splits.

Existing rows never move, so that some new rows have to be quarantined. Each new row takes the assignment of its near duplicates,
closest first; one that is then near to rows of two splits is quarantined, with both groups named. New rows that were connected
through such rows only may found groups of their own. Texts are processed in order of their ids, `BATCH` at a time, with all near
pairs among those.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from finsent.data.dedup.assignment import (
    QUARANTINED,
    AssignmentContext,
    GroupAssignment,
    GroupRejection,
    assign_group,
    existing_assignments,
    group_name,
    preferred_assignment,
)
from finsent.data.dedup.near_duplicates import merge_components, near_duplicate_pairs
from finsent.data.dedup.shingles import Int64
from finsent.data.splits import SPLIT_CODES

BATCH: Final = 2000

_Assignments = dict[int, set[GroupAssignment]]  # by node


def resolve_split_conflict(context: AssignmentContext, rows: Int64, old: Sequence[int]) -> None:
    """Assign or quarantine the new rows of a component that touches two splits."""
    new, graph = context.rows.new, context.rows.graph
    members: dict[int, list[int]] = {}
    for row, node in zip(rows.tolist(), graph.new_nodes[rows].tolist(), strict=True):
        members.setdefault(node, []).append(row)
    assigned: _Assignments = {}
    for row in old:
        assigned.setdefault(int(graph.old_nodes[row]), set()).update(existing_assignments(context, [row]))
    smallest = {node: min(new.ids.take(found).to_pylist()) for node, found in members.items()}
    order = sorted(members, key=smallest.__getitem__)
    for start in range(0, len(order), BATCH):
        _assign_nodes(context, order[start : start + BATCH], members, assigned)


def _assign_nodes(
    context: AssignmentContext, nodes: Sequence[int], members: dict[int, list[int]], assigned: _Assignments
) -> None:
    """Assign the rows of some nodes, and add to `assigned`."""
    near, neighbours = _adjacent(context, nodes, assigned)
    waiting, placed = list(range(len(nodes))), dict[int, GroupAssignment]()
    while reached := [node for node in waiting if near[node] or any(other in placed for other in neighbours[node])]:
        for node in reached:
            found = near[node] | {placed[other] for other in neighbours[node] if other in placed}
            if len({split for split, _ in found}) > 1:
                _quarantine(context, members[nodes[node]], found)
            elif assignment := assign_group(context, members[nodes[node]], preferred_assignment(context, found)):
                placed[node] = assignment
        waiting = sorted(set(waiting) - set(reached))
    # what is left was connected through quarantined rows only
    free = set(waiting)
    ties = [(node, other) for node in waiting for other in neighbours[node] if other in free]
    component = merge_components(np.arange(len(nodes)), np.array(ties, np.int64).reshape(-1, 2))
    for number in np.unique(component[waiting]) if waiting else ():
        together = [node for node in waiting if component[node] == number]
        if assignment := assign_group(context, [row for node in together for row in members[nodes[node]]], None):
            placed |= dict.fromkeys(together, assignment)
    for node, assignment in placed.items():
        assigned.setdefault(nodes[node], set()).add(assignment)


def _adjacent(
    context: AssignmentContext, nodes: Sequence[int], assigned: _Assignments
) -> tuple[list[set[GroupAssignment]], list[list[int]]]:
    """Of each node: assignments of its near duplicates and itself, and its near duplicates among `nodes`, by position."""
    everything = np.array(sorted({*nodes, *assigned}), np.int64)
    position = {node: place for place, node in enumerate(nodes)}
    pairs = near_duplicate_pairs(
        context.rows.graph.signatures.take(everything),
        lambda some: context.rows.templates(everything[some]),
        context.config,
        np.arange(len(everything)),
        active=np.isin(everything, nodes),
    )
    near = [set(assigned.get(node, ())) for node in nodes]
    neighbours: list[list[int]] = [[] for _ in nodes]
    for low, high in everything[pairs].tolist():
        for here, there in ((low, high), (high, low)):
            if here in position:
                near[position[here]] |= assigned.get(there, set())
                if there in position:
                    neighbours[position[here]].append(position[there])
    return near, neighbours


def _quarantine(context: AssignmentContext, rows: Sequence[int], near: set[GroupAssignment]) -> None:
    names = sorted((SPLIT_CODES[split], group_name(context, group)) for split, group in near)
    detail = "near duplicates in " + ", ".join(f"{split} (group {group})" for split, group in names)
    for row in rows:
        context.result.outcome[row] = QUARANTINED
        context.result.rejections.append(GroupRejection(row, "split conflict", detail=detail))
