"""Where each readable row ends: accepted into a near-duplicate group and its split, duplicate, or quarantined.

New rows meet the rows accepted before, and one another:

1. A row whose identity was accepted before is a duplicate, or contradicts it when the labels differ.
2. Near-duplicate rows form groups, together with the groups accepted before that they touch. A group whose members disagree on
   the label is a conflict: all its new rows are quarantined, with both sides shown, but for those whose label a person decided
   on. A row accepted before never changes.
3. A group that touches rows accepted before takes over their group id and split; a new one is named after its smallest id.
4. New rows that would tie two splits together: see `finsent.data.dedup.split_conflicts`.

Rows are numbers into parallel arrays, since there may be millions of them; only groups of several rows are looked at one by one.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

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
    GroupRejection,
    NearDuplicateGraph,
    RowArrays,
    assign_group,
    existing_assignments,
    preferred_assignment,
)
from finsent.data.dedup.near_duplicates import TemplateLookup, link_near_duplicates, merge_components, rows_to_compare
from finsent.data.dedup.shingles import Int64
from finsent.data.dedup.signatures import concat_signatures
from finsent.data.dedup.split_conflicts import resolve_split_conflict
from finsent.data.splits import EXCLUDED_CODE, TEST, SplitCodes, SplitRule, split_of_group


def build_graph(
    new: RowArrays, before: ExistingRows, texts_of_rows: TemplateLookup, config: DataConfig
) -> tuple[NearDuplicateGraph, TemplateLookup]:
    """Near-duplicate components of all rows.

    Args:
        new: New rows [N].
        before: Rows accepted before [M].
        texts_of_rows: Templates of rows, by number: of rows accepted before, then of new ones from M on. What may be needed of
            the former is asked for at once, in the first call.
        config: Threshold and shingle size.

    Returns:
        The graph, and the templates of its nodes.
    """
    hashes = np.concatenate([before.rows.signatures.template, new.signatures.template])
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))  # nodes in the order that their first rows come in, so that old ones come first
    nodes, first_row = rank[inverse], np.sort(first)
    known = len(before.rows)
    first_new = int(np.searchsorted(first_row, known))
    signatures = concat_signatures(
        [before.rows.signatures.take(first_row[:first_new]), new.signatures.take(first_row[first_new:] - known)]
    )
    signatures = signatures.with_cut(nodes, np.concatenate([before.rows.signatures.cut, new.signatures.cut]))
    joined = np.arange(len(first_row))
    if known:
        leaders = np.zeros(len(before.names), np.int64)
        leaders[before.groups[::-1]] = nodes[:known][::-1]
        ties = np.stack([leaders[before.groups], nodes[:known]], axis=1)
        joined = merge_components(joined, ties[ties[:, 0] != ties[:, 1]])

    def texts_of(wanted: Int64) -> list[str]:
        return texts_of_rows(first_row[wanted])

    active = np.zeros(len(first_row), bool)
    # a new row can make a node near to what it was not near to before: its text was cut short, or the others were excluded
    active[nodes[known:][~is_in(new.ids, before.rows.ids)]] = True
    if known:
        texts_of(rows_to_compare(signatures, config, active, joined))
    components = link_near_duplicates(signatures, texts_of, config, active=active, joined=joined)
    return NearDuplicateGraph(signatures, nodes[known:], nodes[:known], components, first_new, active), texts_of


def is_in(ids: pa.StringArray, others: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Which of the ids are among the others [N]."""
    return np.array(pc.is_in(ids, value_set=others).to_numpy(zero_copy_only=False), bool)


def assign_rows(
    new: RowArrays,
    before: ExistingRows,
    graph: NearDuplicateGraph,
    texts_of: TemplateLookup,
    config: DataConfig,
    rule: SplitRule,
    *,
    stay_out: AbstractSet[str] = frozenset(),
    decided: npt.NDArray[np.bool_] | None = None,
    dropped: npt.NDArray[np.bool_] | None = None,
    wanted: SplitCodes | None = None,
    times: Int64 | None = None,
) -> AssignmentResult:
    """Place the new rows.

    Args:
        new: New rows [N], in the order that they were read in: of several copies the first is kept.
        before: Rows accepted before.
        graph: Of both, see `build_graph`.
        texts_of: Templates of the graph's nodes.
        config: Threshold and shingle size.
        rule: Decides the split of a new group.
        stay_out: Ids quarantined as contradictory by an earlier ingestion, of which nobody decided yet.
        decided: New rows of which a person said that the label stands [N].
        dropped: New rows that a person said stay out of the data [N].
        wanted: The split that each new row asks for [N], for rules by time or source.
        times: Of each new row [N]; decides which row of a group is its first under a rule by time.
    """
    count = len(new)
    placement = AssignmentResult(np.full(count, PENDING, np.int8), np.arange(count), np.zeros(count, np.int8))
    if dropped is not None:
        placement.outcome[dropped] = QUARANTINED
        why = "a person decided that this text stays out of the data: see `finsent review decisions`"
        placement.rejections.extend(
            GroupRejection(row, "dropped by review", detail=why) for row in np.flatnonzero(dropped).tolist()
        )
    _match_existing_ids(new, before, placement)
    fresh = np.flatnonzero(placement.outcome == PENDING)
    component = graph.components[graph.new_nodes[fresh]]
    fresh = fresh[np.argsort(component, kind="stable")]
    component = np.sort(component, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], component[1:] != component[:-1]])) if len(fresh) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(fresh)))
    scene = AssignmentContext(
        new=new,
        before=before,
        graph=graph,
        old_members=_old_members(graph, component[starts]),
        stay_out=is_in(new.ids, pa.array(sorted(stay_out), pa.string())),
        decided=np.zeros(count, bool) if decided is None else decided,
        wanted=wanted,
        order=_order(count, wanted, times, rule),
        rule=rule,
        config=config,
        texts_of=texts_of,
        into=placement,
    )
    alone = (sizes == 1) & (component[starts] >= graph.first_new) & ~scene.stay_out[fresh[starts]]
    _assign_singletons(scene, fresh[starts[alone]])
    settled = [
        _assign_component(scene, fresh[start : start + size], scene.old_members.get(int(number), ()))
        for start, size, number in zip(starts[~alone].tolist(), sizes[~alone].tolist(), component[starts[~alone]], strict=True)
    ]
    return AssignmentResult(
        placement.outcome,
        placement.groups,
        placement.splits,
        placement.rejections,
        conflicts=settled.count("conflict"),
        split_conflicts=settled.count("bridge"),
    )


