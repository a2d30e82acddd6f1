"""What is due is told from what came since the watermark, and is the same as by reading everything: nothing lost or doubled."""

import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finsent.config import InboxSource
from finsent.data import table_upkeep, tables
from finsent.data.inbox import receive, remove_scored
from finsent.data.predictions import ChampionLine, ModelIdentity, predicted_in_line
from finsent.data.quarantine import append_records
from finsent.data.table_access import location
from finsent.data.table_upkeep import tidy_tables
from finsent.errors import InputError
from finsent.labels import LABELS
from finsent.scoring import pending_rows, writer
from finsent.scoring.chunk_pipeline import score_chunks
from finsent.scoring.pending_rows import EVERYTHING, PendingRows, find_pending
from finsent.scoring.predictor import ChunkLogits, Predictor
from finsent.scoring.watermark import find_arrivals, others_watermarks, read_watermark
from finsent.scoring.writer import PredictionMetadata
from finsent.workspace import Workspace, resolve_workspace
from tests.data.inbox_feeding import write

EARLIER = datetime(2025, 1, 1, tzinfo=UTC)
LINE = ChampionLine("line", frozenset("ab"), EARLIER)
MODELS = [ModelIdentity("finsent", str(number), name, EARLIER, LINE) for number, name in enumerate("ab")]
STRANGER = ModelIdentity("finsent", "1", "c", EARLIER, ChampionLine("another", frozenset("c"), EARLIER))
"""Champion of another registry, with tables of its own or the same."""
LONGEST = 100
TWEET = dict.fromkeys(("text", "source", "group"), "a") | {"label": LABELS[0], "split": "train"}


def stand_in(texts_of_chunks: Iterator[list[str]]) -> Iterator[ChunkLogits]:
    for texts in texts_of_chunks:
        yield ChunkLogits(np.zeros((len(texts), 3), dtype=np.float32), len(texts))


PREDICTOR = Predictor(stand_in, SimpleNamespace(labels=LABELS, temperature=1.0), SimpleNamespace(devices=("cpu",)))


class Run:
    """A scoring run, chunk by chunk, so that others can come in between."""

    def __init__(self, home: Workspace, model: ModelIdentity, backfill: datetime | None = None, size: int = 2) -> None:
        self.home, self.model, self.backfill, self.size = home, model, backfill, size
        self._look()

    def _look(self) -> None:
        self.before = writer.read_position(self.home)
        self.due = look(self.home, self.model, self.backfill)
        append_records(self.home, self.due.bad, datetime.now(UTC))
        cuts = pending_rows.chunk_bounds(len(self.due.rows), self.size)
        stamp = PredictionMetadata(self.model, "r", 0.5)
        self.chunks = score_chunks(self.home, PREDICTOR, self.due.rows, cuts, stamp, self.before, self.due.watermark)
        if not len(self.due.rows) and self.due.watermark is not None:
            writer.record_watermark(self.home, self.due.watermark, self.before)

    def go(self, chunks: int | None = None) -> None:
        """To the end, or until it is killed after some chunks."""
        while chunks is None or chunks > 0:
            done = next(self.chunks, "end")
            if done == "end":
                return
            if done is None:
                self._look()
            elif chunks is not None:
                chunks -= 1
        self.chunks.close()


def look(home: Workspace, model: ModelIdentity, backfill: datetime | None = None) -> PendingRows:
    """What is due, which must be the same as by reading the whole tables."""
    due = find_pending(home, model, max_characters=LONGEST, backfill=backfill)
    inbox, predictions = tables.read(home, "inbox"), tables.read(home, "predictions", filters=predicted_in_line(model))
    good, _ = pending_rows._select(inbox, predictions, backfill and (model, backfill), LONGEST)
    assert sorted(due.rows["id"].to_pylist()) == sorted(good["id"].to_pylist())
    assert due.settled == len(inbox) - len(due.rows) - len(due.bad)
    return due


def text_of(number: int) -> str:
    return " " if number == 3 else f"tweet number {number}"


def take_in(home: Workspace, *numbers: int) -> None:
    rows = [(f"t{number}", text_of(number)) for number in numbers if number != 3]
    if rows:
        with suppress(InputError):  # too many of them came with another text before
            receive([InboxSource(uri=str(write(home.root / "in.csv", rows)))], home)


def put(home: Workspace, *numbers: int, text: str | None = None) -> None:
    """As another program does, which looks at no id."""
    now = datetime.now(UTC)
    rows = [{"id": f"t{number}", "text": text or text_of(number), "received_at": now} for number in numbers]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))


