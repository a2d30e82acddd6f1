"""Scoring by a real adapter into real Delta tables: every row once, whoever dies and whoever else is at work."""

import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from finsent import files
from finsent.config import Config, InboxSource
from finsent.data import tables
from finsent.data.predictions import ModelIdentity
from finsent.errors import InputError, NoChampionError
from finsent.labels import LABELS
from finsent.models.predict import probabilities
from finsent.registry import tracking
from finsent.registry.client import Registry, logged_model_id
from finsent.scoring import pending_rows, writer
from finsent.steps.context import make_context
from finsent.steps.score import score
from finsent.workspace import Workspace, resolve_workspace
from tests import champions
from tests.homes import copy_home
from tests.lock_holding import freeze, held

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

MODEL = ModelIdentity("finsent", "1", "one", datetime(2025, 1, 1, tzinfo=UTC))
TEXTS = [f"$TICK{i % 7} {what} number {i}" for i, what in enumerate(["to the moon", "will crash", "reports on tuesday"] * 6)]
REPEATED = ["buy the dip"] * 4
BAD = ["", " \n", "https://t.co/only", "x" * 6000]


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    scoring = tiny_config.scoring.model_copy(update={"chunk_rows": 5, "token_budget": 64})
    return tiny_config.model_copy(update={"scoring": scoring})


@pytest.fixture
def champion(mlflow_home, config, make_adapter):
    """A home with a champion."""
    return crown(mlflow_home, config, make_adapter(0), None)


def crown(home: Workspace, config: Config, adapter, before: str | None) -> Workspace:
    with tracking.start_run(config, home, kind="train") as run_id:
        version = Registry(home, config.registered_model).register(adapter, run_id=run_id, profile=config.profile)
    champions.crown(Registry(home, "finsent"), version, before)
    return home


def fill(home: Workspace, texts: list[str], prefix: str = "t") -> None:
    """Into the table itself: the way through files has tests of its own, and stops bad texts."""
    now = datetime.now(UTC)
    rows = [{"id": f"{prefix}{i}", "text": text, "created_at": now, "received_at": now} for i, text in enumerate(texts)]
    tables.append(home, "inbox", pa.Table.from_pylist(rows, schema=tables.SCHEMAS["inbox"]))


def outcome(home: Workspace) -> list[dict]:
    """The table of predictions in an order of its own, without what differs from run to run."""
    return tables.read(home, "predictions").drop_columns(["run_id", "scored_at"]).sort_by("id").to_pylist()


def with_backfill(config: Config, value: str) -> Config:
    return config.model_copy(update={"scoring": config.scoring.model_copy(update={"backfill": value})})


def test_every_row_is_scored_once_and_a_second_run_scores_nothing(champion, config, make_adapter):
    fill(champion, [*TEXTS, *REPEATED, *BAD])
    first = score(make_context(config, champion), progress=False)
    assert (first.scored, first.skipped, first.quarantined, first.model_version) == (22, 0, 4, "1")
    assert sum(first.classes.values()) == 22
    rows = outcome(champion)
    assert [row["id"] for row in rows] == sorted(f"t{i}" for i in range(22))
    for row in rows:
        chances = [row[f"p_{label.lower()}"] for label in LABELS]
        assert sum(chances) == pytest.approx(1.0)
        assert row["confidence"] == max(chances)
        assert row["label"] == LABELS[int(np.argmax(chances))]
        assert row["abstained"] == (row["confidence"] < 0.5)
        assert (row["model_name"], row["model_version"]) == ("finsent", "1")
    assert first.abstained == sum(row["abstained"] for row in rows)
    assert len({row["p_neutral"] for row in rows if row["id"] in {"t18", "t19", "t20", "t21"}}) == 1
    assert tables.version(champion, "predictions") == 5  # created, then 22 rows in chunks of 5

    second = score(make_context(config, champion), progress=False)
    assert (second.scored, second.skipped, second.quarantined, second.run_id) == (0, 26, 0, None)
    assert second.rows_per_second == 0
    assert tables.version(champion, "predictions") == 5
    quarantined = tables.read(champion, "quarantine").to_pylist()
    assert sorted(row["reason"] for row in quarantined) == ["empty", "empty", "empty", "too long"]
    assert "inbox id t22" in {row["detail"].rsplit("; ", 1)[1] for row in quarantined}


