"""Where each readable row ends: accepted into a near-duplicate group and its split, duplicate, or quarantined.

New rows meet the rows accepted before, and one another:

1. A row whose identity was accepted before is a duplicate, or contradicts it when the labels differ.
2. Near-duplicate rows form groups. A group whose members, new or accepted before, disagree on the label is a conflict: all its
   new rows are quarantined, with both sides shown. A row accepted before never changes.
3. A group that touches rows accepted before takes over their group id and split; a new one is named after its smallest id.
4. New rows that would tie two splits together: those that are themselves twins of both are quarantined, the rest go where
   their twins are.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np

from finsent.config import DataConfig
from finsent.data.contract import Rejection, shorten
from finsent.data.dedupe import Int64, components, near_pairs
from finsent.data.splits import SplitRule, split_of
from finsent.text import Forms

_SHOWN: Final = 120


@dataclass(frozen=True, slots=True)
class Row:
    """A readable row. `place` names it in the quarantine, together with `number`."""

    source: str
    place: str
    number: int
    text: str
    label: str
    created_at: datetime | None
    forms: Forms

    @property
    def id(self) -> str:
        """Identity of the text."""
        return self.forms.id


@dataclass(frozen=True)
class Accepted:
    """Rows accepted before, as parallel lists."""

    texts: Sequence[str]
    forms: Sequence[Forms]
    labels: Sequence[str]
    groups: Sequence[str]
    splits: Sequence[str]


@dataclass(frozen=True)
class Placement:
    """Where new rows ended; every one of them is in exactly one of the three lists."""

    accepted: list[tuple[Row, str, str]] = field(default_factory=list)
    """Row, group, split."""
    duplicates: list[Row] = field(default_factory=list)
    quarantined: list[tuple[Row, Rejection]] = field(default_factory=list)
    conflicts: int = 0
    """Groups whose members disagree on the label."""
    naive_groups: list[int] = field(default_factory=list)
    """Near-duplicate group of every row, accepted before or readable now, copies and conflicts included: what a plain random
    split would have been drawn from."""


@dataclass(frozen=True)
class _Old:
    """Rows accepted before, by distinct template."""

    templates: list[str]
    cut: list[bool]
    rows: list[list[int]]
    """Positions in `Accepted` of each template."""


@dataclass(frozen=True)
class _Scene:
    """New rows and what they are near to. A node is a distinct template among the new rows."""

    accepted: Accepted
    members: list[list[Row]]
    """Rows of each node."""
    twins: list[list[int]]
    """Each node's near twins among the rows accepted before."""
    neighbours: list[list[int]]
    """Each node's near twins among the nodes."""
    stay_out: AbstractSet[str]
    rule: SplitRule


def place(rows: Sequence[Row], accepted: Accepted, stay_out: AbstractSet[str], config: DataConfig, rule: SplitRule) -> Placement:
    """Place the new rows; `stay_out` are the ids quarantined as contradictory by an earlier ingestion."""
    old = _by_template(accepted)
    known, fresh = _meet_equals(rows, accepted)
    nodes: dict[str, list[Row]] = defaultdict(list)
    for row in fresh:
        nodes[row.forms.template].append(row)
    cut = old.cut + [any(row.forms.cut for row in node) for node in nodes.values()]
    pairs = near_pairs(old.templates + list(nodes), cut, config, new_from=len(old.templates))
    scene = _scene(accepted, old, list(nodes.values()), pairs, stay_out, rule)
    new_pairs = pairs[pairs[:, 0] >= len(old.templates)] - len(old.templates)
    parts = [known, *(_settle(scene, group) for group in _groups(range(len(nodes)), new_pairs))]
    return Placement(
        accepted=[item for part in parts for item in part.accepted],
        duplicates=[row for part in parts for row in part.duplicates],
        quarantined=[item for part in parts for item in part.quarantined],
        conflicts=sum(part.conflicts for part in parts),
        naive_groups=_naive_groups(rows, accepted, old, list(nodes), pairs),
    )


def _by_template(accepted: Accepted) -> _Old:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, forms in enumerate(accepted.forms):
        rows[forms.template].append(index)
    cut = [any(accepted.forms[index].cut for index in indices) for indices in rows.values()]
    return _Old(list(rows), cut, list(rows.values()))


def _meet_equals(rows: Sequence[Row], accepted: Accepted) -> tuple[Placement, list[Row]]:
    """Rows whose identity was accepted before, and those that are new."""
    known, fresh = Placement(), []
    position = {forms.id: index for index, forms in enumerate(accepted.forms)}
    for row in rows:
        there = position.get(row.id)
        if there is None:
            fresh.append(row)
        elif accepted.labels[there] == row.label:
            known.duplicates.append(row)
        else:
            known.quarantined.append((row, _contradiction(_side(row), _old_side(accepted, there))))
    return known, fresh


def _scene(
    accepted: Accepted, old: _Old, members: list[list[Row]], pairs: Int64, stay_out: AbstractSet[str], rule: SplitRule
) -> _Scene:
    start = len(old.templates)
    twins: list[list[int]] = [[] for _ in members]
    neighbours: list[list[int]] = [[] for _ in members]
    for lower, higher in pairs.tolist():
        if lower < start:
            twins[higher - start].extend(old.rows[lower])
        else:
            neighbours[lower - start].append(higher - start)
            neighbours[higher - start].append(lower - start)
    return _Scene(accepted, members, twins, neighbours, stay_out, rule)