def forget(home: Workspace, name: str, *numbers: int) -> None:
    """Remove rows as another program does."""
    if tables.version(home, name) is not None:
        listed = ", ".join(f"'t{number}'" for number in numbers)
        rows = tables.SCHEMAS[name].empty_table()
        write_deltalake(location(home, name), rows, mode="overwrite", predicate=f"id IN ({listed})")


def upkeep(home: Workspace, name: str, *, vacuum: bool) -> None:
    if tables.version(home, name) is not None:
        handle = DeltaTable(location(home, name))
        handle.optimize.compact()
        if vacuum:
            handle.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False, full=True)


def roll_back(home: Workspace, name: str, commits: int) -> None:
    """To an earlier version; one whose files a vacuum removed cannot be restored."""
    if (latest := tables.version(home, name)) is not None:
        with suppress(DeltaError):
            DeltaTable(location(home, name)).restore(max(latest - commits, 0))


def copies(home: Workspace, model: ModelIdentity = MODELS[0]) -> dict[str, int]:
    return Counter(tables.read(home, "predictions", columns=["id"], filters=predicted_in_line(model))["id"].to_pylist())


numbers = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
STEPS = st.one_of(
    st.tuples(st.just("receive"), numbers),
    st.tuples(st.just("put"), numbers),
    st.tuples(st.just("put other texts"), numbers),
    st.tuples(st.just("score"), st.sampled_from([None, None, 0, 1, 2])),
    st.tuples(st.just("stranger scores"), st.sampled_from([None, 1])),
    st.tuples(st.just("overlap"), st.integers(0, 2)),
    st.tuples(st.just("promote"), st.none()),
    st.tuples(st.just("upkeep"), st.tuples(st.sampled_from(["inbox", "predictions"]), st.booleans())),
    st.tuples(st.just("remove scored"), st.none()),
    st.tuples(st.just("forget"), st.tuples(st.sampled_from(["inbox", "predictions"]), numbers)),
    st.tuples(st.just("roll back"), st.tuples(st.sampled_from(["inbox", "predictions"]), st.integers(1, 3))),
)


def score(home: Workspace, model: ModelIdentity, chunks: int | None) -> None:
    if tables.version(home, "inbox") is not None:
        Run(home, model).go(chunks)


def overlap(home: Workspace, models: list[ModelIdentity], chunks: int) -> None:
    """Two machines with two champions, and one of another registry, each between the chunks of the other."""
    if tables.version(home, "inbox") is not None:
        ours, theirs, others = Run(home, models[0]), Run(home, models[1]), Run(home, STRANGER)
        theirs.go(chunks)
        put(home, 8)
        others.go(chunks)
        ours.go()


def play(home: Workspace, steps: list[tuple[str, object]]) -> list[ModelIdentity]:
    """Take the steps, then let everyone score to the end; who they are. No row has two predictions at any time."""
    models = list(MODELS)
    do = {
        "receive": lambda what: take_in(home, *what),
        "put": lambda what: put(home, *what),
        "put other texts": lambda what: put(home, *what, text="another text"),
        "score": lambda what: score(home, models[0], what),
        "stranger scores": lambda what: score(home, STRANGER, what),
        "overlap": lambda what: overlap(home, models, what),
        "promote": lambda _: models.reverse(),
        "upkeep": lambda what: upkeep(home, what[0], vacuum=what[1]),
        "remove scored": lambda _: remove_scored(home, predicted_in_line(MODELS[0]), datetime.now(UTC) + timedelta(days=1)),
        "forget": lambda what: forget(home, what[0], *what[1]),
        "roll back": lambda what: roll_back(home, *what),
    }
    for step, what in [*steps, ("put", [9]), ("score", None), ("stranger scores", None)]:
        do[step](what)
        for model in (models[0], STRANGER):
            assert set(copies(home, model).values()) <= {1}, (step, what, model)
    return [models[0], STRANGER]


def left_over(home: Workspace, model: ModelIdentity) -> tuple[list[str], set[str]]:
    """Ids that are due still, and those that have neither a prediction nor an entry in the quarantine."""
    there = {row["id"] for row in tables.read(home, "inbox").to_pylist() if row["text"].strip()}
    bad = {row["source"].removeprefix("inbox#") for row in tables.read(home, "quarantine").to_pylist()}
    return look(home, model).rows["id"].to_pylist(), there - copies(home, model).keys() - bad


@settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=4, max_size=9))
def test_no_row_is_lost_or_doubled_whatever_happens(steps):
    with tempfile.TemporaryDirectory() as folder:
        home = resolve_workspace({"FINSENT_HOME": folder})
        for model in play(home, steps):
            assert left_over(home, model) == ([], set())