def test_the_run_is_in_mlflow_with_its_model(champion, config):
    fill(champion, [*TEXTS[:4], TEXTS[0], TEXTS[0]])
    report = score(make_context(config, champion), progress=False)
    client = tracking.connect(champion)
    run = client.get_run(report.run_id)
    assert (run.info.status, run.data.tags["kind"], run.data.tags["model_version"]) == ("FINISHED", "score", "1")
    assert run.data.metrics["rows_scored"] == 6
    assert run.data.metrics["share_distinct"] in {4 / 6, 5 / 6}  # chunks of 5: the copies may lie in two
    assert 0 < run.data.metrics["rows_per_second"] < run.data.metrics["tokens_per_second"]
    assert (run.data.params["engine"], run.data.params["devices"]) == ("packed", "cpu")
    assert run.data.params["precision"] in {"bf16", "fp32"}  # merged: as the processor multiplies
    assert sum(run.data.metrics[f"share_{label.lower()}"] for label in LABELS) == pytest.approx(1)
    (used,) = run.inputs.model_inputs
    assert used.model_id == logged_model_id(client.get_model_version("finsent", "1"))
    assert set(tables.read(champion, "predictions", columns=["run_id"])["run_id"].to_pylist()) == {report.run_id}


def test_confidence_is_calibrated_by_the_adapters_temperature(champion, config, make_adapter):
    from finsent.models.adapter import load_adapter
    from finsent.models.predict import predict_logits

    fill(champion, TEXTS[:5])
    loaded = load_adapter(make_adapter(0), champion)
    identity = Registry(champion, "finsent").identity("1")
    rows = pending_rows.find_pending(champion, identity, max_characters=5000).rows
    part = writer.make_chunk(rows, 0, len(rows))
    logits = predict_logits(loaded, part.texts, token_budget=64)
    warm = loaded.manifest.model_copy(update={"temperature": 2.5})
    scored = writer.build_predictions(part, logits, warm, writer.PredictionMetadata(identity, "r", 0.5))
    np.testing.assert_allclose(scored["confidence"].to_numpy(), probabilities(logits, 2.5).max(axis=1), atol=1e-12)
    assert scored.schema == tables.SCHEMAS["predictions"]


def test_a_version_draws_its_own_line_and_a_setting_overrides_it(mlflow_home, config, make_adapter, tmp_path):
    from finsent.models.manifest import verify_manifest, write_manifest
    from finsent.steps.predict import predict

    cautious = tmp_path / "cautious"
    shutil.copytree(make_adapter(0), cautious)
    write_manifest(cautious, verify_manifest(cautious).model_copy(update={"abstain_below": 1.0}))
    home = crown(mlflow_home, config, cautious, None)
    fill(home, TEXTS[:6])
    assert score(make_context(config, home), progress=False).abstained == 6
    assert all(row.abstained for row in predict(make_context(config, home), TEXTS[:2]).predictions)
    bold = config.model_copy(update={"scoring": config.scoring.model_copy(update={"abstain_below": 0.0})})
    assert not any(row.abstained for row in predict(make_context(bold, home), TEXTS[:2]).predictions)
    fill(home, TEXTS[6:12], "later")
    assert (found := score(make_context(bold, home), progress=False)).abstained == 0
    assert (found.scored, found.skipped) == (6, 6)  # what was scored keeps the flag that it was given


def test_a_new_champion_scores_what_is_new_and_history_only_where_it_is_asked_for(champion, config, make_adapter):
    fill(champion, TEXTS)
    score(make_context(config, champion), progress=False)
    crown(champion, config, make_adapter(1), "1")
    report = score(make_context(config, champion), progress=False)
    assert (report.scored, report.skipped, report.model_version) == (0, len(TEXTS), "2")
    fill(champion, TEXTS[:2], "later")
    assert score(make_context(config, champion), progress=False).scored == 2
    report = score(make_context(with_backfill(config, "1d"), champion), progress=False)
    assert (report.scored, report.skipped) == (len(TEXTS), 2)
    versions_of = [(row["id"], row["model_version"]) for row in outcome(champion)]
    assert len(versions_of) == len(set(versions_of)) == 2 * len(TEXTS) + 2
    assert score(make_context(with_backfill(config, "all"), champion), progress=False).scored == 0


