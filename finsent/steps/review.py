"""Review of labels: lists doubtful and contradictory rows, records reviewers' decisions and applies them to the data.

Decisions are recorded first and applied after. A crash in between loses nothing: the next decision, or the same one again,
applies all that is on record.
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from finsent.data import tables
from finsent.data.corrections import (
    DECISION_KINDS,
    DecisionKind,
    ReviewDecision,
    apply_decisions,
    load_decisions,
    parse_class_name,
    record_decisions,
)
from finsent.data.quarantine import ids_of, labels_of, rows_at
from finsent.data.review_file import FilledEntry, IdLookup, ReviewEntry, read_entries, write_entries
from finsent.data.splits import SPLITS
from finsent.data.validation.row_validation import CONFLICT
from finsent.errors import InputError
from finsent.evaluation.label_issues import suspect_labels
from finsent.labels import LABEL2ID, LABELS
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

_SHOWN: Final = 20


@dataclass(frozen=True)
class ReviewListing:
    """Rows to review, the most doubtful first."""

    entries: list[ReviewEntry]
    found: int
    """Rows found; `entries` may be only the first of them."""
    looked_at: int
    """Rows examined; fewer than `of` where they were sampled."""
    of: int


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


def list_suspects(home: Workspace, *, limit: int | None = None, with_test: bool = False) -> ReviewListing:
    """Rows whose label is likely wrong and without a decision, the least probable label first.

    The test split is left out unless asked for: correcting test labels where a model doubts them makes the test easier for
    models of that kind.

    Raises:
        InputError: no data yet, or too little for an estimate.
    """
    import numpy as np

    splits = SPLITS if with_test else ("train", "validation")
    columns = ["id", "text", "label", "source", "group", "split", "source_id"]
    rows = tables.read(home, "tweets", columns=columns, filters=[("split", "in", splits)]).sort_by("id")
    if not rows.num_rows:
        raise InputError(
            "there is no data to review yet. Run `finsent ingest FILE...`, or `finsent demo` for the bundled sample."
        )
    labels = np.array([LABEL2ID[label] for label in rows["label"].to_pylist()], np.int64)
    suspects = suspect_labels(rows["text"].to_pylist(), labels, rows["group"].to_pylist())
    if suspects.looked_at < rows.num_rows:
        _log.warning("looked at a random sample of %d of %d rows", suspects.looked_at, rows.num_rows)
    decided = load_decisions(home)
    entries = [
        ReviewEntry(
            id=row["id"],
            text=row["text"],
            label=row["label"],
            suggested=LABELS[suggested],
            confidence=float(confidence),
            source=row["source"],
            kind="suspect",
            detail=f"in the {row['split']} split",
            source_id=row["source_id"],
        )
        for row, suggested, confidence in zip(
            rows.take(suspects.rows).to_pylist(), suspects.suggested.tolist(), suspects.confidence.tolist(), strict=True
        )
        if row["id"] not in decided
    ]
    return ReviewListing(entries[:limit], len(entries), suspects.looked_at, rows.num_rows)


def list_conflicts(home: Workspace, *, limit: int | None = None) -> ReviewListing:
    """Texts quarantined as contradictory and without a decision, each side once, the sides of one conflict together."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    version, decided, start = tables.version(home, "quarantine"), load_decisions(home), 0
    sides: dict[tuple[str, str], tuple[datetime, int]] = {}
    looked_at = 0
    columns = ["id", "text", "reason", "detail", "label", "ingested_at"]
    for batch in tables.batches(home, "quarantine", columns, version=version):
        positions = np.flatnonzero(pc.equal(batch["reason"], CONFLICT).to_numpy(zero_copy_only=False))
        some = batch.take(pa.array(positions))
        times = some["ingested_at"].to_pylist()
        for row_id, label, time, position in zip(ids_of(some), labels_of(some), times, (positions + start).tolist(), strict=True):
            if row_id not in decided:
                sides[row_id, label] = min((time, position), sides.get((row_id, label), (time, position)))
        start, looked_at = start + batch.num_rows, looked_at + len(positions)
    # the rows of one conflict were appended together: sorting by time and place keeps them so
    shown = sorted(sides.items(), key=lambda item: item[1])[:limit]
    rows = rows_at(home, version, [position for _, (_, position) in shown])
    entries = [
        ReviewEntry(row_id, row["text"], label, "", None, row["source"], "conflict", row["detail"], row["source_id"])
        for ((row_id, label), _), row in zip(shown, rows, strict=True)
    ]
    return ReviewListing(entries, len(sides), looked_at, looked_at)


def write_listing(listing: ReviewListing, path: Path) -> None:
    """Write the rows to a CSV for a reviewer to fill in.

    Raises:
        InputError: the file exists already or cannot be written.
    """
    write_entries(listing.entries, path)


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
