"""One sitting of a reviewer: what is asked about each doubtful row, and each answer recorded as soon as it is given."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.corrections import ReviewDecision, apply_decisions, record_decisions
from finsent.data.review_file import IdLookup, ReviewEntry
from finsent.workspace import Workspace


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A row that is nearly the same text and has another label."""

    id: str
    text: str
    label: str
    source: str


@dataclass(frozen=True, slots=True)
class Question:
    """A row to decide on."""

    entry: ReviewEntry
    contrary: tuple[NearDuplicate, ...]
    """Near duplicates in the data that disagree with its label."""


def questions(home: Workspace, entries: Sequence[ReviewEntry]) -> list[Question]:
    """The entries, each once, with the near duplicates that have another label."""
    listed = {entry.id: entry for entry in reversed(entries)}
    ids = pa.array(list(listed), pa.string())
    groups = tables.read(home, "tweets", columns=["id", "group"], filters=pc.field("id").isin(ids))
    group_of = dict(zip(groups["id"].to_pylist(), groups["group"].to_pylist(), strict=True))
    columns, same = ["id", "text", "label", "source", "group"], pc.field("group").isin(groups["group"].combine_chunks())
    members = defaultdict(list)
    for row in tables.read(home, "tweets", columns=columns, filters=same).sort_by("id").to_pylist():
        members[row.pop("group")].append(NearDuplicate(**row))
    return [
        Question(entry, tuple(row for row in members[group_of.get(entry.id)] if row.id != entry.id and row.label != entry.label))
        for entry in dict.fromkeys(listed[entry.id] for entry in entries)
    ]


def recorder(home: Workspace, entries: Sequence[ReviewEntry], *, who: str, why: str) -> Callable[[str, ReviewDecision], None]:
    """A function that records one decision durably before it returns; the data changes with `apply_decisions`.

    It raises InputError where a text cannot have this decision, see `IdLookup.check`.
    """
    known = IdLookup.load(home, [entry.id for entry in entries])

    def record(row_id: str, decision: ReviewDecision) -> None:
        known.check(row_id, decision)
        record_decisions(home, {row_id: decision}, who, why, datetime.now(UTC), known.texts)

    return record


def finish(home: Workspace, decided: Mapping[str, ReviewDecision]) -> tuple[int | None, int]:
    """Bring the data in line with all that is recorded, in one version.

    Returns:
        That version, or None where nothing had to change; and how many of these decisions wait for their texts to be ingested.
    """
    version = apply_decisions(home)
    wanted = [row_id for row_id, decision in decided.items() if decision.kind != "drop"]
    there = tables.read(home, "tweets", columns=["id"], filters=pc.field("id").isin(pa.array(wanted, pa.string())))
    return version, len(wanted) - there.num_rows
