"""Stages of neighbouring chunks run at the same time, and an error in any of them ends the run with whole chunks."""

import threading
import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from finsent.config.model_schema import EngineConfig
from finsent.data import tables
from finsent.errors import FinsentError
from finsent.models.predict import tokenise
from finsent.scoring import pending_rows, predictor, writer
from finsent.scoring.chunk_pipeline import score_chunks
from finsent.scoring.predictor import (
    ModelSpec,
    Predictor,
    describe_engine,
    load_local,
    load_model,
    predict_chunks,
    prefetch,
)
from finsent.scoring.writer import count_distinct_texts, make_chunk
from finsent.workspace import Workspace
from tests.scoring.filled_inbox import MODEL, STAMP, fill, spec_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]


@pytest.fixture
def filled(home: Workspace) -> Workspace:
    return fill(home, [f"tweet number {i % 16}" for i in range(20)])


@pytest.fixture
def opened(filled, make_adapter) -> Predictor:
    return load_local(spec_of(make_adapter(0), filled), "cpu")


def run(home: Workspace, opened: Predictor, size: int = 5):
    rows = pending_rows.find_pending(home, MODEL, max_characters=5000).rows
    return score_chunks(home, opened, rows, pending_rows.chunk_bounds(len(rows), size), STAMP, writer.read_position(home))


def assert_no_thread_is_left() -> None:
    deadline = time.monotonic() + 10
    while [thread.name for thread in threading.enumerate() if thread.name.startswith("finsent-")]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def slow_device(opened: Predictor, prepare, compute) -> Predictor:
    return Predictor(lambda parts: prefetch(parts, prepare, compute), opened.manifest, opened.engine)


def test_each_text_of_a_chunk_goes_through_the_model_once(filled):
    rows = pending_rows.find_pending(filled, MODEL, max_characters=5000).rows
    part = make_chunk(rows, 3, 17)
    assert len(set(part.texts)) == len(part.texts)
    assert [part.texts[index] for index in part.text_index] == part.rows["text"].to_pylist() == rows["text"].to_pylist()[3:17]
    assert count_distinct_texts(rows) == 16
    assert make_chunk(rows, 4, 4).texts == []


def test_next_chunk_is_tokenised_and_the_last_one_committed_while_the_model_computes(filled, opened, monkeypatch):
    """Every stage waits until its neighbours are at work: one after the other, none would ever go on."""
    tokenised, committing = [threading.Event() for _ in range(5)], [threading.Event() for _ in range(5)]
    order, real = [], writer.commit_chunk

    def prepare(texts):
        tokenised[len(order_of("tokenise"))].set()
        order.append("tokenise")
        return [[1]] * len(texts)

    def order_of(stage):
        return [found for found in order if found == stage]

    def compute(rows):
        number = len(order_of("model"))
        order.append("model")
        if number < 3:
            assert tokenised[number + 1].wait(10)  # the next chunk's
        if number:
            assert committing[number - 1].wait(10)  # the last chunk's
        return np.zeros((len(rows), 3), dtype=np.float32)

    def write(home, rows, after, through):
        committing[len(order_of("commit"))].set()
        order.append("commit")
        return real(home, rows, after, through)

    monkeypatch.setattr(writer, "commit_chunk", write)
    parts = list(run(filled, slow_device(opened, prepare, compute)))
    assert [len(part.rows) for part in parts] == [5, 5, 5, 5]
    assert [part.position.number for part in parts] == [1, 2, 3, 4]
    assert sorted(tables.read(filled, "predictions")["id"].to_pylist()) == sorted(f"t{i}" for i in range(20))
    assert_no_thread_is_left()


@pytest.mark.parametrize("stage", ["tokeniser", "model", "commit"])
def test_an_error_in_any_stage_ends_the_run_with_whole_chunks_and_a_rerun_goes_on(filled, opened, monkeypatch, stage):
    calls = dict.fromkeys(("tokeniser", "model", "commit"), 0)
    real = writer.commit_chunk

    def fail_third(name):
        calls[name] += 1
        if name == stage and calls[name] == 3:
            raise OSError(f"the {name} is broken")

    def prepare(texts):
        fail_third("tokeniser")
        return [[1]] * len(texts)

    def compute(rows):
        fail_third("model")
        return np.zeros((len(rows), 3), dtype=np.float32)

    def write(home, rows, after, through):
        fail_third("commit")
        return real(home, rows, after, through)

    monkeypatch.setattr(writer, "commit_chunk", write)
    with pytest.raises(OSError, match=f"the {stage} is broken") as caught:
        list(run(filled, slow_device(opened, prepare, compute)))
    where = "while chunk 3 of 4 was committed" if stage == "commit" else "while the model was at chunk 3 of 4"
    assert where in caught.value.__notes__[0]
    assert len(tables.read(filled, "predictions")) == 10
    assert_no_thread_is_left()
    assert [len(part.rows) for part in run(filled, opened)] == [5, 5]
    assert len(tables.read(filled, "predictions")) == 20