def test_another_model_of_the_same_name_and_number_is_another_model(champion, config, make_adapter):
    """A registry that was begun anew, or that of another home on the same tables, counts from 1 again."""
    fill(champion, TEXTS)
    score(make_context(config, champion), progress=False)
    tracking.connect(champion).delete_registered_model("finsent")
    crown(champion, config, make_adapter(1), None)
    report = score(make_context(config, champion), progress=False)
    assert (report.scored, report.skipped, report.model_version) == (len(TEXTS), 0, "1")
    assert score(make_context(config, champion), progress=False).skipped == len(TEXTS)
    known = Registry(champion, "finsent").identity("1")
    by_digest = tables.read(champion, "predictions", columns=["model_digest"])["model_digest"].value_counts().to_pylist()
    assert {row["values"]: row["counts"] for row in by_digest}[known.digest] == len(TEXTS)
    assert len(by_digest) == 2


@pytest.mark.long
def test_several_devices_write_what_one_writes(champion, config, tmp_path):
    fill(champion, [*TEXTS, *REPEATED, *BAD])
    other = copy_home(champion.root, tmp_path / "other")
    Registry(champion, "finsent").adapter_path("1")
    score(make_context(config, champion), progress=False)
    shutil.copytree(champion.versions, other.versions)
    report = score(make_context(config, other), devices=("cpu", "cpu"), progress=False)
    assert (report.scored, report.quarantined) == (22, 4)
    assert outcome(other) == outcome(champion)
    assert tracking.connect(other).get_run(report.run_id).data.params["devices"] == "cpu, cpu"


def test_files_go_through_the_inbox(champion, config, tmp_path):
    path = tmp_path / "new.csv"
    path.write_text("id,text\na,$AAPL to the moon\nb,$TSLA will crash\nc,\na,$AAPL to the moon\n", encoding="utf-8")
    report = score(make_context(config, champion), files=[InboxSource(uri=str(path))], progress=False)
    assert (report.received, report.scored, report.skipped, report.quarantined) == (2, 2, 0, 1)
    again = score(make_context(config, champion), files=[InboxSource(uri=str(path))], progress=False)
    assert (report.known, again.known) == (1, 3)
    assert (again.received, again.scored, again.skipped) == (0, 0, 2)


def test_nothing_is_received_without_a_champion_or_from_a_wrong_file(mlflow_home, config, tmp_path, make_adapter):
    path = tmp_path / "new.csv"
    path.write_text("text\nhello $AAPL\n", encoding="utf-8")
    with pytest.raises(NoChampionError, match="run `finsent promote`"):
        score(make_context(config, mlflow_home), files=[InboxSource(uri=str(path))])
    crown(mlflow_home, config, make_adapter(0), None)
    with pytest.raises(InputError):
        score(make_context(config, mlflow_home), files=[InboxSource(uri=str(tmp_path / "missing.csv"))])
    assert tables.version(mlflow_home, "inbox") is None
    assert tables.version(mlflow_home, "predictions") is None
    empty = score(make_context(config, mlflow_home), progress=False)
    assert (empty.scored, empty.classes, empty.run_id) == (0, {}, None)


KILLED = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mlflow, peft, transformers
from finsent.workspace import resolve_workspace
from finsent.config import Config
from finsent.steps import score as pipeline
from finsent.steps.context import make_context
from finsent.scoring import writer

config = Config.model_validate_json(Path(sys.argv[1]).read_text())
real, number = writer.commit_chunk, 0

def dying(home, rows, after, through=None):
    global number
    number += 1
    if number == chunk and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    position = real(home, rows, after, through)
    if number == chunk and when == "after":
        os.kill(os.getpid(), signal.SIGKILL)
    return position

writer.commit_chunk = dying
for argument in sys.argv[2:]:
    when, chunk, home = argument.split(":", 2)
    chunk = int(chunk)
    child = os.fork()  # each dies alone; the imports above are paid once
    if child == 0:
        pipeline.score(make_context(config, resolve_workspace({"FINSENT_HOME": home})), progress=False)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(os.WTERMSIG(status))