def _groups(nodes: Sequence[int], pairs: Int64) -> list[list[int]]:
    """Nodes by connected component; `pairs` are positions in `nodes`."""
    groups: dict[int, list[int]] = defaultdict(list)
    for node, group in zip(nodes, components(len(nodes), pairs).tolist(), strict=True):
        groups[group].append(node)
    return list(groups.values())


def _settle(scene: _Scene, nodes: Sequence[int]) -> Placement:
    """Place one group of new rows."""
    rows = [row for node in nodes for row in scene.members[node]]
    twins = sorted({twin for node in nodes for twin in scene.twins[node]})
    if len({row.label for row in rows} | {scene.accepted.labels[twin] for twin in twins}) > 1:
        return Placement(quarantined=_conflict(scene, rows, twins), conflicts=1)
    if len({scene.accepted.splits[twin] for twin in twins}) > 1:
        return _bridge(scene, nodes)
    home = min(((scene.accepted.splits[twin], scene.accepted.groups[twin]) for twin in twins), default=None)
    return _enter(scene, nodes, home)


def _conflict(scene: _Scene, rows: Sequence[Row], twins: Sequence[int]) -> list[tuple[Row, Rejection]]:
    sides: dict[str, str] = {}
    for twin in twins:
        sides.setdefault(scene.accepted.labels[twin], _old_side(scene.accepted, twin))
    for row in rows:
        sides.setdefault(row.label, _side(row))
    return [
        (row, _contradiction(_side(row), "; ".join(side for label, side in sides.items() if label != row.label))) for row in rows
    ]


def _enter(scene: _Scene, nodes: Iterable[int], home: tuple[str, str] | None) -> Placement:
    """Accept the nodes' rows into `home` (split, group), or into a new group when they have none."""
    rows = [row for node in nodes for row in scene.members[node]]
    placement = Placement(quarantined=[(row, _still_out(row)) for row in rows if row.id in scene.stay_out])
    kept = [row for row in rows if row.id not in scene.stay_out]
    if not kept:
        return placement
    founder = min(row.id for row in kept)
    split, group = home or (split_of(founder, scene.rule), founder)
    seen: set[str] = set()
    for row in kept:
        if row.id in seen:
            placement.duplicates.append(row)
        else:
            seen.add(row.id)
            placement.accepted.append((row, group, split))
    return placement


def _bridge(scene: _Scene, nodes: Sequence[int]) -> Placement:
    """Place nodes next to twins that have a split, nearest first; quarantine those that are twins of two splits."""
    homes: dict[int, tuple[str, str]] = {}
    parts = []
    waiting = sorted(nodes, key=lambda node: min(row.id for row in scene.members[node]))
    while reached := [node for node in waiting if _homes(scene, node, homes)]:
        for node in reached:
            near = _homes(scene, node, homes)
            if len({split for split, _ in near}) > 1:
                where = ", ".join(f"{split} (group {group})" for split, group in sorted(near))
                why = Rejection("bridges splits", f"near twins in {where}")
                parts.append(Placement(quarantined=[(row, why) for row in scene.members[node]]))
            else:
                homes[node] = min(near)
                parts.append(_enter(scene, [node], homes[node]))
        waiting = [node for node in waiting if node not in reached]
    # what is left hung on the rows refused alone, and is free to found groups of its own
    place_of = {node: index for index, node in enumerate(waiting)}
    ties = [(place_of[node], place_of[other]) for node in waiting for other in scene.neighbours[node] if other in place_of]
    left = _groups(waiting, np.array(ties, np.int64).reshape(-1, 2))
    parts += [_enter(scene, group, None) for group in left]
    return Placement(
        accepted=[item for part in parts for item in part.accepted],
        duplicates=[row for part in parts for row in part.duplicates],
        quarantined=[item for part in parts for item in part.quarantined],
    )


def _homes(scene: _Scene, node: int, placed: Mapping[int, tuple[str, str]]) -> set[tuple[str, str]]:
    """Splits and groups that a node's twins live in."""
    near = {(scene.accepted.splits[twin], scene.accepted.groups[twin]) for twin in scene.twins[node]}
    return near | {placed[other] for other in scene.neighbours[node] if other in placed}


def _naive_groups(
    rows: Sequence[Row],
    accepted: Accepted,
    old: _Old,
    new_templates: Sequence[str],
    pairs: Int64,
) -> list[int]:
    """Group number of every accepted row, then of every new one."""
    node_of = {text: index for index, text in enumerate(old.templates)}
    for index, text in enumerate(new_templates, start=len(old.templates)):
        node_of.setdefault(text, index)
    count = len(old.templates) + len(new_templates)
    leader: dict[str, int] = {}
    ties = [(leader.setdefault(accepted.groups[index], node), node) for node, indices in enumerate(old.rows) for index in indices]
    joined = components(count, np.concatenate([np.array(ties, np.int64).reshape(-1, 2), pairs]))
    old_nodes = {index: node for node, indices in enumerate(old.rows) for index in indices}
    before = [int(joined[old_nodes[index]]) for index in range(len(accepted.forms))]
    return before + [int(joined[node_of[row.forms.template]]) for row in rows]


def _side(row: Row) -> str:
    return f"{row.label} in {row.place} row {row.number}, {shorten(row.text, _SHOWN)!r}"


def _old_side(accepted: Accepted, index: int) -> str:
    return f"{accepted.labels[index]}, accepted before, {shorten(accepted.texts[index], _SHOWN)!r}"


def _contradiction(here: str, there: str) -> Rejection:
    return Rejection("contradictory label", f"{here} against {there}")


def _still_out(row: Row) -> Rejection:
    return Rejection("contradictory label", f"{_side(row)}: an earlier ingestion quarantined this text as contradictory")