@pytest.mark.long
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, min_size=4, max_size=25))
def test_no_row_is_lost_or_doubled_whatever_happens_for_long(steps):
    with tempfile.TemporaryDirectory() as folder:
        home = resolve_workspace({"FINSENT_HOME": folder})
        for model in play(home, steps):
            assert left_over(home, model) == ([], set())


def test_a_run_reads_nothing_but_what_came_since_the_last_one(home: Workspace) -> None:
    for number in range(3):
        take_in(home, number)
        Run(home, MODELS[0]).go()
    mark = read_watermark(home, MODELS[0])
    for name, version in (("inbox", mark.inbox), ("predictions", mark.since)):
        there = DeltaTable(location(home, name), version=version).file_uris()
        upkeep(home, name, vacuum=False)
        merged = set(DeltaTable(location(home, name)).file_uris())
        for path in {*there, *merged}:
            Path(path).unlink()  # whoever reads what was there fails
    nothing = find_pending(home, MODELS[0], max_characters=LONGEST)
    assert (len(nothing.rows), nothing.settled, nothing.watermark) == (0, 3, None)
    now = datetime.now(UTC)
    rows = pa.Table.from_pylist([{"id": "new", "text": "a new tweet", "received_at": now}], schema=tables.SCHEMAS["inbox"])
    at = tables.position(home, "inbox", "finsent-receive")
    tables.append_if_unchanged(home, "inbox", rows, "finsent-receive", at, {"ids_new_after": str(at.version)})
    assert find_pending(home, MODELS[1], max_characters=LONGEST).rows["id"].to_pylist() == ["new"]


def needed(home: Workspace) -> dict[str, int]:
    mark = read_watermark(home, MODELS[0])
    return {"inbox": mark.inbox, "predictions": mark.since}


def test_maintenance_leaves_what_the_next_run_reads(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_upkeep, "MERGED_FROM", 2)
    take_in(home, 0)
    Run(home, MODELS[0]).go()
    for number in (1, 2):
        take_in(home, number)
        assert {item.name for item in tidy_tables(home, retention_days=0, needed=needed(home))} >= {"inbox"}
        assert find_arrivals(home, tables.version(home, "inbox"), MODELS[0]) is not None, "the whole tables would be read"
        assert look(home, MODELS[0]).rows["id"].to_pylist() == [f"t{had}" for had in range(1, number + 1)]
    Run(home, MODELS[0]).go()
    take_in(home, 4)
    tidy_tables(home, retention_days=0, needed=needed(home))
    assert look(home, MODELS[0]).rows["id"].to_pylist() == ["t4"]
    assert find_arrivals(home, tables.version(home, "inbox"), MODELS[0]) is not None
    inbox = Path(location(home, "inbox"))
    assert len(list(inbox.glob("*.parquet"))) < tables.version(home, "inbox"), "all else goes"


def test_who_reads_and_writes_lives_while_tables_are_looked_after(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_upkeep, "MERGED_FROM", 2)
    take_in(home, 0)
    Run(home, MODELS[0]).go()
    open_reader = DeltaTable(location(home, "inbox")).to_pyarrow_dataset()
    over, problems, merged = Event(), [], []

    def look_after() -> None:
        while not over.is_set():
            done = tidy_tables(home)
            problems.extend(item.problem for item in done if item.problem)
            merged.extend(item.name for item in done if item.merged)

    with ThreadPoolExecutor(1) as others:
        at_work = others.submit(look_after)
        try:
            for number in range(10, 16, 2):
                run = Run(home, MODELS[0], size=1)
                take_in(home, number, number + 1)
                tweets = pa.Table.from_pylist([TWEET | {"id": str(number)}], schema=tables.SCHEMAS["tweets"])
                assert tables.append_if_unchanged(home, "tweets", tweets, "ingest", tables.position(home, "tweets", "ingest"))
                run.go()
                Run(home, MODELS[0], size=1).go()
        finally:
            over.set()
        at_work.result()
    assert problems == []
    assert set(merged) >= {"inbox", "predictions"}
    assert open_reader.to_table()["id"].to_pylist() == ["t0"], "as it was when it was opened"
    assert copies(home) == dict.fromkeys(["t0", *(f"t{number}" for number in range(10, 16))], 1)
    assert tables.read(home, "tweets").num_rows == 3


def test_the_watermark_is_in_the_commit_of_the_last_chunk(home: Workspace) -> None:
    take_in(home, 0, 1, 2)
    run = Run(home, MODELS[0])
    run.go(1)
    assert read_watermark(home, MODELS[0]) is None
    Run(home, MODELS[0]).go()
    mark = read_watermark(home, MODELS[0])
    assert (mark.inbox, mark.since) == (tables.version(home, "inbox"), tables.version(home, "predictions") - 1)
    commits = tables.commit_history(home, "predictions")
    assert ["scored_through" in commit for commit in commits] == [True, False, False]
    Run(home, MODELS[0]).go()
    assert tables.version(home, "predictions") == 2, "a run that finds nothing commits nothing"


