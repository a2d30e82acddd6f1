"""Review decisions on single texts (accept, fix, drop): their record in the table `reviews`, and applying them to `tweets`.

Decisions are appended and never changed; the latest on a text holds. They are stored by the text's identity, so that one on a
text that is not in the data takes effect when an ingestion brings it. Applying replaces labels and removes rows in one commit:
a row keeps its group and its split, and the version before keeps the old label.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal, get_args

import pyarrow as pa

from finsent.data import tables
from finsent.data.dataset import (
    FINGERPRINTED,
    add_fingerprints,
    fingerprint_rows,
    fingerprint_table,
    read_audit,
    subtract_fingerprint,
)
from finsent.data.table_access import changed_rows
from finsent.data.table_schemas import SCHEMAS, CommitKey
from finsent.errors import InputError
from finsent.files import locked
from finsent.labels import LABELS
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

DecisionKind = Literal["accept", "fix", "drop"]
DECISION_KINDS: Final[tuple[DecisionKind, ...]] = get_args(DecisionKind)
TWEETS_APPLICATION: Final = "finsent-ingest"
"""Delta application of every commit that changes what `tweets` holds, so that ingestions and reviews follow one another."""
INGEST_WAIT: Final = 3600.0
"""Seconds for another ingestion."""
INGEST_BUSY: Final = "another ingestion has been at work in this home for an hour. Nothing was written."
_REVIEWS_APPLICATION: Final = "finsent-review"


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """A reviewer's decision on a text."""

    kind: DecisionKind
    """`accept`: its label stands, whatever contradicts it; `fix`: its label is `label`; `drop`: it stays out of the data."""
    label: str | None = None
    """The right class name; with `fix` only."""

    def __post_init__(self) -> None:
        if self.kind not in DECISION_KINDS:
            raise InputError(f"there is no decision {self.kind!r}. Decisions: {', '.join(DECISION_KINDS)}.")
        if self.kind == "fix" and self.label not in LABELS:
            raise InputError(f"a fix needs the right label, one of {', '.join(LABELS)}, and {self.label!r} is none.")
        if self.kind != "fix" and self.label is not None:
            raise InputError(f"a label belongs to the decision fix, and {self.label!r} was given with {self.kind}.")


@dataclass(frozen=True, slots=True)
class Review:
    """A recorded decision."""

    id: str
    """`finsent.text.text_id` of the text."""
    text: str | None
    """The text as it was shown; None where no text of this id was known."""
    decision: ReviewDecision
    why: str
    who: str
    decided_at: datetime
    """UTC; rises strictly from commit to commit, whatever the clocks of the machines say."""


def parse_class_name(given: str) -> str:
    """The class name that a reviewer typed, in any case.

    Raises:
        InputError: there is no such class.
    """
    found = next((label for label in LABELS if label.casefold() == given.strip().casefold()), None)
    if found is None:
        raise InputError(f"there is no label {given!r}. Labels: {', '.join(LABELS)}.")
    return found


def load_decisions(home: Workspace) -> dict[str, ReviewDecision]:
    """The decision that holds for each text that has one, by id."""
    rows = tables.read(home, "reviews", columns=["id", "decision", "label", "decided_at"]).sort_by("decided_at")
    columns = (rows[name].to_pylist() for name in ("id", "decision", "label"))
    return {row_id: ReviewDecision(kind, label) for row_id, kind, label in zip(*columns, strict=True)}


def read_reviews(home: Workspace) -> list[Review]:
    """Every decision ever recorded, in the order they were made."""
    rows = tables.read(home, "reviews").sort_by([("decided_at", "ascending"), ("id", "ascending")]).to_pylist()
    return [
        Review(row["id"], row["text"], ReviewDecision(row["decision"], row["label"]), row["why"], row["who"], row["decided_at"])
        for row in rows
    ]


