"""Review of labels: records reviewers' decisions and applies them to the data.

Decisions are recorded first and applied after. A crash in between loses nothing: the next decision, or the same one again,
applies all that is on record.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from finsent.data.corrections import (
    DECISION_KINDS,
    DecisionKind,
    ReviewDecision,
    apply_decisions,
    parse_class_name,
    record_decisions,
)
from finsent.data.review_file import FilledEntry, IdLookup, read_entries
from finsent.errors import InputError
from finsent.workspace import Workspace

_SHOWN: Final = 20


@dataclass(frozen=True)
class ReviewResult:
    """The outcome of recording and applying some decisions."""

    recorded: int
    """Decisions that were new."""
    decisions: dict[str, int]
    """How many of each kind were given."""
    waiting: int
    """How many are on texts that are not in the data: they take effect when an ingestion brings those."""
    version: int | None
    """Version of the data that applying made; None when nothing changed."""


def decide(
    home: Workspace, ids: Sequence[str], kind: DecisionKind, *, who: str, why: str, label: str | None = None
) -> ReviewResult:
    """Record one decision on some texts and apply it to the data.

    Args:
        home: Where the tables are.
        ids: Ids, or prefixes of ids that match one known text each.
        kind: The decision.
        who: Who decides.
        why: The reason.
        label: The right class name, in any case; with `fix` only.

    Raises:
        InputError: an id that is malformed or ambiguous, a class that does not exist, an empty `who` or `why`.
    """
    decision = ReviewDecision(kind, parse_class_name(label) if label is not None else None)
    known = IdLookup.load(home, ids)
    full = dict.fromkeys(known.resolve(given) for given in ids)
    for row_id in full:
        known.check(row_id, decision)
    return _record(home, dict.fromkeys(full, decision), known, who, why)


def apply_file(home: Workspace, path: Path, *, who: str, why: str | None = None) -> ReviewResult:
    """Record the decisions filled into a listing and apply them to the data: all of them, or none.

    Args:
        home: Where the tables are.
        path: The listing as CSV; rows without a decision are skipped.
        who: Who decided.
        why: The reason for rows that give none of their own.

    Raises:
        InputError: the file is not such a listing, or rows are wrong: each is named with its fault.
    """
    filled = read_entries(path)
    if not filled:
        raise InputError(f"{str(path)!r} has no decision: fill the column 'decision' with {', '.join(DECISION_KINDS)}.")
    known = IdLookup.load(home, [item.id for item in filled])
    decisions: dict[str, ReviewDecision] = {}
    reasons: dict[str, str] = {}
    wrong = []
    for item in filled:
        try:
            row_id, decision, reason = _parse(item, known, why)
        except InputError as error:
            wrong.append(f"line {item.line}: {error}")
            continue
        if decisions.setdefault(row_id, decision) != decision:
            wrong.append(f"line {item.line}: {row_id!r} is decided twice in this file, and differently.")
        reasons.setdefault(row_id, reason)
    if wrong:
        more = [f"and {len(wrong) - _SHOWN} more"] if len(wrong) > _SHOWN else []
        shown = "\n  ".join([*wrong[:_SHOWN], *more])
        raise InputError(f"{len(wrong)} of {len(filled)} decisions in {str(path)!r} are wrong; none was recorded:\n  {shown}")
    return _record(home, decisions, known, who, reasons)


def _parse(item: FilledEntry, known: IdLookup, why: str | None) -> tuple[str, ReviewDecision, str]:
    """Id, decision and reason of a row.

    Raises:
        InputError: any of them is wrong.
    """
    kind = next((kind for kind in DECISION_KINDS if kind == item.decision), None)
    if kind is None:
        raise InputError(f"decision {item.decision!r} is none of {', '.join(DECISION_KINDS)}.")
    decision = ReviewDecision(kind, parse_class_name(item.new_label) if item.new_label else None)
    row_id = known.resolve(item.id)
    known.check(row_id, decision)
    reason = item.why or (why or "").strip()
    if not reason:
        raise InputError("column 'why' is empty, and no --why was given.")
    return row_id, decision, reason


def _record(
    home: Workspace, decisions: Mapping[str, ReviewDecision], known: IdLookup, who: str, why: str | Mapping[str, str]
) -> ReviewResult:
    recorded = record_decisions(home, decisions, who, why, datetime.now(UTC), known.texts)
    version = apply_decisions(home)
    waiting = sum(decision.kind != "drop" and row_id not in known.stored for row_id, decision in decisions.items())
    return ReviewResult(recorded, dict(Counter(decision.kind for decision in decisions.values())), waiting, version)
