"""What people decided about single texts: that a label stands, what it should be, or that the text goes.

Decisions are appended and never changed; of several on one text the latest holds. They are kept by the text's identity, so one
on a text that is not in the data waits until an ingestion brings it.
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
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import InputError
from finsent.home import Home
from finsent.labels import LABELS

DecisionKind = Literal["accept", "fix", "drop"]
DECISION_KINDS: Final[tuple[DecisionKind, ...]] = get_args(DecisionKind)
_APPLICATION: Final = "finsent-review"


@dataclass(frozen=True, slots=True)
class ReviewDecision:
    """What is to become of a text."""

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
    """A decision as it is on record."""

    id: str
    """`finsent.text.text_id` of the text."""
    text: str | None
    """The text as it was shown; None where no text of this id was known."""
    decision: ReviewDecision
    why: str
    who: str
    decided_at: datetime
    """UTC; rises strictly from commit to commit, whatever the clocks of the machines say."""


def load_decisions(home: Home) -> dict[str, ReviewDecision]:
    """The decision that holds for each text that has one, by id."""
    rows = tables.read(home, "reviews", columns=["id", "decision", "label", "decided_at"]).sort_by("decided_at")
    columns = (rows[name].to_pylist() for name in ("id", "decision", "label"))
    return {row_id: ReviewDecision(kind, label) for row_id, kind, label in zip(*columns, strict=True)}


def read_reviews(home: Home) -> list[Review]:
    """Every decision ever recorded, those that later ones replaced too, in the order they were made."""
    rows = tables.read(home, "reviews").sort_by([("decided_at", "ascending"), ("id", "ascending")]).to_pylist()
    return [
        Review(row["id"], row["text"], ReviewDecision(row["decision"], row["label"]), row["why"], row["who"], row["decided_at"])
        for row in rows
    ]


def record_decisions(
    home: Home,
    decisions: Mapping[str, ReviewDecision],
    who: str,
    why: str | Mapping[str, str],
    now: datetime,
    texts: Mapping[str, str] | None = None,
) -> int:
    """Append decisions in one commit; how many of them were new.

    What already holds in the same words of the same person is not recorded again, so that a rerun after a crash adds nothing.

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
    return tables.retry_on_conflict(home, "reviews", _APPLICATION, lambda before: _record(home, asked, now, before))


def _record(home: Home, asked: list[Review], now: datetime, before: tables.Position) -> int | None:
    earlier = read_reviews(home)
    hold = {review.id: (review.decision, review.why, review.who) for review in earlier}
    new = [review for review in asked if hold.get(review.id) != (review.decision, review.why, review.who)]
    if not new:
        return 0
    # the order of the commits decides which holds, and the clock of another machine may run ahead of ours
    moment = max(now, earlier[-1].decided_at + timedelta(microseconds=1)) if earlier else now
    columns = {
        "id": [review.id for review in new],
        "text": [review.text for review in new],
        "decision": [review.decision.kind for review in new],
        "label": [review.decision.label for review in new],
        "why": [review.why for review in new],
        "who": [review.who for review in new],
        "decided_at": [moment] * len(new),
    }
    table = pa.table(columns, schema=SCHEMAS["reviews"])
    return None if tables.append_if_unchanged(home, "reviews", table, _APPLICATION, before) is None else len(new)


# merged from finsent.data.corrections: People's decisions brought into the table `tweets`: labels replaced and rows removed in one commit, a new version of the data.

_log = logging.getLogger(__name__)

APPLICATION: Final = "finsent-ingest"
"""The same as ingestion's: commits that change what the data says follow one another, whichever of the two makes them."""


@dataclass(frozen=True)
class _Applied:
    version: int | None
    """The version that the commit made; None when there was nothing to change."""


def apply_decisions(home: Home) -> int | None:
    """Bring every decision on a row of `tweets` into it, in one commit; the new version, or None when nothing changed.

    Takes the home's lock `ingest`, so call it outside of that. Doing it again changes nothing.

    Raises:
        Refused: other runs kept getting ahead.
    """
    from filelock import FileLock

    if tables.version(home, "tweets") is None:
        return None
    home.lock("ingest").parent.mkdir(parents=True, exist_ok=True)
    with FileLock(home.lock("ingest")):
        return tables.retry_on_conflict(home, "tweets", APPLICATION, lambda position: _apply(home, position)).version


def _apply(home: Home, position: tables.Position) -> _Applied | None:
    import pyarrow.compute as pc

    decisions = load_decisions(home)
    decided = pc.field("id").isin(pa.array(list(decisions), pa.string()))
    rows = tables.read(home, "tweets", columns=FINGERPRINTED, filters=decided)
    changes = _changes(rows, decisions)
    if not changes.num_rows:
        return _Applied(None)
    before = fingerprint_table(home)
    # a label or a removal adds no pair of texts across splits: what was audited before still holds
    audit = read_audit(home, position.version, before)
    untouched = subtract_fingerprint(before, fingerprint_rows(rows))
    after = add_fingerprints(untouched, fingerprint_rows(_changed(rows, changes)))
    metadata = {"fingerprint": after, **audit.metadata()}
    rule = tables.last_metadata(home, "tweets", "split_rule")
    if rule is not None:
        metadata["split_rule"] = rule
    written = tables.update_rows(home, "tweets", changes, APPLICATION, position, metadata)
    if written is None:
        return None
    removed = sum(changes["removed"].to_pylist())
    _log.info(
        "version %d of the data: %d labels fixed, %d rows dropped by review",
        written.version,
        changes.num_rows - removed,
        removed,
    )
    return _Applied(written.version)


def _changes(rows: pa.Table, decisions: Mapping[str, ReviewDecision]) -> pa.Table:
    """What the decisions change in these rows: id, label, removed."""
    found = [
        (row_id, decision.label or label, decision.kind == "drop")
        for row_id, label in zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True)
        if (decision := decisions.get(row_id)) is not None
        and (decision.kind == "drop" or (decision.kind == "fix" and decision.label != label))
    ]
    columns = [[row[index] for row in found] for index in range(3)]
    schema = pa.schema([("id", pa.string()), ("label", pa.string()), ("removed", pa.bool_())])
    return pa.table(columns, schema=schema)


def _changed(rows: pa.Table, changes: pa.Table) -> pa.Table:
    """The rows as they will be."""
    new = {change["id"]: change for change in changes.to_pylist()}
    ids = rows["id"].to_pylist()
    labels = [
        new[row_id]["label"] if row_id in new else label for row_id, label in zip(ids, rows["label"].to_pylist(), strict=True)
    ]
    kept = pa.array([not (row_id in new and new[row_id]["removed"]) for row_id in ids])
    return rows.set_column(rows.schema.get_field_index("label"), "label", pa.array(labels, pa.string())).filter(kept)