def test_what_another_program_put_in_is_looked_at_once(home: Workspace) -> None:
    take_in(home, 0, 1)
    Run(home, MODELS[0]).go()
    put(home, 1, 3)
    Run(home, MODELS[0]).go()
    assert find_arrivals(home, tables.version(home, "inbox"), MODELS[0]).rows.num_rows == 0
    assert copies(home) == {"t0": 1, "t1": 1}
    assert [row["reason"] for row in tables.read(home, "quarantine").to_pylist()] == ["empty"]


def test_an_id_that_was_scored_and_removed_is_not_scored_again(home: Workspace) -> None:
    take_in(home, 0, 1)
    Run(home, MODELS[0]).go()
    assert remove_scored(home, predicted_in_line(MODELS[0]), datetime.now(UTC) + timedelta(days=1)) == 2
    take_in(home, 0, 4)
    Run(home, MODELS[1]).go()
    assert copies(home) == {"t0": 1, "t1": 1, "t4": 1}


def test_a_registry_takes_no_notice_of_what_another_ones_champion_scored(home: Workspace) -> None:
    take_in(home, 0, 1)
    Run(home, MODELS[0]).go()
    run = Run(home, STRANGER)
    assert sorted(run.due.rows["id"].to_pylist()) == ["t0", "t1"]
    run.go(1)
    Run(home, STRANGER).go()
    take_in(home, 2)
    for model in (STRANGER, MODELS[1]):
        run = Run(home, model)
        assert run.due.rows["id"].to_pylist() == ["t2"]
        run.go()
    assert copies(home, STRANGER) == copies(home) == {"t0": 1, "t1": 1, "t2": 1}


def test_rows_that_another_registry_has_still_to_score_are_not_removed(home: Workspace) -> None:
    take_in(home, 0, 1)
    for model in (MODELS[0], STRANGER):
        Run(home, model).go()
    take_in(home, 2)
    Run(home, MODELS[0]).go()
    soon = datetime.now(UTC) + timedelta(days=1)
    (theirs,) = others_watermarks(home, MODELS[0], datetime.now(UTC) - timedelta(days=1))
    assert others_watermarks(home, MODELS[0], soon) == [], "it has not scored since then"
    assert remove_scored(home, predicted_in_line(MODELS[0]), soon, upto=theirs.inbox) == 2
    run = Run(home, STRANGER)
    assert run.due.rows["id"].to_pylist() == ["t2"]
    run.go()
    assert not others_watermarks(home, STRANGER, soon)
    (ours,) = others_watermarks(home, STRANGER, datetime.now(UTC) - timedelta(days=1))
    assert remove_scored(home, predicted_in_line(STRANGER), soon, upto=ours.inbox) == 1


def test_a_table_brought_back_from_a_backup_is_read_whole(home: Workspace, tmp_path: Path) -> None:
    take_in(home, 0)
    shutil.copytree(location(home, "inbox"), tmp_path / "backup")
    take_in(home, 1)
    Run(home, MODELS[0]).go()
    shutil.rmtree(location(home, "inbox"))
    shutil.copytree(tmp_path / "backup", location(home, "inbox"))
    take_in(home, 5)  # the version that the watermark names, and another commit
    Run(home, MODELS[0]).go()
    assert copies(home) == {"t0": 1, "t1": 1, "t5": 1}


def test_a_backfill_scores_what_others_scored_and_once(home: Workspace) -> None:
    take_in(home, 0, 1)
    Run(home, MODELS[0]).go()
    put(home, 1, text="another text")
    put(home, 2)
    day = datetime.now(UTC) - timedelta(days=1)
    assert look(home, MODELS[1], datetime.now(UTC) + timedelta(days=1)).rows["id"].to_pylist() == ["t2"]
    Run(home, MODELS[1], day).go()
    found = tables.read(home, "predictions", columns=["id", "model_digest"]).to_pylist()
    pairs = sorted((row["id"], row["model_digest"]) for row in found)
    assert pairs == [("t0", "a"), ("t0", "b"), ("t1", "a"), ("t1", "b"), ("t2", "b")]
    assert read_watermark(home, MODELS[0]).backfilled_since == day
    take_in(home, 4)
    run = Run(home, MODELS[1], day + timedelta(hours=1))
    assert run.due.rows["id"].to_pylist() == ["t4"]
    run.go()
    assert read_watermark(home, MODELS[0]).backfilled_since == day
    assert not len(look(home, MODELS[1], EVERYTHING).rows)
