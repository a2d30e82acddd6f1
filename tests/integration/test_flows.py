"""The flows on Prefect's own engine and API: what they do, what they leave in the UI, how they end when something is wrong."""

import os
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from finsent.data import tables
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.data.table_upkeep import last_maintained
from finsent.errors import CheckFailed, InputError, NoChampionError
from finsent.process_identity import this_process
from finsent.steps.context import make_context
from finsent.training.exclusive import hold_training
from finsent.workspace import Workspace
from flows.settings import FlowSettings
from tests.integration.flow_runs import artifacts, processes, rows, runs, setup_of

if TYPE_CHECKING:
    from tests.conftest import Served

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect")]


def test_ingest_reads_sources_and_reports(home: Workspace, tmp_path: Path) -> None:
    from finsent.config import Source
    from flows.ingest import ingest

    file = tmp_path / "tweets.csv"
    file.write_text("text,label\nshares rise on results,Bullish\nshares fall on results,Bearish\n,Bearish\n", encoding="utf-8")
    report = ingest((Source(uri=str(file)),), FlowSettings(home=str(home.root)))
    assert (report.read, report.accepted, report.quarantined) == (3, 2, 1)
    assert tables.version(home, "tweets") == report.version
    text = artifacts("data-report")[0].data
    assert "3 rows read = 2 accepted + 0 duplicates + 1 quarantined" in text
    assert "| empty | 1 |" in text


def test_runs_and_tasks_are_named_by_what_they_are_about(home: Workspace, tmp_path: Path) -> None:
    from finsent.config import Source
    from flows.ingest import ingest

    for name in ("desk", "street"):
        (tmp_path / f"{name}.csv").write_text(f"text,label\n{name} shares rise,Bullish\n", encoding="utf-8")
    ingest(tuple(Source(uri=str(tmp_path / f"{name}.csv")) for name in ("desk", "street")), FlowSettings(home=str(home.root)))
    assert "ingest data-v1" in runs("flow")
    expected = {
        "resolve sources",
        "read desk",
        "read street",
        "group near duplicates",
        "commit",
        "report data-v1",
        "show data-v1",
    }
    assert expected <= set(runs("task"))
    assert this_process() in processes(), "by which `finsent up` tells whether a run still lives"


def test_wrong_input_fails_at_once_with_its_own_message(home: Workspace, tmp_path: Path) -> None:
    from finsent.config import Source
    from flows.ingest import ingest, resolve_sources

    state = ingest((Source(uri=str(tmp_path / "absent.csv")),), FlowSettings(home=str(home.root)), return_state=True)
    assert state.is_failed()
    assert "there is no file" in str(state.message)
    with pytest.raises(InputError, match="there is no file"):
        state.result()
    assert resolve_sources.retries > 0, "retried for servers, not for this"
    assert tables.version(home, "tweets") is None


def test_what_has_nothing_to_do_yet_is_skipped_with_the_reason(mlflow_home: Workspace, tmp_path: Path) -> None:
    """Red means broken: a fresh home's schedules are not."""
    from flows.ingest import ingest
    from flows.maintain import maintain
    from flows.monitor import monitor
    from flows.score import score

    settings = FlowSettings(home=str(mlflow_home.root))
    ended = [flow(settings=settings, return_state=True) for flow in (ingest, score, monitor, maintain)]
    assert [(state.type.value, state.name) for state in ended] == [("COMPLETED", "Skipped")] * 4
    assert "`data.sources` of the configuration is empty" in ended[0].message
    assert all("has no champion yet: run `finsent promote`" in state.message for state in ended[1:3])
    assert ended[3].message == "Nothing to remove, compact or vacuum."
    assert {"ingest, no data so far", "score inbox with finsent", "monitor finsent"} <= set(runs("flow")), "named from the start"
    file = tmp_path / "new.csv"
    file.write_text("text\nshares rise\n", encoding="utf-8")
    with pytest.raises(NoChampionError, match="finsent promote"):  # somebody sent a file, and it was not received
        score((str(file),), settings)


