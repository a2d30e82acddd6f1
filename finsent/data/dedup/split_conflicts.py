"""New rows that would tie two splits together: twins of rows accepted before that lie on different sides.

Rows accepted before never move, so somebody has to stay out, and the test set has to stay clean. New rows are placed next to
their twins, nearest first; one that is then a near duplicate of rows in two splits is quarantined as a bridge, with both groups
named. What hung together by such rows alone is free to found groups of its own. Texts are placed in order of their ids,
`AT_ONCE` of them at a time: all near pairs among those are looked at together.
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

AT_ONCE: Final = 2000


def resolve_split_conflict(scene: AssignmentContext, rows: Int64, old: Sequence[int]) -> None:
    """Place the new rows of a component that touches two splits."""
    members: dict[int, list[int]] = {}
    for row, node in zip(rows.tolist(), scene.graph.new_nodes[rows].tolist(), strict=True):
        members.setdefault(node, []).append(row)
    homes: dict[int, set[GroupAssignment]] = {}
    for row in old:
        homes.setdefault(int(scene.graph.old_nodes[row]), set()).update(existing_assignments(scene, [row]))
    smallest = {node: min(scene.new.ids.take(found).to_pylist()) for node, found in members.items()}
    order = sorted(members, key=smallest.__getitem__)
    for start in range(0, len(order), AT_ONCE):
        _place(scene, order[start : start + AT_ONCE], members, homes)


def _place(
    scene: AssignmentContext, nodes: Sequence[int], members: dict[int, list[int]], homes: dict[int, set[GroupAssignment]]
) -> None:
    """Place the rows of some nodes next to what has a home; their homes are added to `homes`."""
    near, neighbours = _adjacent(scene, nodes, homes)
    waiting, placed = list(range(len(nodes))), dict[int, GroupAssignment]()
    gone: set[int] = set()
    while reached := [node for node in waiting if near[node] or any(other in placed for other in neighbours[node])]:
        for node in reached:
            found = near[node] | {placed[other] for other in neighbours[node] if other in placed}
            gone.add(node)
            if len({split for split, _ in found}) > 1:
                _quarantine(scene, members[nodes[node]], found)
            elif home := assign_group(scene, members[nodes[node]], preferred_assignment(scene, found)):
                placed[node] = home
        waiting = [node for node in waiting if node not in gone]
    free = set(waiting)
    ties = [(node, other) for node in waiting for other in neighbours[node] if other in free]
    component = merge_components(np.arange(len(nodes)), np.array(ties, np.int64).reshape(-1, 2))
    for number in np.unique(component[waiting]) if waiting else ():
        together = [node for node in waiting if component[node] == number]
        if home := assign_group(scene, [row for node in together for row in members[nodes[node]]], None):
            placed |= dict.fromkeys(together, home)
    for node, home in placed.items():
        homes.setdefault(nodes[node], set()).add(home)


def _adjacent(
    scene: AssignmentContext, nodes: Sequence[int], homes: dict[int, set[GroupAssignment]]
) -> tuple[list[set[GroupAssignment]], list[list[int]]]:
    """Of each of the nodes: homes of its near twins, itself included, and its near twins among the nodes by their places."""
    everything = np.array(sorted({*nodes, *homes}), np.int64)
    place_of = {node: place for place, node in enumerate(nodes)}
    pairs = near_duplicate_pairs(
        scene.graph.signatures.take(everything),
        lambda some: scene.texts_of(everything[some]),
        scene.config,
        np.arange(len(everything)),
        active=np.isin(everything, nodes),
    )
    near = [set(homes.get(node, ())) for node in nodes]
    neighbours: list[list[int]] = [[] for _ in nodes]
    for low, high in everything[pairs].tolist():
        for here, there in ((low, high), (high, low)):
            if here in place_of:
                near[place_of[here]] |= homes.get(there, set())
                if there in place_of:
                    neighbours[place_of[here]].append(place_of[there])
    return near, neighbours


def _quarantine(scene: AssignmentContext, rows: Sequence[int], near: set[GroupAssignment]) -> None:
    names = sorted((SPLIT_CODES[split], group_name(scene, group)) for split, group in near)
    where = ", ".join(f"{split} (group {group})" for split, group in names)
    for row in rows:
        scene.into.outcome[row] = QUARANTINED
        scene.into.rejections.append(GroupRejection(row, "bridges splits", detail=f"near twins in {where}"))
