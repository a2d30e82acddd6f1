"""Groups rows by near-duplicate component and assigns each new row its outcome: accepted, duplicate or quarantined.

1. A row whose id exists already is a duplicate, or a conflict when the labels differ.
2. Near-duplicate rows form groups, together with the existing groups that they touch. Members of the same wording (equal but for
   form) that disagree on the label are a conflict: the new ones are quarantined, with both sides shown, except those that a
   reviewer confirmed. With `data.near_contradictions: quarantine`, any members of a group are. An existing row never changes.
3. A group that touches existing rows takes their group id and split; a new one is named after its smallest id.
4. Existing rows never move, so a component that would join two splits has new rows quarantined. Each of its new rows takes the
   assignment of its near duplicates, closest first; one that is then near to rows of two splits is quarantined, with both groups
   named. New rows that were connected through such rows only may found groups of their own.

Rows are indices into parallel arrays, since there may be millions; only groups of several rows are processed one by one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from finsent.config import DataConfig
from finsent.data.dedup.assignment import (
    ACCEPTED,
    DUPLICATE,
    PENDING,
    QUARANTINED,
    AssignmentContext,
    AssignmentResult,
    ExistingRows,
    GroupAssignment,
    GroupedRows,
    GroupRejection,
    NearDuplicateGraph,
    RowArrays,
    assign_group,
    existing_assignments,
    group_name,
    preferred_assignment,
)
from finsent.data.dedup.near_duplicates import (
    TemplateLookup,
    link_near_duplicates,
    merge_components,
    near_duplicate_pairs,
    rows_to_compare,
)
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import concat_signatures
from finsent.data.splits import EXCLUDED_CODE, SPLIT_CODES, TEST, SplitCodes, SplitRule, split_of_group
from finsent.labels import LABELS

CONFLICT_BATCH: Final = 2000
"""Texts of a component that joins two splits are processed so many at a time, with all near pairs among those."""

_Assignments = dict[int, set[GroupAssignment]]  # by node


def build_graph(
    new: RowArrays, existing: ExistingRows, templates_of_rows: TemplateLookup, config: DataConfig
) -> tuple[NearDuplicateGraph, TemplateLookup]:
    """The near-duplicate graph of all rows, and the templates of its nodes.

    Args:
        new: New rows [N].
        existing: Existing rows [M].
        templates_of_rows: Templates of rows by number: existing rows, then new ones from M on. The first call asks for all of the
            former that may be needed.
        config: Threshold and shingle size.
    """
    hashes = np.concatenate([existing.rows.signatures.template, new.signatures.template])
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # nodes in the order that their first rows come in, so that old ones come first
    nodes, first_row = rank[inverse], np.sort(first)
    known = len(existing.rows)
    first_new = int(np.searchsorted(first_row, known))
    signatures = concat_signatures(
        [existing.rows.signatures.take(first_row[:first_new]), new.signatures.take(first_row[first_new:] - known)]
    )
    signatures = signatures.with_truncated(nodes, np.concatenate([existing.rows.signatures.truncated, new.signatures.truncated]))
    joined = np.arange(len(first_row))
    if known:
        leaders = np.zeros(len(existing.names), np.int64)
        leaders[existing.groups[::-1]] = nodes[:known][::-1]
        ties = np.stack([leaders[existing.groups], nodes[:known]], axis=1)
        joined = merge_components(joined, ties[ties[:, 0] != ties[:, 1]])

    def texts_of(wanted: Int64) -> list[str]:
        return templates_of_rows(first_row[wanted])

    active = np.zeros(len(first_row), bool)
    # a new row can make a node near to what it was not near to before: its text was cut short, or the others were excluded
    active[nodes[known:][~is_in(new.ids, existing.rows.ids)]] = True
    if known:
        texts_of(rows_to_compare(signatures, config, active, joined))
    components = link_near_duplicates(signatures, texts_of, config, active=active, joined=joined)
    return NearDuplicateGraph(signatures, nodes[known:], nodes[:known], components, first_new, active), texts_of


def is_in(ids: pa.StringArray, others: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Which of the ids [N] are among the others."""
    return np.array(pc.is_in(ids, value_set=others).to_numpy(zero_copy_only=False), bool)


