"""The scoring pipeline: tokenise, compute and commit chunks at the same time, each chunk one commit.

While the device computes a chunk, the next is tokenised (see `finsent.scoring.predictor`), and a thread commits the one
before, one commit at a time and in order. A killed run loses what was not committed: the chunks that were being computed,
and at most one that was already computed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finsent.data.tables import Position
from finsent.scoring import writer
from finsent.scoring.predictor import ChunkLogits, Predictor
from finsent.scoring.writer import Chunk, PredictionMetadata, build_predictions, make_chunk
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
    position: Position


def score_chunks(
    home: Workspace,
    predictor: Predictor,
    rows: "pa.Table",
    bounds: Sequence[tuple[int, int]],
    metadata: PredictionMetadata,
    before: Position,
) -> Iterator[CommittedChunk | None]:
    """Score and commit pending rows; yields each chunk once it is committed.

    Args:
        home: Where the tables are.
        predictor: The model.
        rows: See `PendingRows`.
        bounds: First row and end of each chunk, see `chunk_bounds`.
        metadata: Of the run.
        before: The table's position before `rows` were derived.

    Yields:
        Chunks in order; None as the last if another run committed in between: pending rows must then be derived again.
    """
    in_flight: deque[Chunk] = deque()

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
                    commit = committer.submit(
                        _commit, home, predictor, chunk, predicted, metadata, before, f"{number} of {len(bounds)}"
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
    which: str,
) -> CommittedChunk | None:
    try:
        rows = build_predictions(chunk, predicted.logits, predictor.manifest, metadata)
        position = writer.commit_chunk(home, rows, writer.transaction_app(metadata.model_name, metadata.model_version), before)
    except Exception as error:
        error.add_note(f"This was while chunk {which} was committed.")
        raise
    return None if position is None else CommittedChunk(rows, len(chunk.texts), predicted.tokens, position)