def _match_existing_ids(new: RowArrays, before: ExistingRows, into: AssignmentResult) -> None:
    """Rows whose identity was accepted before."""
    there = pc.index_in(new.ids, value_set=before.rows.ids)
    known = np.flatnonzero(pc.is_valid(there).to_numpy(zero_copy_only=False) & (into.outcome == PENDING))
    at = there.take(pa.array(known)).to_numpy().astype(np.int64)
    same = before.rows.labels[at] == new.labels[known]
    into.outcome[known] = np.where(same, DUPLICATE, QUARANTINED)
    into.rejections.extend(
        GroupRejection(row, "contradictory label", ((True, old),))
        for row, old in zip(known[~same].tolist(), at[~same].tolist(), strict=True)
    )


def _old_members(graph: NearDuplicateGraph, touched: Int64) -> dict[int, list[int]]:
    """Rows accepted before by component, of the components that new rows touch."""
    component = graph.components[graph.old_nodes]
    rows = np.flatnonzero(np.isin(component, touched[touched < graph.first_new]))
    members: dict[int, list[int]] = {}
    for row, number in zip(rows.tolist(), component[rows].tolist(), strict=True):
        members.setdefault(number, []).append(row)
    return members


def _order(count: int, wanted: SplitCodes | None, times: Int64 | None, rule: SplitRule) -> Int64:
    rank = np.arange(count)
    if wanted is None:
        return rank
    # by source: what is held out stays held out; by time: the earliest. A row in the embargo decides only among its like
    first = np.array([2, 1, 0])[np.minimum(wanted, TEST)] if times is None or rule.split == "source" else times
    order = np.lexsort((rank, first, wanted == EXCLUDED_CODE))
    ranked = np.empty(count, np.int64)
    ranked[order] = rank
    return ranked


def _assign_singletons(scene: AssignmentContext, rows: Int64) -> None:
    """Accept rows that are near to none: each founds a group, named after itself."""
    into = scene.into
    into.outcome[rows] = ACCEPTED
    if scene.wanted is not None:
        into.splits[rows] = scene.wanted[rows]
        return
    for start in range(0, len(rows), 65_536):
        some = rows[start : start + 65_536]
        names = scene.new.ids.take(pa.array(some)).to_pylist()
        into.splits[some] = np.fromiter((split_of_group(name, scene.rule) for name in names), np.int8, len(some))


def _assign_component(scene: AssignmentContext, rows: Int64, old: Sequence[int]) -> str:
    """Place the new rows of one component; says what it turned out to be."""
    labels = {int(scene.new.labels[row]): (False, int(row)) for row in rows[::-1]}
    labels |= {int(scene.before.rows.labels[row]): (True, row) for row in reversed(old)}
    if len(labels) > 1:
        _quarantine_conflict(scene, rows[~scene.decided[rows]], labels)
        rows = rows[scene.decided[rows]]
        if not len(rows):
            return "conflict"
    homes = existing_assignments(scene, old)
    if len({split for split, _ in homes}) > 1:
        resolve_split_conflict(scene, rows, old)
        return "bridge"
    assign_group(scene, rows.tolist(), preferred_assignment(scene, homes))
    return "conflict" if len(labels) > 1 else "group"


def _quarantine_conflict(scene: AssignmentContext, rows: Int64, labels: Mapping[int, tuple[bool, int]]) -> None:
    scene.into.outcome[rows] = QUARANTINED
    for row, label in zip(rows.tolist(), scene.new.labels[rows].tolist(), strict=True):
        others = tuple(side for other, side in labels.items() if other != label)
        scene.into.rejections.append(GroupRejection(row, "contradictory label", others))