def test_ctrl_c_leaves_no_thread_and_whole_chunks(filled, opened):
    def compute(rows):
        if tables.version(filled, "predictions"):
            raise KeyboardInterrupt
        return np.zeros((len(rows), 3), dtype=np.float32)

    with pytest.raises(KeyboardInterrupt):
        list(run(filled, slow_device(opened, lambda texts: [[1]] * len(texts), compute)))
    assert len(tables.read(filled, "predictions")) % 5 == 0
    assert_no_thread_is_left()


def test_a_run_that_was_overtaken_stops_at_once(filled, opened):
    rows = pending_rows.find_pending(filled, MODEL, max_characters=5000).rows
    before = writer.read_position(filled)
    assert list(run(filled, opened))
    late = list(score_chunks(filled, opened, rows, pending_rows.chunk_bounds(len(rows), 5), STAMP, before))
    assert late == [None]
    assert len(tables.read(filled, "predictions")) == 20
    assert_no_thread_is_left()


POISON = "\u2620 \u2620"  # of tokens that no other text here has


def planted(home: Workspace, adapter, *, everywhere: bool = False) -> Predictor:
    """A model that has a NaN in the embedding of a token."""
    import torch

    loaded = load_model(ModelSpec(adapter, home, EngineConfig(inference="stock"), 16, token_budget=64), "cpu")
    others = {
        token
        for ids in tokenise(loaded.tokenizer, [*(f"tweet number {i}" for i in range(20)), predictor.ORDINARY], 64)
        for token in ids
    }
    own = set(tokenise(loaded.tokenizer, [POISON], 64)[0]) - others
    assert own
    with torch.no_grad():
        weight = loaded.model.get_input_embeddings().weight
        weight[:] = float("nan") if everywhere else weight
        weight[sorted(own)] = float("nan")
    return Predictor(lambda chunks: predict_chunks(loaded, chunks, 64), loaded.manifest, describe_engine(loaded))


def fill_poisoned(home: Workspace, ids: str) -> None:
    rows = [{"id": name, "text": POISON, "received_at": datetime.now(UTC)} for name in ids]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))


def test_rows_whose_logits_are_not_finite_fail_alone_with_their_reason(filled, make_adapter):
    fill_poisoned(filled, "xyz")
    sick = planted(filled, make_adapter(0))
    parts = list(run(filled, sick))
    assert sum(part.failed for part in parts) == 3
    assert sum(len(part.rows) for part in parts) == 20
    assert sorted(tables.read(filled, "predictions")["id"].to_pylist()) == sorted(f"t{i}" for i in range(20))
    failed = tables.read(filled, "quarantine").sort_by("source").to_pylist()
    assert [(row["source"], row["reason"], row["text"]) for row in failed] == [
        (f"inbox#{name}", "not finite", POISON) for name in "xyz"
    ]
    assert "version 1 gives no finite logits for it" in failed[0]["detail"]
    assert len(pending_rows.find_pending(filled, MODEL, max_characters=5000).rows) == 0
    everything = pending_rows.find_pending(filled, MODEL, max_characters=5000, backfill=pending_rows.EVERYTHING).rows
    assert sorted(everything["id"].to_pylist()) == ["x", "y", "z"]
    fill_poisoned(filled, "w")  # alone in its chunk, too: the next run must not stumble over it for ever
    assert [(part.failed, len(part.rows)) for part in run(filled, sick)] == [(1, 0)]


def test_a_model_without_any_finite_logits_stops_the_run_and_quarantines_nothing(filled, make_adapter):
    with pytest.raises(FinsentError, match="no finite logits for 1 of 1 rows"):
        list(run(filled, planted(filled, make_adapter(0), everywhere=True)))
    assert len(tables.read(filled, "predictions")) == len(tables.read(filled, "quarantine")) == 0
