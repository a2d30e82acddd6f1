"""New rows that would tie two splits together: twins of rows accepted before that lie on different sides.

Rows accepted before never move, so somebody has to stay out, and the test set has to stay clean. New rows are placed next to
their twins, nearest first; one that is then a near duplicate of rows in two splits is quarantined as a bridge, with both groups
named. What hung together by such rows alone is free to found groups of its own. A component of more than `LARGEST` new texts is
quarantined whole.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from finsent.data.linking import pairs_apart, unite
from finsent.data.placing import QUARANTINED, Refusal, Scene, enter, first_home, homes_of
from finsent.data.shingles import Int64
from finsent.data.splits import CODES, OUT

LARGEST: Final = 2000
"""New texts of a component that are placed one by one, which takes all near pairs among them."""


def bridge(scene: Scene, rows: Int64, old: Sequence[int]) -> None:
    """Place the new rows of a component that touches two splits."""
    graph = scene.graph
    new_nodes, row_node = np.unique(graph.new_nodes[rows], return_inverse=True)
    old_nodes = np.unique(graph.old_nodes[np.array(old, np.int64)])
    members: list[list[int]] = [[] for _ in new_nodes]
    for row, node in zip(rows.tolist(), row_node.tolist(), strict=True):
        members[node].append(row)
    if len(new_nodes) > LARGEST:
        _refuse(scene, rows.tolist(), homes_of(scene.before, old))
        return
    twins, neighbours = _adjacent(scene, old_nodes, new_nodes)
    rows_of: dict[int, list[int]] = {}
    for row in old:
        rows_of.setdefault(int(graph.old_nodes[row]), []).append(row)
    homes: list[set[tuple[int, int]]] = [
        homes_of(scene.before, (row for node in near for row in rows_of[int(old_nodes[node])])) for near in twins
    ]
    _spread(scene, members, homes, neighbours)


def _adjacent(scene: Scene, old_nodes: Int64, new_nodes: Int64) -> tuple[list[list[int]], list[list[int]]]:
    """Of each new node: its near twins among the old nodes, and among the new ones, by their places in the lists given."""
    nodes = np.concatenate([old_nodes, np.setdiff1d(new_nodes, old_nodes)])
    place_of = {int(node): place for place, node in enumerate(nodes)}
    pairs = pairs_apart(
        scene.graph.signatures.take(nodes),
        lambda some: scene.texts_of(nodes[some]),
        scene.config,
        np.arange(len(nodes)),
        new_from=len(old_nodes),
    )
    new_place = {place_of[int(node)]: index for index, node in enumerate(new_nodes)}
    twins: list[list[int]] = [[place_of[int(node)]] if place_of[int(node)] < len(old_nodes) else [] for node in new_nodes]
    neighbours: list[list[int]] = [[] for _ in new_nodes]
    for low, high in pairs.tolist():
        for here, there in ((low, high), (high, low)):
            if here in new_place and there < len(old_nodes):
                twins[new_place[here]].append(there)
            if here in new_place and there in new_place:
                neighbours[new_place[here]].append(new_place[there])
    return twins, neighbours


def _spread(
    scene: Scene, members: Sequence[Sequence[int]], homes: list[set[tuple[int, int]]], neighbours: Sequence[Sequence[int]]
) -> None:
    placed: dict[int, tuple[int, int]] = {}
    refused: set[int] = set()
    smallest = {node: min(scene.new.ids.take(members[node]).to_pylist()) for node in range(len(members))}
    waiting = sorted(smallest, key=smallest.__getitem__)
    while reached := [node for node in waiting if homes[node] or any(other in placed for other in neighbours[node])]:
        for node in reached:
            near = homes[node] | {placed[other] for other in neighbours[node] if other in placed}
            if len({split for split, _ in near if split != OUT}) > 1:
                refused.add(node)
                _refuse(scene, members[node], near)
            else:
                home = first_home(scene.before, near)
                enter(scene, members[node], home)
                if home is not None:
                    placed[node] = home
        waiting = [node for node in waiting if node not in placed and node not in refused]
    free = set(waiting)
    ties = [(node, other) for node in waiting for other in neighbours[node] if other in free]
    component = unite(np.arange(len(members)), np.array(ties, np.int64).reshape(-1, 2))
    for number in np.unique(component[waiting]) if waiting else ():
        enter(scene, [row for node in waiting if component[node] == number for row in members[node]], None)


def _refuse(scene: Scene, rows: Sequence[int], near: set[tuple[int, int]]) -> None:
    names = sorted((CODES[split], scene.before.names[group].as_py()) for split, group in near)
    where = ", ".join(f"{split} (group {group})" for split, group in names)
    for row in rows:
        scene.into.outcome[row] = QUARANTINED
        scene.into.refusals.append(Refusal(row, "bridges splits", detail=f"near twins in {where}"))
