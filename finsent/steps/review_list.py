"""Listings for reviewers: rows whose label is likely wrong, ranked and kept, and contradictions in the quarantine."""

import hashlib
import inspect
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import suspect_cache, tables
from finsent.data.corrections import ReviewDecision, load_decisions
from finsent.data.dataset import fingerprint_rows
from finsent.data.quarantine import ids_of, labels_of, rows_at
from finsent.data.review_file import ReviewEntry, write_entries
from finsent.data.splits import SPLITS
from finsent.data.suspect_cache import RankedSuspect, RankedSuspects
from finsent.data.validation.row_validation import CONFLICT
from finsent.errors import InputError
from finsent.evaluation import label_issues, label_noise
from finsent.evaluation.label_issues import suspect_labels
from finsent.evaluation.label_noise import WORTH_READING, ExpectedErrors, expected_errors, worth_reading
from finsent.labels import LABEL2ID, LABELS
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reviewed:
    """Rows of a list that somebody decided on, against what was expected of them."""

    rows: int
    changed: int
    """Fixed or dropped."""
    expected: float
    """Label errors that were expected among them."""


@dataclass(frozen=True)
class ReviewListing:
    """Rows to review, the most doubtful first."""

    entries: list[ReviewEntry]
    found: int
    """Rows found; `entries` may be only the first of them."""
    looked_at: int
    """Rows examined; fewer than `of` where they were sampled."""
    of: int
    expected: tuple[ExpectedErrors, ...] = ()
    """Label errors expected among the first rows; empty for conflicts."""
    worth_reading: int | None = None
    """How many of the first rows are worth reading; None for conflicts."""
    worth_errors: float | None = None
    """Label errors expected among those."""
    reviewed: Reviewed | None = None
    """What came of the rows of this list that were decided on; None for conflicts."""
    from_cache: bool = False
    """Whether the list was there already."""


def list_suspects(
    home: Workspace, *, limit: int | None = None, with_test: bool = False, least_share: float | None = None, anew: bool = False
) -> ReviewListing:
    """Rows whose label is likely wrong and without a decision, the likeliest error first.

    The test split is left out unless asked for: correcting test labels where a model doubts them makes the test easier for
    models of that kind.

    Args:
        home: Where the tables are, and the list where it was computed before.
        limit: The first so many.
        with_test: Look at test rows as well.
        least_share: Rows are worth reading while each is wrong with at least this probability; by default `WORTH_READING`.
        anew: Compute the list even where the one that is kept fits the data.

    Raises:
        InputError: no data yet, or too little for an estimate.
    """
    import numpy as np

    splits = SPLITS if with_test else ("train", "validation")
    decided, method = load_decisions(home), _method()
    kept = None if anew else suspect_cache.load(home, splits, method, decided)
    ranked = kept or _rank_suspects(home, splits, method)
    if ranked.looked_at < ranked.of:
        _log.warning("looked at a random sample of %d of %d rows", ranked.looked_at, ranked.of)
    left = [suspect for suspect in ranked.suspects if suspect.id not in decided]
    errors = np.array([suspect.error_probability for suspect in left])
    worth = worth_reading(errors, WORTH_READING if least_share is None else least_share)
    return ReviewListing(
        entries=_suspect_entries(home, left[:limit]),
        found=len(left),
        looked_at=ranked.looked_at,
        of=ranked.of,
        expected=expected_errors(errors),
        worth_reading=worth,
        worth_errors=float(errors[:worth].sum()),
        reviewed=_reviewed(ranked, decided),
        from_cache=kept is not None,
    )


def _rank_suspects(home: Workspace, splits: Sequence[str], method: str) -> RankedSuspects:
    import numpy as np

    version = tables.version(home, "tweets")
    columns = suspect_cache.COLUMNS
    rows = tables.read(home, "tweets", version=version, columns=columns, filters=[("split", "in", splits)]).sort_by("id")
    if not rows.num_rows:
        raise InputError(
            "there is no data to review yet. Run `finsent ingest FILE...`, or `finsent demo` for the bundled sample."
        )
    labels = np.array([LABEL2ID[label] for label in rows["label"].to_pylist()], np.int64)
    texts, groups, sources = (rows[name].to_pylist() for name in ("text", "group", "source"))
    found = suspect_labels(texts, labels, groups, sources)
    listed = rows.take(found.rows)
    ranked = RankedSuspects(
        tuple(
            RankedSuspect(row_id, LABELS[suggested], confidence, error, fingerprint_rows(listed.slice(place, 1), columns))
            for place, (row_id, suggested, confidence, error) in enumerate(
                zip(
                    listed["id"].to_pylist(),
                    found.suggested.tolist(),
                    found.confidence.tolist(),
                    found.error_probability.tolist(),
                    strict=True,
                )
            )
        ),
        found.looked_at,
        rows.num_rows,
    )
    suspect_cache.store(home, suspect_cache.cache_key(home, version, splits, method), ranked)
    return ranked


def _suspect_entries(home: Workspace, suspects: Sequence[RankedSuspect]) -> list[ReviewEntry]:
    ids = pa.array([suspect.id for suspect in suspects], pa.string())
    columns = ["id", "text", "label", "source", "split", "source_id"]
    found = tables.read(home, "tweets", columns=columns, filters=pc.field("id").isin(ids)).to_pylist()
    rows = {row["id"]: row for row in found}
    return [
        ReviewEntry(
            id=suspect.id,
            text=row["text"],
            label=row["label"],
            suggested=suspect.suggested,
            confidence=suspect.confidence,
            source=row["source"],
            kind="suspect",
            detail=f"in the {row['split']} split",
            source_id=row["source_id"],
            error_probability=suspect.error_probability,
        )
        for suspect in suspects
        if (row := rows.get(suspect.id)) is not None
    ]


def _reviewed(ranked: RankedSuspects, decided: Mapping[str, ReviewDecision]) -> Reviewed:
    there = [suspect for suspect in ranked.suspects if suspect.id in decided]
    changed = sum(decided[suspect.id].kind != "accept" for suspect in there)
    return Reviewed(len(there), changed, sum(suspect.error_probability for suspect in there))


def _method() -> str:
    """Identity of the code and the libraries that rank suspects: with another one a list is computed anew."""
    code = "".join(inspect.getsource(module) for module in (label_issues, label_noise))
    libraries = [f"{name} {metadata.version(name)}" for name in ("cleanlab", "numpy", "scikit-learn", "scipy")]
    return hashlib.sha256("\n".join([code, *libraries]).encode()).hexdigest()


def list_conflicts(home: Workspace, *, limit: int | None = None) -> ReviewListing:
    """Texts quarantined as contradictory and without a decision, each side once, the sides of one conflict together."""
    import numpy as np

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