def test_maintenance_shows_what_it_did_and_fails_where_a_table_is_broken(mlflow_home: Workspace) -> None:
    from flows.maintain import maintain

    backup = mlflow_home.root / "mlflow.db.before-move-20260101T000000"
    backup.touch()
    os.utime(backup, (0, 0))
    state = maintain(settings=FlowSettings(home=str(mlflow_home.root)), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Completed")
    assert f"| backup by `home move` | {backup} |" in artifacts("maintenance")[0].data
    assert not backup.exists()
    table = Path(location(mlflow_home, "inbox"))
    table.mkdir(parents=True)
    (table / "part-0.parquet").touch()
    state = maintain(inbox_days=30, settings=FlowSettings(home=str(mlflow_home.root)), return_state=True)
    assert (state.type.value, state.name) == ("FAILED", "Not all maintained")
    assert "table 'inbox': " in str(state.message)
    assert "half of it is gone" in artifacts("maintenance")[0].data
    assert set(last_maintained(mlflow_home)) == set(SCHEMAS)


@pytest.mark.usefixtures("proof_in_process")
def test_retraining_runs_the_chain_and_a_refusal_is_a_completed_run(served: "Served") -> None:
    """The challenger is as small as the champion, so the gate refuses it: a decision, not a crash."""
    from flows.retrain import RetrainResult, retrain

    state = retrain(settings=setup_of(served), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Refused")
    result = state.result()
    assert isinstance(result, RetrainResult)
    assert state.message == " ".join(result.promotion.reasons)
    assert result.data is None, "no source is configured, so the data there is trained on"
    assert result.promotion.decision == "refused"
    assert result.promotion.champion_after == served.version
    assert result.evaluation.evidence.champion_compared
    decision = artifacts("gate-decision")[0]
    assert decision.data.startswith(f"# Version {result.training.model_version} of finsent was refused")
    assert f"Version {served.version} stays champion." in decision.data
    assert {row["score"] for row in rows(artifacts("metrics")[0])} == {"accuracy", "macro_f1", "mcc", "ece", "brier"}
    assert any(row["figure"] == "optimizer steps" for row in rows(artifacts("training")[0]))
    assert "mlflow ui" in artifacts("mlflow-run")[0].data
    names = runs("flow")
    version = result.training.model_version
    assert {
        f"retrain finsent nano: version {version}",
        "train finsent nano data-v1",
        f"evaluate version {version} of finsent data-v1",
        f"promote version {version} of finsent",
    } <= set(names)
    tasks = set(runs("task"))
    assert {"fit nano data-v1", "calibrate nano data-v1", "register nano data-v1"} <= tasks
    assert {f"judge version {version}", f"record decision on version {version}", f"move alias for version {version}"} <= tasks
    tags = make_context(served.config, served.home).registry.client.get_run(result.training.run_id).data.tags
    assert tags["prefect.flow_run_name"] in names
    assert tags["process"] == this_process()


def test_a_failed_round_trip_fails_the_evaluation_with_its_own_error(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import contextmanager

    from flows import evaluate as module

    @contextmanager
    def failing(*_: Any) -> Iterator[Any]:
        def check() -> None:
            raise CheckFailed("a new process cannot load it")

        yield check

    monkeypatch.setattr(module.step, "start_round_trip", failing)
    with pytest.raises(CheckFailed, match="a new process cannot load it"):
        module.evaluate(served.version, settings=setup_of(served))


def test_a_server_that_cannot_name_a_run_loses_no_work(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client import orchestration

    from flows.score import score

    class Unwilling(orchestration.SyncPrefectClient):
        def update_flow_run(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("away")

    real = orchestration.get_client
    monkeypatch.setattr(
        orchestration, "get_client", lambda **named: Unwilling(real(sync_client=True).api_url) if named else real()
    )
    assert score(settings=setup_of(served)).model_version == served.version


def test_retraining_without_data_is_skipped_by_schedule(mlflow_home: Workspace) -> None:
    from flows.retrain import retrain

    state = retrain(only_if_due=True, settings=FlowSettings(home=str(mlflow_home.root)), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Skipped")


def test_a_registry_that_is_away_does_not_train_twice(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.errors import ServiceError
    from finsent.registry.client import Registry
    from finsent.training import trainer
    from flows import train as module

    fits: list[None] = []
    real_train, real_register = trainer.train, Registry.register

    def counted(*given: Any, **named: Any) -> Any:
        fits.append(None)
        return real_train(*given, **named)

    def away(self: Registry, *given: Any, **named: Any) -> str:
        monkeypatch.setattr(Registry, "register", real_register)
        raise ServiceError("the MLflow server does not answer")

    monkeypatch.setattr(trainer, "train", counted)
    monkeypatch.setattr(Registry, "register", away)
    monkeypatch.setattr(module, "register_version", module.register_version.with_options(retry_delay_seconds=0))
    config = setup_of(served).model_copy(update={"overrides": (*setup_of(served).overrides, "recipe.seed=77")})
    result = module.train(settings=config)
    assert len(fits) == 1
    assert result.model_version == make_context(served.config, served.home).registry.latest_version()


def test_a_scheduled_retraining_with_nothing_new_is_skipped_with_the_reason(served: "Served") -> None:
    from flows.retrain import retrain

    state = retrain(only_if_due=True, settings=setup_of(served), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Skipped")
    assert "No new labelled data" in str(state.message)


def test_trainings_hold_the_gpus_one_place(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.client.orchestration import get_client

    from finsent.cli.provision import require_training_limit
    from flows import train, tune
    from flows.gpu import TRAINING_LIMIT, require_free_place, training_place

    def taken() -> int:
        with get_client(sync_client=True) as client:
            require_training_limit(client)
            return client.read_global_concurrency_limit_by_name(TRAINING_LIMIT).active_slots

    seen: list[int] = []

    def working(*_: Any, **__: Any) -> None:
        seen.append(taken())
        raise InputError("far enough")

    assert taken() == 0
    monkeypatch.setattr(train.step, "fit", working)
    monkeypatch.setattr(tune.step, "tune", working)
    for flow in (train.train, tune.tune):
        with pytest.raises(InputError, match="far enough"):
            flow(settings=setup_of(served))
    assert seen == [1, 1]
    assert taken() == 0, "given back after a failure, too"

    waiting = Thread(target=lambda: seen.append(_enter(training_place(served.home, "waits"))))
    require_free_place()
    with training_place(served.home, "works"):
        with pytest.raises(CheckFailed, match="another training holds the GPU"):
            require_free_place()
        waiting.start()
        waiting.join(2.0)
        assert waiting.is_alive(), "the place is taken"
    waiting.join(60.0)
    assert len(seen) == 3


def _enter(place: Any) -> int:
    with place:
        return 1


def test_a_training_whose_run_was_ended_meanwhile_registers_nothing(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a freeze: the server has given the run up, and its process goes on with the next step."""
    from prefect.client.orchestration import get_client
    from prefect.runtime import flow_run
    from prefect.states import Crashed

    from finsent.errors import RunEnded
    from finsent.training import trainer
    from flows import fence, train

    registry = make_context(served.config, served.home).registry
    before, steps = registry.latest_version(), []

    def loop(*arguments: Any) -> None:
        for step in range(1, 4):
            arguments[5](step, {"loss": 1.0})
            steps.append(step)
            with get_client(sync_client=True) as client:
                client.set_flow_run_state(flow_run.id, Crashed(message="heartbeat lost"), force=True)

    monkeypatch.setattr(fence, "_EVERY", 0)
    monkeypatch.setattr(trainer, "train", loop)
    with pytest.raises(RunEnded, match=r"'train finsent nano data-v\d+' is Crashed \(heartbeat lost\): this process"):
        train.train(
            settings=FlowSettings(
                profile="nano", overrides=(*setup_of(served).overrides, "recipe.seed=77"), home=str(served.home.root)
            )
        )
    assert steps == [1]
    assert registry.latest_version() == before
    (newest, *_) = registry.client.search_runs([registry.client.get_experiment_by_name("finsent").experiment_id])
    assert newest.info.status == "KILLED"


def test_a_training_that_waited_too_long_is_skipped(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from flows import gpu, retrain

    monkeypatch.setattr(gpu, "started_by_itself", lambda: True)
    monkeypatch.setattr(gpu, "_LONGEST_WAIT", 0.0)
    seen: list[Any] = []
    retrained = Thread(target=lambda: seen.append(retrain.retrain(settings=setup_of(served), return_state=True)))
    with hold_training(served.home, "a search"):
        retrained.start()
        retrained.join(120.0)
    assert (seen[0].type.value, seen[0].name) == ("COMPLETED", "Skipped")
    assert "another training is at work in this home. Process" in seen[0].message
    assert "(a search) has held it since" in seen[0].message


def test_scoring_and_monitoring(served: "Served", tmp_path: Path) -> None:
    from flows.monitor import monitor
    from flows.score import score

    score(settings=setup_of(served))  # what tests of other files left waiting in the home that they share
    file = tmp_path / "inbox.csv"
    file.write_text("text\nflows score firm one\nflows score firm two\n", encoding="utf-8")
    report = score((str(file),), setup_of(served))
    assert (report.received, report.scored, report.model_version) == (2, 2, served.version)
    assert f"# 2 tweets scored by version {served.version}" in artifacts("predictions")[0].data
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "new.csv").write_text("text\nflows score firm three\n", encoding="utf-8")
    (folder / "cut.csv.gz").write_bytes(b"\x1f\x8b")
    given = (*setup_of(served).overrides, f"scoring.sources=[{{uri: {folder}}}]", "scoring.settle_seconds=0")
    state = score(settings=setup_of(served).model_copy(update={"overrides": given}), return_state=True)
    assert (state.is_completed(), state.name) == (True, "Not all read")
    assert "cut.csv.gz' is set aside" in state.message
    assert (state.result().received, state.result().scored) == (1, 1), "the good file is scored"
    shown = artifacts("predictions")[0].data
    assert "## Not read: 1" in shown
    assert "cut.csv.gz" in shown
    again = score(settings=setup_of(served), return_state=True)
    assert (again.type.value, again.name, again.result().scored) == ("COMPLETED", "Skipped", 0), "nothing was waiting"
    decision = monitor(setup_of(served))
    assert artifacts("drift")[0].data.startswith(f"# Decision: {decision.decision}")


def test_a_promotion_is_announced_even_where_its_report_fails(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.registry.promotion import PromotionResult
    from flows import promote as module

    said: list[tuple[str, str, str | None]] = []
    promoted = PromotionResult("7", "promoted", ("better",), (), "6", "7")
    monkeypatch.setattr(module.step, "judge", lambda *_: None)
    monkeypatch.setattr(module.step, "record", lambda *_: None)
    monkeypatch.setattr(module.step, "move_alias", lambda *_: promoted)
    monkeypatch.setattr(module, "emit_promoted", lambda *event: said.append(event))
    monkeypatch.setattr(module, "create_markdown_artifact", lambda *_, **__: 1 / 0)
    assert module.promote("7", settings=setup_of(served)).decision == "promoted"
    assert said == [("finsent", "7", "6")]


def test_a_wish_to_retrain_is_announced(served: "Served", monkeypatch: pytest.MonkeyPatch) -> None:
    from finsent.steps.monitor import BatchDrift, MonitorReport
    from flows import monitor as module

    said: list[tuple[str, list[str]]] = []
    report = MonitorReport("7", (), {"class_mix": 0.4}, "retrain", ("drifted",))
    monkeypatch.setattr(module.step, "compare_batches", lambda *_: BatchDrift("7", ()))
    monkeypatch.setattr(module.step, "decide", lambda *_: report)
    monkeypatch.setattr(module, "emit_retrain_requested", lambda *event: said.append(event))
    module.monitor(setup_of(served))
    assert said == [("finsent", ["drifted"])]