def record_decisions(
    home: Workspace,
    decisions: Mapping[str, ReviewDecision],
    who: str,
    why: str | Mapping[str, str],
    now: datetime,
    texts: Mapping[str, str] | None = None,
) -> int:
    """Append decisions in one commit; returns how many of them were new.

    Idempotent: a decision that already holds, for the same reason by the same person, is not recorded again.

    Args:
        home: Where the tables are.
        decisions: By the text's id (`finsent.text.text_id`).
        who: Who decided.
        why: Why, for all of them or by id.
        now: Time of the decision, with a time zone.
        texts: The texts by id, as far as they are known.

    Raises:
        InputError: no name or no reason.
    """
    reasons = {row_id: (why if isinstance(why, str) else why[row_id]).strip() for row_id in decisions}
    if not who.strip():
        raise InputError("a decision needs the name of who made it, and it is empty.")
    if silent := [row_id for row_id, reason in reasons.items() if not reason]:
        raise InputError(f"a decision needs a reason, and the one on {silent[0]!r} has none.")
    if not decisions:
        return 0
    asked = [
        Review(row_id, (texts or {}).get(row_id), decision, reasons[row_id], who.strip(), now)
        for row_id, decision in decisions.items()
    ]

    def attempt(position: tables.Position) -> int | None:
        earlier = read_reviews(home)
        valid = {review.id: (review.decision, review.why, review.who) for review in earlier}
        new = [review for review in asked if valid.get(review.id) != (review.decision, review.why, review.who)]
        if not new:
            return 0
        # the order of the commits decides which one holds, and the clock of another machine may run ahead of ours
        moment = max(now, earlier[-1].decided_at + timedelta(microseconds=1)) if earlier else now
        rows = [
            {name: getattr(review, name) for name in ("id", "text", "why", "who")}
            | {"decision": review.decision.kind, "label": review.decision.label, "decided_at": moment}
            for review in new
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMAS["reviews"])
        written = tables.append_if_unchanged(home, "reviews", table, _REVIEWS_APPLICATION, position)
        return None if written is None else len(new)

    return tables.retry_on_conflict(home, "reviews", _REVIEWS_APPLICATION, attempt)


@dataclass(frozen=True)
class _Applied:
    version: int | None
    """The version that the commit made; None when there was nothing to change."""


def apply_decisions(home: Workspace) -> int | None:
    """Apply every decision on a row of `tweets`, in one commit; returns the new version, or None when nothing changed.

    Idempotent. Takes the home's lock `ingest`: do not call it while holding that.

    Raises:
        CheckFailed: other runs kept committing first.
    """
    if tables.version(home, "tweets") is None:
        return None
    with locked(home.lock("ingest"), INGEST_WAIT, INGEST_BUSY):
        return tables.retry_on_conflict(home, "tweets", TWEETS_APPLICATION, lambda position: _apply(home, position)).version


def _apply(home: Workspace, position: tables.Position) -> _Applied | None:
    import pyarrow.compute as pc

    decisions = load_decisions(home)
    decided = pc.field("id").isin(pa.array(list(decisions), pa.string()))
    rows = tables.read(home, "tweets", columns=FINGERPRINTED, filters=decided)
    changes = _changes(rows, decisions)
    if not changes.num_rows:
        return _Applied(None)
    before = fingerprint_table(home)
    untouched = subtract_fingerprint(before, fingerprint_rows(rows))
    after = add_fingerprints(untouched, fingerprint_rows(changed_rows(rows, changes)))
    # a new label or a removal adds no pair of texts across splits: the audit on record still holds
    metadata: dict[CommitKey, str] = {"fingerprint": after, **read_audit(home, position.version, before).metadata()}
    if (rule := tables.last_metadata(home, "tweets", "split_rule")) is not None:
        metadata["split_rule"] = rule
    written = tables.update_rows(home, "tweets", changes, TWEETS_APPLICATION, position, metadata)
    if written is None:
        return None
    removed = sum(changes["removed"].to_pylist())
    fixed = changes.num_rows - removed
    _log.info("version %d of the data: %d labels fixed, %d rows dropped by review", written.version, fixed, removed)
    return _Applied(written.version)


def _changes(rows: pa.Table, decisions: Mapping[str, ReviewDecision]) -> pa.Table:
    """What the decisions change in these rows: id, label, removed."""
    schema = pa.schema([("id", pa.string()), ("label", pa.string()), ("removed", pa.bool_())])
    found = [
        {"id": row["id"], "label": decision.label or row["label"], "removed": decision.kind == "drop"}
        for row in rows.select(["id", "label"]).to_pylist()
        if (decision := decisions.get(row["id"])) is not None
        and (decision.kind == "drop" or (decision.kind == "fix" and decision.label != row["label"]))
    ]
    return pa.Table.from_pylist(found, schema=schema)