def assign_rows(
    rows: GroupedRows,
    config: DataConfig,
    rule: SplitRule,
    requested: SplitCodes | None = None,
    times: Int64 | None = None,
) -> AssignmentResult:
    """Assign the new rows.

    Args:
        rows: New and existing rows.
        config: Threshold and shingle size.
        rule: Decides the split of a new group.
        requested: The split that each new row requests [N], under a rule by time or source.
        times: Time of each new row [N], under a rule by time: the earliest row of a group is its first.
    """
    new, graph, count = rows.new, rows.graph, len(rows.new)
    result = AssignmentResult(np.full(count, PENDING, np.int8), np.arange(count), np.zeros(count, np.int8))
    result.outcome[rows.dropped] = QUARANTINED
    why = "a person decided that this text stays out of the data: see `finsent review decisions`"
    dropped = np.flatnonzero(rows.dropped).tolist()
    result.rejections.extend(GroupRejection(row, "dropped by review", detail=why) for row in dropped)
    _match_existing_ids(new, rows.existing, result)
    fresh = np.flatnonzero(result.outcome == PENDING)
    component = graph.components[graph.new_nodes[fresh]]
    order = np.argsort(component, kind="stable")
    fresh, component = fresh[order], component[order]
    starts = np.flatnonzero(np.concatenate([[True], component[1:] != component[:-1]])) if len(fresh) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(fresh)))
    context = AssignmentContext(
        rows, _old_members(graph, component[starts]), requested, _order(count, requested, times), rule, config, result
    )
    context = replace(context, wordings=_disputed_wordings(context, fresh, component))
    alone = (sizes == 1) & (component[starts] >= graph.first_new) & ~rows.conflicting[fresh[starts]]
    _assign_singletons(context, fresh[starts[alone]])
    kinds = [
        _assign_component(context, fresh[start : start + size], context.old_members.get(int(number), ()))
        for start, size, number in zip(starts[~alone].tolist(), sizes[~alone].tolist(), component[starts[~alone]], strict=True)
    ]
    return replace(result, conflicts=kinds.count("conflict"), split_conflicts=kinds.count("split conflict"))


def _match_existing_ids(new: RowArrays, existing: ExistingRows, result: AssignmentResult) -> None:
    """Set the outcome of rows whose id exists already."""
    there = pc.index_in(new.ids, value_set=existing.rows.ids)
    known = np.flatnonzero(pc.is_valid(there).to_numpy(zero_copy_only=False) & (result.outcome == PENDING))
    at = there.take(pa.array(known)).to_numpy().astype(np.int64)
    same = existing.rows.labels[at] == new.labels[known]
    result.outcome[known] = np.where(same, DUPLICATE, QUARANTINED)
    result.rejections.extend(
        GroupRejection(row, "contradictory label", ((True, old),))
        for row, old in zip(known[~same].tolist(), at[~same].tolist(), strict=True)
    )


def _old_members(graph: NearDuplicateGraph, touched: Int64) -> dict[int, list[int]]:
    """Existing rows of each of the touched components."""
    component = graph.components[graph.old_nodes]
    rows = np.flatnonzero(np.isin(component, touched[touched < graph.first_new]))
    members: dict[int, list[int]] = {}
    for row, number in zip(rows.tolist(), component[rows].tolist(), strict=True):
        members.setdefault(number, []).append(row)
    return members


def _order(count: int, requested: SplitCodes | None, times: Int64 | None) -> Int64:
    """Rank of each row [N]: by time the earliest is first, by source the held-out one; then in reading order."""
    if requested is None:
        return np.arange(count)
    first = np.array([2, 1, 0])[np.minimum(requested, TEST)] if times is None else times
    ranked = np.empty(count, np.int64)
    # rows in the embargo come last: they decide only among themselves
    ranked[np.lexsort((np.arange(count), first, requested == EXCLUDED_CODE))] = np.arange(count)
    return ranked


def _assign_singletons(context: AssignmentContext, rows: Int64) -> None:
    """Accept rows without near duplicates: each founds a group that is named after it."""
    result = context.result
    result.outcome[rows] = ACCEPTED
    if context.requested is not None:
        result.splits[rows] = context.requested[rows]
        return
    for start in range(0, len(rows), 65_536):
        some = rows[start : start + 65_536]
        ids = context.rows.new.ids.take(pa.array(some)).to_pylist()
        result.splits[some] = np.fromiter((split_of_group(row_id, context.rule) for row_id in ids), np.int8, len(some))


