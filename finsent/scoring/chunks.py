"""Chunk after chunk of due rows through the model and into the table, the stages of neighbouring chunks at the same time.

While the device computes a chunk, the next is tokenised (see `finsent.scoring.predictor`) and the one before is committed by a
thread, one commit at a time and in order. A run that dies loses what it had not committed: at most a chunk that was computed and
those that were being computed.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finsent.data.tables import Position
from finsent.home import Home
from finsent.scoring import writer
from finsent.scoring.predictor import ChunkLogits, Predictor
from finsent.scoring.writer import Chunk, PredictionMetadata, build_predictions, make_chunk

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class CommittedChunk:
    """A chunk that is in the table."""

    rows: "pa.Table"
    """As in the table of predictions."""
    texts: int
    """Distinct ones: what the model looked at."""
    tokens: int
    """Theirs."""
    position: Position


def score_chunks(
    home: Home, opened: Predictor, rows: "pa.Table", cuts: Sequence[tuple[int, int]], stamp: PredictionMetadata, before: Position
) -> Iterator[CommittedChunk | None]:
    """Score and commit due rows; yields each chunk once it is committed.

    Args:
        home: Where the tables are.
        opened: The model.
        rows: What is due, see `Due`.
        cuts: First row and end of each chunk.
        stamp: What every prediction carries.
        before: Where the table stood before `rows` were derived.

    Yields:
        Chunks in order; None as the last if another run got ahead: then what is due has to be derived anew.
    """
    under_way: deque[Chunk] = deque()

    def texts() -> Iterator[list[str]]:
        for start, stop in cuts:
            under_way.append(make_chunk(rows, start, stop))
            yield under_way[-1].texts

    behind = ThreadPoolExecutor(1, thread_name_prefix="finsent-commit")
    pending: Future[CommittedChunk | None] | None = None
    try:
        with closing(opened.predict(texts())) as results:
            for number in range(1, len(cuts) + 2):
                predicted = _next_result(results, number, len(cuts))
                if pending is not None:
                    committed = pending.result()
                    yield committed
                    if committed is None:
                        return
                    before = committed.position
                if predicted is not None:
                    part = under_way.popleft()
                    pending = behind.submit(_commit, home, opened, part, predicted, stamp, before, f"{number} of {len(cuts)}")
    except BaseException as error:
        behind.shutdown()  # waits: a commit under way is brought to its end
        if pending is not None and (other := pending.exception()) is not None and other is not error:
            error.add_note(f"The commit of the chunk before failed too: {type(other).__name__}: {other}")
        raise
    finally:
        behind.shutdown()


def _next_result(results: Iterator[ChunkLogits], number: int, total: int) -> ChunkLogits | None:
    try:
        return next(results, None)
    except Exception as error:
        error.add_note(f"This was while the model was at chunk {number} of {total}.")
        raise


def _commit(
    home: Home, opened: Predictor, part: Chunk, predicted: ChunkLogits, stamp: PredictionMetadata, before: Position, which: str
) -> CommittedChunk | None:
    try:
        rows = build_predictions(part, predicted.logits, opened.manifest, stamp)
        position = writer.commit_chunk(home, rows, writer.transaction_app(stamp.model_name, stamp.model_version), before)
    except Exception as error:
        error.add_note(f"This was while chunk {which} was committed.")
        raise
    return None if position is None else CommittedChunk(rows, len(part.texts), predicted.tokens, position)
