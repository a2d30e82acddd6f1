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
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np

from finsent.config import DataConfig
from finsent.data.contract import Rejection, shorten
from finsent.data.dedupe import components, near_pairs
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


@dataclass
class Placement:
    """Where the new rows ended; every one of them is in exactly one of the three lists."""

    accepted: list[tuple[Row, str, str]] = field(default_factory=list)
    """Row, group, split."""
    duplicates: list[Row] = field(default_factory=list)
    quarantined: list[tuple[Row, Rejection]] = field(default_factory=list)
    conflicts: int = 0
    """Groups whose members disagree on the label."""
    naive_groups: list[int] = field(default_factory=list)
    """Near-duplicate group of every row, accepted before or readable now, copies and conflicts included: what a plain random
    split would have been drawn from."""


@dataclass
class _Old:
    """Rows accepted before, by distinct template."""

    templates: list[str]
    cut: list[bool]
    rows: list[list[int]]
    """Positions in `Accepted` of each template."""


def place(rows: Sequence[Row], accepted: Accepted, stay_out: AbstractSet[str], config: DataConfig, rule: SplitRule) -> Placement:
    """Place the new rows; `stay_out` are the ids quarantined as contradictory by an earlier ingestion."""
    placement = Placement()
    old = _by_template(accepted)
    position = {forms.id: index for index, forms in enumerate(accepted.forms)}
    fresh: list[Row] = []
    for row in rows:
        known = position.get(row.id)
        if known is None:
            fresh.append(row)
        elif accepted.labels[known] == row.label:
            placement.duplicates.append(row)
        else:
            placement.quarantined.append((row, _contradiction(_side(row), f"{accepted.labels[known]}, accepted before")))
    nodes: dict[str, list[Row]] = defaultdict(list)
    for row in fresh:
        nodes[row.forms.template].append(row)
    members = list(nodes.values())
    cut = old.cut + [any(row.forms.cut for row in node) for node in members]
    pairs = near_pairs(old.templates + list(nodes), cut, config, new_from=len(old.templates))
    _Placing(accepted, old, members, pairs, stay_out, rule, placement).run()
    placement.naive_groups = _naive_groups(rows, accepted, old, list(nodes), pairs)
    return placement


def _by_template(accepted: Accepted) -> _Old:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, forms in enumerate(accepted.forms):
        rows[forms.template].append(index)
    cut = [any(accepted.forms[index].cut for index in indices) for indices in rows.values()]
    return _Old(list(rows), cut, list(rows.values()))


class _Placing:
    """One pass over the groups of new rows. A node is a distinct template among them, with its rows."""

    def __init__(
        self,
        accepted: Accepted,
        old: _Old,
        members: list[list[Row]],
        pairs: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
        stay_out: AbstractSet[str],
        rule: SplitRule,
        placement: Placement,
    ) -> None:
        self.accepted, self.members, self.stay_out, self.rule, self.placement = accepted, members, stay_out, rule, placement
        start = len(old.templates)
        self.twins: list[list[int]] = [[] for _ in members]
        """Each node's near twins among the rows accepted before."""
        self.neighbours: list[list[int]] = [[] for _ in members]
        """Each node's near twins among the nodes."""
        for lower, higher in pairs.tolist():
            if lower < start:
                self.twins[higher - start].extend(old.rows[lower])
            else:
                self.neighbours[lower - start].append(higher - start)
                self.neighbours[higher - start].append(lower - start)
        new_pairs = pairs[pairs[:, 0] >= start] - start
        self.groups: dict[int, list[int]] = defaultdict(list)
        for node, group in enumerate(components(len(members), new_pairs).tolist()):
            self.groups[group].append(node)

    def run(self) -> None:
        for nodes in self.groups.values():
            rows = [row for node in nodes for row in self.members[node]]
            twins = sorted({twin for node in nodes for twin in self.twins[node]})
            labels = {row.label for row in rows} | {self.accepted.labels[twin] for twin in twins}
            if len(labels) > 1:
                self._conflict(rows, twins)
            elif len({self.accepted.splits[twin] for twin in twins}) > 1:
                self._bridge(nodes)
            else:
                self._accept(nodes, twins)

    def _conflict(self, rows: list[Row], twins: list[int]) -> None:
        self.placement.conflicts += 1
        sides = {
            self.accepted.labels[
                twin
            ]: f"{self.accepted.labels[twin]}, accepted before, {shorten(self.accepted.texts[twin], _SHOWN)!r}"
            for twin in twins
        }
        for row in rows:
            sides.setdefault(row.label, _side(row))
        for row in rows:
            against = "; ".join(side for label, side in sides.items() if label != row.label)
            self.placement.quarantined.append((row, _contradiction(_side(row), against)))

    def _accept(self, nodes: Iterable[int], twins: Sequence[int]) -> None:
        rows = self._without_old_conflicts(nodes)
        if not rows:
            return
        if twins:
            group, split = min((self.accepted.groups[twin], self.accepted.splits[twin]) for twin in twins)
        else:
            group = min(row.id for row in rows)
            split = split_of(group, self.rule)
        self._enter(rows, group, split)

    def _enter(self, rows: Iterable[Row], group: str, split: str) -> None:
        seen: set[str] = set()
        for row in rows:
            if row.id in seen:
                self.placement.duplicates.append(row)
            else:
                seen.add(row.id)
                self.placement.accepted.append((row, group, split))

    def _without_old_conflicts(self, nodes: Iterable[int]) -> list[Row]:
        rows = []
        for node in nodes:
            for row in self.members[node]:
                if row.id in self.stay_out:
                    detail = f"{_side(row)}: this text was quarantined as contradictory by an earlier ingestion"
                    self.placement.quarantined.append((row, Rejection("contradictory label", detail)))
                else:
                    rows.append(row)
        return rows

    def _bridge(self, nodes: Sequence[int]) -> None:
        """Place nodes next to twins that have a split; quarantine those that are twins of two splits."""
        placed: dict[int, tuple[str, str]] = {}
        refused: set[int] = set()
        waiting = sorted(nodes, key=lambda node: min(row.id for row in self.members[node]))
        while True:
            reached = [node for node in waiting if self.twins[node] or any(other in placed for other in self.neighbours[node])]
            if not reached:
                break
            node = reached[0]
            waiting.remove(node)
            homes = {(self.accepted.splits[twin], self.accepted.groups[twin]) for twin in self.twins[node]}
            homes |= {placed[other] for other in self.neighbours[node] if other in placed}
            if len({split for split, _ in homes}) > 1:
                refused.add(node)
                where = ", ".join(f"{split} (group {group})" for split, group in sorted(homes))
                for row in self.members[node]:
                    self.placement.quarantined.append((row, Rejection("bridges splits", f"near twins in {where}")))
            else:
                placed[node] = min(homes)
                self._enter(self._without_old_conflicts([node]), placed[node][1], placed[node][0])
        # what is left hung on the rows refused alone, and is free to found groups of its own
        left = {node: index for index, node in enumerate(waiting)}
        ties = [(left[node], left[other]) for node in waiting for other in self.neighbours[node] if other in left]
        founded = defaultdict(list)
        for node, group in zip(waiting, components(len(waiting), np.array(ties, np.int64).reshape(-1, 2)).tolist(), strict=True):
            founded[group].append(node)
        for some in founded.values():
            self._accept(some, ())


def _naive_groups(
    rows: Sequence[Row],
    accepted: Accepted,
    old: _Old,
    new_templates: Sequence[str],
    pairs: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
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


def _contradiction(here: str, there: str) -> Rejection:
    return Rejection("contradictory label", f"{here} against {there}")