def _disputed_wordings(context: AssignmentContext, fresh: Int64, component: Int64) -> dict[int, str]:
    """Wordings of the rows of all components whose labels disagree: read at once, since each reading passes over the table."""
    if context.config.near_contradictions == "quarantine":
        return {}
    rows, graph = context.rows, context.rows.graph
    labels = np.zeros((len(graph.components), len(LABELS)), bool)
    labels[component, rows.new.labels[fresh]] = True
    old_component = graph.components[graph.old_nodes]
    labels[old_component, rows.existing.rows.labels] = True
    disputed = labels.sum(axis=1) > 1
    touched = np.zeros(len(graph.components), bool)
    touched[component] = True
    disputed &= touched
    old = np.flatnonzero(disputed[old_component])
    wanted = np.concatenate([old, fresh[disputed[component]] + len(rows.existing.rows)])
    return dict(zip(wanted.tolist(), rows.wordings(wanted), strict=True)) if len(wanted) else {}


def _assign_component(context: AssignmentContext, rows: Int64, old: Sequence[int]) -> str:
    """Assign the new rows of one component; returns its kind."""
    new, existing = context.rows.new, context.rows.existing
    known = len(existing.rows)
    sides: dict[str | None, dict[int, tuple[bool, int]]] = {}  # by wording; one for all where no labels disagree
    for row in rows[::-1].tolist():
        sides.setdefault(context.wordings.get(row + known), {})[int(new.labels[row])] = (False, row)
    for row in reversed(old):
        sides.setdefault(context.wordings.get(row), {})[int(existing.rows.labels[row])] = (True, row)
    if conflict := any(len(labels) > 1 for labels in sides.values()):
        kept = context.rows.confirmed[rows]
        for at, row in enumerate(rows.tolist()):
            labels = sides[context.wordings.get(row + known)]
            if len(labels) == 1:
                kept[at] = True
            elif not kept[at]:
                _quarantine_label_conflict(context, row, labels)
        rows = rows[kept]
        if not len(rows):
            return "conflict"
    found = existing_assignments(context, old)
    if len({split for split, _ in found}) > 1:
        _resolve_split_conflict(context, rows, old)
        return "split conflict"
    assign_group(context, rows.tolist(), preferred_assignment(context, found))
    return "conflict" if conflict else "group"


def _quarantine_label_conflict(context: AssignmentContext, row: int, labels: Mapping[int, tuple[bool, int]]) -> None:
    context.result.outcome[row] = QUARANTINED
    others = tuple(side for label, side in labels.items() if label != context.rows.new.labels[row])
    context.result.rejections.append(GroupRejection(row, "contradictory label", others))


def _resolve_split_conflict(context: AssignmentContext, rows: Int64, old: Sequence[int]) -> None:
    """Assign or quarantine the new rows of a component that touches two splits, in order of their ids."""
    new, graph = context.rows.new, context.rows.graph
    members: dict[int, list[int]] = {}
    for row, node in zip(rows.tolist(), graph.new_nodes[rows].tolist(), strict=True):
        members.setdefault(node, []).append(row)
    assigned: _Assignments = {}
    for row in old:
        assigned.setdefault(int(graph.old_nodes[row]), set()).update(existing_assignments(context, [row]))
    smallest = {node: min(new.ids.take(found).to_pylist()) for node, found in members.items()}
    order = sorted(members, key=smallest.__getitem__)
    for start in range(0, len(order), CONFLICT_BATCH):
        _assign_nodes(context, order[start : start + CONFLICT_BATCH], members, assigned)


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
                _quarantine_split_conflict(context, members[nodes[node]], found)
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


def _quarantine_split_conflict(context: AssignmentContext, rows: Sequence[int], near: set[GroupAssignment]) -> None:
    names = sorted((SPLIT_CODES[split], group_name(context, group)) for split, group in near)
    detail = "near duplicates in " + ", ".join(f"{split} (group {group})" for split, group in names)
    for row in rows:
        context.result.outcome[row] = QUARANTINED
        context.result.rejections.append(GroupRejection(row, "split conflict", detail=detail))
