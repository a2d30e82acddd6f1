"""What maintenance removes, and above all what it leaves."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import DeltaTable

from finsent.config import Config, InboxSource
from finsent.data import tables
from finsent.data.inbox import receive
from finsent.data.predictions import ModelIdentity
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.errors import CheckFailed, NoChampionError
from finsent.files import locked
from finsent.registry import tracking
from finsent.registry.champion import require_champion
from finsent.registry.scoring_identity import scoring_identity
from finsent.scoring import writer
from finsent.scoring.watermark import read_watermark, watermark_at
from finsent.steps import maintain as steps_maintain
from finsent.steps.context import Context, make_context
from finsent.steps.maintain import maintain
from finsent.training.run_dir import STATE, hold_run_dir, mark_finished
from finsent.workspace import Workspace, resolve_workspace
from tests.champions import crown
from tests.homes import BuildOnce, copy_home


def age(folder: Path, days: float = 40) -> None:
    then = time.time() - days * 86400
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (then, then))


def training(home: Workspace, name: str, *, finished: bool, checkpoint: bool = False) -> Path:
    folder = home.runs / name
    with hold_run_dir(folder, "digest"):
        (folder / "weights").write_bytes(b"x" * 10_000)
    if checkpoint:
        from finsent.training import checkpoint as module

        (folder / f"{module.PREFIX}10").mkdir()
        (folder / f"{module.PREFIX}10" / module._STATE).touch()
    if finished:
        mark_finished(folder, "digest")
    return folder


@pytest.fixture
def context(
    build_once: BuildOnce, _mlflow_store: Path, tiny_config: Config, make_adapter: Callable[[int], Path], tmp_path: Path
) -> Context:
    """Two registered versions, the first of them champion; their adapters are cached."""

    def build(folder: Path) -> None:
        shutil.copyfile(_mlflow_store, folder / "mlflow.db")
        made = make_context(tiny_config, resolve_workspace({"FINSENT_HOME": str(folder)}))
        with tracking.start_run(tiny_config, made.workspace, kind="train") as run_id:
            for seed in (0, 1):
                made.registry.register(make_adapter(seed), run_id=run_id, profile="nano")
        for version in ("1", "2"):
            age(made.registry.adapter_path(version))
        training(made.workspace, run_id, finished=True)
        crown(made.registry, "1")

    return make_context(tiny_config, copy_home(build_once("maintained", build), tmp_path / "home"))


def names(context: Context) -> set[str]:
    home = context.workspace
    return {path.name for folder in (home.runs, home.versions, home.root) for path in folder.glob("[!.]*")}


def test_what_nothing_needs_goes_and_all_else_stays(context: Context) -> None:
    home = context.workspace
    registered = next(home.runs.iterdir()).name
    for name, finished, checkpoint in (
        ("unregistered", True, False),
        ("interrupted", False, True),
        ("hopeless", False, False),
        ("through", False, False),
        ("half-written", False, False),
        ("at-work", False, False),
    ):
        training(home, name, finished=finished, checkpoint=checkpoint)
    (home.runs / "through" / "result.json").write_text("{}", encoding="utf-8")
    (home.runs / "half-written" / STATE).write_text("", encoding="utf-8")
    (home.root / "mlflow.db.before-move-20260101T000000").touch()
    half = home.root / f".services.json.{'0a' * 16}"
    half.touch()
    age(half)
    for folder in (*home.runs.iterdir(), home.root / "mlflow.db.before-move-20260101T000000"):
        age(folder)
    training(home, "young", finished=False)
    before = names(context)

    planned = maintain(context, days=30, dry_run=True)
    assert names(context) == before, "a dry run removes nothing"
    with locked(home.runs / "at-work" / ".lock", 0, "held"):
        done = maintain(context, days=30)
    gone = {registered, "hopeless", "finsent-2", "mlflow.db.before-move-20260101T000000"}
    assert {item.path.name for item in planned.removed} == gone | {"at-work", half.name}
    assert {item.path.name for item in done.removed} == gone | {half.name}
    assert before - names(context) == gone
    assert not half.exists()
    assert done.bytes >= 20_000
    assert not list(home.runs.glob(".removed*"))
    assert context.registry.adapter_path("2").is_dir(), "fetched again when it is needed"


def test_a_cache_that_is_the_last_copy_stays(context: Context) -> None:
    shutil.rmtree(context.workspace.artifacts)
    age(next(context.workspace.runs.iterdir()))
    assert maintain(context, days=30).removed == ()


def test_inbox_rows_go_once_they_are_scored(context: Context, tmp_path: Path) -> None:
    home, now = context.workspace, datetime.now(UTC)
    champion = require_champion(context.registry)
    crown(context.registry, "2", champion)
    crown(context.registry, champion, "2")
    old, recent = now - timedelta(days=400), now - timedelta(days=2)
    times = {"scored and old": old, "old": old, "scored": recent, "by another version": old}
    rows = {"id": list(times), "created_at": [None] * 4, "text": list(times), "received_at": list(times.values())}
    tables.append(home, "inbox", pa.table(rows, schema=SCHEMAS["inbox"]))
    scored = [("scored and old", "1"), ("scored", "1"), ("by another version", "2")]
    columns = {name: [None] * 3 for name in SCHEMAS["predictions"].names} | {
        "id": [row for row, _ in scored],
        "model_name": ["finsent"] * 3,
        "model_version": [version for _, version in scored],
        "model_digest": [context.registry.identity(version).digest for _, version in scored],
    }
    tables.append(home, "predictions", pa.table(columns, schema=SCHEMAS["predictions"]))

    def inbox() -> list[str]:
        return sorted(tables.read(home, "inbox", columns=["id"])["id"].to_pylist())

    scoring = context.config.scoring.model_copy(update={"backfill": "all"})
    again = replace(context, config=context.config.model_copy(update={"scoring": scoring}))
    assert maintain(again, days=30, inbox_days=365, dry_run=True).inbox_rows == 1
    assert len(inbox()) == 4
    assert maintain(again, days=30, inbox_days=365).inbox_rows == 1
    assert inbox() == ["by another version", "old", "scored"], "it is going to be scored again"
    assert maintain(context, days=30).inbox_rows == 0
    assert maintain(context, days=30, inbox_days=365).inbox_rows == 1
    assert inbox() == ["old", "scored"]
    more = tmp_path / "more.csv"
    more.write_text("id,text\nnew,Shares of $ACME rise\n", encoding="utf-8")
    assert receive([InboxSource(uri=str(more))], home).received == 1, "commits are numbered on"


def test_inbox_rows_stay_where_nobody_can_tell_whether_another_registry_has_scored_them(
    context: Context, caplog: pytest.LogCaptureFixture
) -> None:
    home, old = context.workspace, datetime.now(UTC) - timedelta(days=400)

    def put(name: str) -> int:
        tables.append(home, "inbox", pa.Table.from_pylist([{"id": name, "text": name, "received_at": old}], SCHEMAS["inbox"]))
        return tables.version(home, "inbox") or 0

    seen = put("scored")
    ours = {"id": "scored", "model_digest": context.registry.identity("1").digest, "scored_at": old}
    tables.append(home, "predictions", pa.Table.from_pylist([ours], SCHEMAS["predictions"]))
    mark = watermark_at(home, seen, ModelIdentity("finsent", "1", "another registry's", old), None)
    assert mark is not None
    writer.record_watermark(home, mark, writer.read_position(home))
    put("later")
    assert maintain(context, days=30, inbox_days=365, dry_run=True).inbox_rows == 1
    table = DeltaTable(location(home, "inbox"))
    table.optimize.compact()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    assert maintain(context, days=30, inbox_days=365).inbox_rows == 0
    assert "no inbox row is removed" in caplog.text
    assert sorted(tables.read(home, "inbox", columns=["id"])["id"].to_pylist()) == ["later", "scored"]


def test_without_a_champion_no_row_goes(mlflow_home: Workspace, tiny_config: Config) -> None:
    with pytest.raises(NoChampionError):
        maintain(make_context(tiny_config, mlflow_home), days=30, inbox_days=365)


def test_what_failed_imports_and_killed_maintenances_left_goes(context: Context, tiny_config: Config) -> None:
    home = context.workspace
    with pytest.raises(RuntimeError), tracking.start_run(tiny_config, home, kind="import") as run_id:
        raise RuntimeError("the registry does not answer")
    (home.runs / run_id / "adapter").mkdir(parents=True)
    (home.runs / "an import that MLflow lost" / "adapter").mkdir(parents=True)
    training(home, ".removed.0a", finished=True)
    for folder in (home.runs / run_id, home.runs / "an import that MLflow lost"):
        age(folder)
    registered = {version.run_id for version in context.registry.client.search_model_versions()}
    gone = {item.path.name for item in maintain(context, days=30).removed} - registered
    assert gone == {run_id, ".removed.0a", "finsent-2"}
    assert (home.runs / "an import that MLflow lost").is_dir()


def test_a_file_that_goes_while_it_is_looked_at_is_no_failure(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    home = context.workspace
    going = home.root / f".mlflow.{'0a' * 16}"

    def appearing(_home: Workspace) -> list[tuple[str, Path]]:
        return [("half-written by a killed process", going)]

    monkeypatch.setattr(steps_maintain, "_leftovers", appearing)
    assert going not in {item.path for item in maintain(context, days=30).removed}
    going.touch()
    age(going)
    remove = steps_maintain._remove
    monkeypatch.setattr(steps_maintain, "_remove", lambda path: (path.unlink() if path == going else None, remove(path))[1])
    maintain(context, days=30)
    assert not going.exists()


def test_a_second_maintenance_waits_for_the_first_and_leaves_scoring_its_files(
    context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    home, model = context.workspace, scoring_identity(context.registry, "1")
    row = {"id": "a", "text": "gold", "received_at": datetime.now(UTC)}
    version = tables.append(home, "inbox", pa.Table.from_pylist([row], schema=SCHEMAS["inbox"]))
    tables.append(home, "predictions", SCHEMAS["predictions"].empty_table())
    mark = watermark_at(home, version, model, None)
    assert mark is not None
    writer.record_watermark(home, mark, writer.read_position(home))
    recorded = read_watermark(home, model)
    assert recorded is not None

    def tidy(home: Workspace, *, dry_run: bool, needed: dict[str, int], retention_days: int) -> tuple[()]:
        assert (needed, retention_days) == ({"inbox": version, "predictions": recorded.since}, 7)
        with pytest.raises(CheckFailed), locked(home.lock("maintain"), 0, "held"):
            pass
        held.append(dry_run)
        return ()

    monkeypatch.setattr(steps_maintain, "tidy_tables", tidy)
    maintain(context, days=30)
    assert held == [False]