"""


@pytest.mark.parametrize(
    "points", [{"before:3": 10}, pytest.param({"before:1": 0, "after:1": 5, "after:5": 22}, marks=pytest.mark.long)], ids=str
)
def test_kill_9_anywhere_and_run_again_gives_the_same_table(champion, config, tmp_path, points):
    """`points`: when the process is killed, by chunk, and the rows that are committed then."""
    fill(champion, [*TEXTS, *REPEATED, *BAD])
    Registry(champion, "finsent").adapter_path("1")
    homes = {point: tmp_path / point.replace(":", "-") for point in points}
    for root in homes.values():
        copy_home(champion.root, root)
    score(make_context(config, champion), progress=False)
    whole = outcome(champion)

    settings = tmp_path / "config.json"
    settings.write_text(config.model_dump_json(), encoding="utf-8")
    command = [sys.executable, "-c", KILLED, str(settings), *(f"{point}:{root}" for point, root in homes.items())]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.stdout.split() == [str(int(signal.SIGKILL))] * len(points), run.stderr
    for point, committed in points.items():
        home = resolve_workspace({"FINSENT_HOME": str(homes[point])})
        assert len(tables.read(home, "predictions")) == committed
        report = score(make_context(config, home), progress=False)
        assert (report.skipped, report.scored) == (committed + len(BAD), 22 - committed)
        assert outcome(home) == whole  # equal to the last bit
        assert len(tables.read(home, "quarantine")) == len(BAD)


def test_two_runs_at_once_score_no_row_twice(champion, config, tmp_path, monkeypatch):
    """Two machines: one store and one set of tables, but no lock between them."""
    fill(champion, TEXTS)
    elsewhere = Workspace(root=tmp_path / "elsewhere", tables_url=champion.tables_url, tracking_uri=champion.tracking_uri)
    real, reports = writer.commit_chunk, []

    def overtaken(home, rows, after, through=None):
        if not reports and home is champion and after.number == 1:  # ours has committed one chunk
            reports.append(None)
            monkeypatch.setattr(writer, "commit_chunk", real)
            reports[0] = score(make_context(config, elsewhere), progress=False)
        return real(home, rows, after, through)

    monkeypatch.setattr(writer, "commit_chunk", overtaken)
    ours = score(make_context(config, champion), progress=False)
    (theirs,) = reports
    assert (ours.scored, theirs.scored, theirs.skipped) == (5, len(TEXTS) - 5, 5)
    ids = [row["id"] for row in outcome(champion)]
    assert len(ids) == len(set(ids)) == len(TEXTS)


def test_lost_chunk_is_noticed_and_not_written(champion):
    rows = pa.Table.from_pylist(
        [{"id": "a", "model_version": "1", "scored_at": datetime.now(UTC)}], schema=tables.SCHEMAS["predictions"]
    )
    before = writer.read_position(champion)
    assert (before.version, before.number) == (-1, 0)
    mine = writer.commit_chunk(champion, rows, before)
    assert mine is not None
    assert mine.number == 1
    assert writer.commit_chunk(champion, rows, before) is None
    tables.append(champion, "predictions", rows, transaction=("finsent-score/of-an-earlier-release", 1))
    assert writer.commit_chunk(champion, rows, mine) == writer.read_position(champion)
    assert len(tables.read(champion, "predictions")) == 3


def test_order_of_what_is_due_depends_on_the_rows_alone(home):
    fill(home, ["b", "a", "c"], prefix="x")
    fill(home, ["a", "c"], prefix="y")
    rows = pending_rows.find_pending(home, MODEL, max_characters=5000).rows
    assert rows["text_hash"].to_pylist() == sorted(rows["text_hash"].to_pylist())
    same = [row["id"] for row in rows.to_pylist() if row["text"] == "a"]
    assert same == ["x1", "y0"]
    assert pending_rows.chunk_bounds(len(rows), 2) == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("frozen", [True, False], ids=["stopped", "commits nothing"])
def test_a_run_scores_beside_one_that_makes_no_progress(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, frozen: bool
) -> None:
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0.05)
    monkeypatch.setattr(writer, "_PATIENCE", 600 if frozen else 0.2)
    with held(home.lock("score")) as other:
        if frozen:
            freeze(other)
        with writer.after_others(home, lambda: None):
            assert f"a scoring run at work commits nothing. Process {other.pid}" in caplog.text
            assert "This run scores beside it" in caplog.text
    with writer.after_others(home, lambda: None):
        assert files.lock_holder(home.lock("score")).pid == os.getpid()
