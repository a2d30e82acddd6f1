"""Scoring of pending rows: tokenise, compute and commit chunks at the same time, each chunk one commit.

While the device computes a chunk, the next is tokenised (see `finsent.scoring.predictor`), and a thread commits the one
before, one commit at a time and in order. A killed run loses what was not committed: the chunks that were being computed,
and at most one that was already computed.
"""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from finsent.data.predictions import ModelIdentity
from finsent.data.quarantine import append_records
from finsent.data.tables import Position
from finsent.labels import LABELS
from finsent.logging_setup import track
from finsent.scoring import writer
from finsent.scoring.pending_rows import PendingRows, backfill_start, chunk_bounds, find_pending
from finsent.scoring.predictor import ChunkLogits, Predictor
from finsent.scoring.watermark import Watermark
from finsent.scoring.writer import Chunk, PredictionMetadata, build_predictions, make_chunk, without_failed
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class CommittedChunk:
    """A chunk whose predictions are in the table."""

    rows: "pa.Table"
    """Predictions, with the table's columns."""
    texts: int
    """Distinct texts."""
    tokens: int
    """Tokens of the distinct texts."""
    failed: int
    """Other rows of it, which are in quarantine: their logits are not finite."""
    position: Position


@dataclass(frozen=True)
class Totals:
    """Sums over committed chunks."""

    classes: Counter[str] = field(default_factory=Counter)
    """Rows by label."""
    abstained: Counter[str] = field(default_factory=Counter)
    """Those of them without an answer, by the label that they would have had."""
    texts: int = 0
    """Distinct texts of each chunk."""
    tokens: int = 0
    failed: int = 0
    """Rows that went into quarantine, since their logits are not finite."""

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.classes + other.classes,
            self.abstained + other.abstained,
            self.texts + other.texts,
            self.tokens + other.tokens,
            self.failed + other.failed,
        )

    def metrics(self, seconds: float) -> dict[str, float]:
        """As metrics of an MLflow run that took `seconds`; shares only where there are rows."""
        total = self.classes.total()
        shares = {"distinct": self.texts, **{label.lower(): self.classes[label] for label in LABELS}}
        shares["abstained"] = self.abstained.total()
        return {
            "rows_scored": float(total),
            "rows_per_second": total / seconds,
            "tokens_per_second": self.tokens / seconds,
            **{f"share_{name}": count / total for name, count in shares.items() if total},
        }


def look_for_pending(home: Workspace, model: ModelIdentity, max_characters: int, backfill: str) -> tuple[Position, PendingRows]:
    """What is due with the setting `scoring.backfill`, and the position of `predictions` before that was derived.

    What cannot be scored is in quarantine then.
    """
    before = writer.read_position(home)
    due = find_pending(home, model, max_characters=max_characters, backfill=backfill_start(backfill))
    append_records(home, due.bad, datetime.now(UTC))
    return before, due


def commit_chunks(
    home: Workspace,
    predictor: Predictor,
    due: PendingRows,
    chunk_rows: int,
    metadata: PredictionMetadata,
    before: Position,
    *,
    progress: bool,
) -> tuple[Totals, bool]:
    """Score and commit pending rows in chunks of at most `chunk_rows`; False as soon as another run committed in between.

    The other arguments are those of `score_chunks`; `progress` shows a bar on a terminal.
    """
    bounds, done = chunk_bounds(len(due.rows), chunk_rows, len(predictor.engine.devices)), Totals()
    chunks = score_chunks(home, predictor, due.rows, bounds, metadata, before, due.watermark)
    for chunk in track(chunks, description="scoring", total=len(bounds), unit="chunk") if progress else chunks:
        if chunk is None:
            return done, False
        abstained = chunk.rows["label"].filter(chunk.rows["abstained"])
        done += Totals(_count(chunk.rows["label"]), _count(abstained), chunk.texts, chunk.tokens, chunk.failed)
    return done, True


def _count(labels: "pa.ChunkedArray") -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in labels.value_counts().to_pylist()})


def score_chunks(
    home: Workspace,
    predictor: Predictor,
    rows: "pa.Table",
    bounds: Sequence[tuple[int, int]],
    metadata: PredictionMetadata,
    before: Position,
    through: Watermark | None = None,
) -> Iterator[CommittedChunk | None]:
    """Score and commit pending rows; yields each chunk once it is committed.

    Args:
        home: Where the tables are.
        predictor: The model.
        rows: See `PendingRows`.
        bounds: First row and end of each chunk, see `chunk_bounds`.
        metadata: Of the run.
        before: The table's position before `rows` were derived.
        through: Recorded with the last chunk: how far the inbox was looked through for `rows`.

    Yields:
        Chunks in order; None as the last if another run committed in between: pending rows must then be derived again.
    """
    in_flight: deque[Chunk] = deque()
    start = before.version

    def texts() -> Iterator[list[str]]:
        for start, stop in bounds:
            in_flight.append(make_chunk(rows, start, stop))
            yield in_flight[-1].texts

    committer = ThreadPoolExecutor(1, thread_name_prefix="finsent-commit")
    commit: Future[CommittedChunk | None] | None = None
    try:
        with closing(predictor.predict(texts())) as results:
            for number in range(1, len(bounds) + 2):
                predicted = _next_result(results, number, len(bounds))
                if commit is not None:
                    committed = commit.result()
                    yield committed
                    if committed is None:
                        return
                    before = committed.position
                if predicted is not None:
                    chunk = in_flight.popleft()
                    mark = None
                    if through is not None and number == len(bounds):
                        # who else committed in between may have predicted rows that came after those that were looked through
                        alone = before.version == start + number - 1
                        mark = replace(through, since=before.version if alone else start)
                    commit = committer.submit(
                        _commit, home, predictor, chunk, predicted, metadata, before, mark, f"{number} of {len(bounds)}"
                    )
    except BaseException as error:
        committer.shutdown()  # waits for a commit in progress
        if commit is not None and (other := commit.exception()) is not None and other is not error:
            error.add_note(f"The commit of the chunk before failed too: {type(other).__name__}: {other}")
        raise
    finally:
        committer.shutdown()


def _next_result(results: Iterator[ChunkLogits], number: int, total: int) -> ChunkLogits | None:
    try:
        return next(results, None)
    except Exception as error:
        error.add_note(f"This was while the model was at chunk {number} of {total}.")
        raise


def _commit(
    home: Workspace,
    predictor: Predictor,
    chunk: Chunk,
    predicted: ChunkLogits,
    metadata: PredictionMetadata,
    before: Position,
    mark: Watermark | None,
    which: str,
) -> CommittedChunk | None:
    try:
        chunk, logits, failed = without_failed(chunk, predicted.logits, metadata.model)
        append_records(home, failed, datetime.now(UTC))  # before the commit, which may say that all rows were looked at
        rows = build_predictions(chunk, logits, predictor.manifest, metadata)
        position = writer.commit_chunk(home, rows, before, mark)
    except Exception as error:
        error.add_note(f"This was while chunk {which} was committed.")
        raise
    return None if position is None else CommittedChunk(rows, len(chunk.texts), predicted.tokens, len(failed), position)
