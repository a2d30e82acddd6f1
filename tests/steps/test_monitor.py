"""Monitoring and the decision to retrain, on real Delta tables and a real registry."""

import dataclasses
import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from finsent.config import load_config
from finsent.data import tables
from finsent.data.dataset import fingerprint_table
from finsent.errors import NoChampionError
from finsent.labels import LABELS
from finsent.monitoring.retrain_inputs import undecided_version
from finsent.registry import audit_log
from finsent.registry.audit_mirror import append_entry
from finsent.registry.client import Registry
from finsent.registry.tracking import connect
from finsent.steps.context import make_context
from finsent.steps.monitor import BatchDrift, check_due, decide, monitor
from tests.champions import crown

START = datetime(2025, 3, 1, tzinfo=UTC)
USUAL = (0.3, 0.45, 0.25)
CONFIG = load_config(overrides=["monitor.cooldown_hours=0", "monitor.min_new_labels=500"])


def put(home, name, columns):
    schema = tables.SCHEMAS[name]
    rows = len(next(iter(columns.values())))
    filled = {field.name: columns.get(field.name, [None] * rows) for field in schema}
    return tables.append(home, name, pa.table(filled, schema=schema))


def add_labels(home, rows, prefix, *, split="train", mix=USUAL, seed=0):
    """Labelled rows whose texts are 20 to 120 characters long; returns the table's version."""
    rng = np.random.default_rng(seed)
    return put(
        home,
        "tweets",
        {
            "id": [f"{prefix}{number}" for number in range(rows)],
            "text": ["x" * int(length) for length in rng.integers(20, 120, rows)],
            "label": list(rng.choice(LABELS, rows, p=mix)),
            "source": ["planted"] * rows,
            "group": [f"{prefix}{number}" for number in range(rows)],
            "split": [split] * rows,
            "ingested_at": [START] * rows,
        },
    )


def add_batch(home, day, *, rows=800, version="1", mix=USUAL, longest=120, confidence=(8, 2)):
    """One scoring run of `rows` tweets."""
    rng = np.random.default_rng(day + 100)
    ids = [f"inbox-{version}-{day}-{number}" for number in range(rows)]
    when = [START + timedelta(days=day)] * rows
    put(home, "inbox", {"id": ids, "text": ["x" * int(n) for n in rng.integers(20, longest, rows)], "received_at": when})
    columns = {
        "id": ids,
        "text_hash": ids,
        "label": list(rng.choice(LABELS, rows, p=mix)),
        "confidence": list(rng.beta(*confidence, rows)),
        "abstained": [False] * rows,
        "model_name": ["finsent"] * rows,
        "model_version": [version] * rows,
        "run_id": [f"run-{day}"] * rows,
        "scored_at": when,
        "model_digest": [f"digest-{version}"] * rows,
    }
    put(home, "predictions", {**dict.fromkeys(("p_neutral", "p_bullish", "p_bearish"), [1 / 3] * rows), **columns})


def register(home, data_version, *, champion=True):
    """A version in the registry, without artifacts."""
    client = connect(home)
    if not client.search_registered_models():
        client.create_registered_model("finsent")
    made = client.create_model_version("finsent", source=str(home.root / "nothing"), tags={"data_version": str(data_version)})
    client.set_model_version_tag("finsent", made.version, "manifest_sha256", f"digest-{made.version}")
    if champion:
        registry = Registry(home, "finsent")
        crown(registry, str(made.version), registry.champion())
    return str(made.version)


@pytest.fixture
def served(mlflow_home):
    """A home with 2,000 labelled rows, and a champion trained on them."""
    register(mlflow_home, add_labels(mlflow_home, 2000, "label-"))
    return mlflow_home


def test_without_a_champion_there_is_nothing_to_monitor(mlflow_home):
    with pytest.raises(NoChampionError, match="has no champion yet"):
        monitor(make_context(CONFIG, mlflow_home))


def test_a_champion_that_has_scored_nothing_has_no_windows(served):
    report = monitor(make_context(CONFIG, served))
    assert (report.windows, report.drift, report.decision) == ((), {}, "skip")
    assert "No new labelled data" in report.reasons[0]


def test_batches_like_the_training_data_have_not_drifted(served):
    for day in range(3):
        add_batch(served, day)
    report = monitor(make_context(CONFIG, served))
    assert [window.run_id for window in report.windows] == ["run-0", "run-1", "run-2"]
    assert [window.rows for window in report.windows] == [800, 800, 800]
    assert not any(window.drifted for window in report.windows)
    assert set(report.drift) == {"class_mix", "length", "class_mix_since_first", "confidence"}
    assert max(report.drift.values()) < 0.1
    assert set(report.windows[0].psi) == {"class_mix", "length"}, "the first batch has nothing before it"
    assert report.windows[2].scored_at == START + timedelta(days=2)


@pytest.mark.parametrize(
    ("change", "features"),
    [
        ({"mix": (0.8, 0.1, 0.1)}, {"class_mix", "class_mix_since_first"}),
        ({"longest": 40}, {"length"}),
        ({"confidence": (3, 3)}, {"confidence"}),
    ],
)
def test_each_feature_sees_its_own_drift(served, change, features):
    add_batch(served, 0)
    add_batch(served, 1, **change)
    report = monitor(make_context(CONFIG, served))
    assert [window.drifted for window in report.windows] == [False, True]
    assert {feature for feature, psi in report.drift.items() if psi > CONFIG.monitor.psi_threshold} == features
    assert all(report.windows[1].p_values[feature] < 0.01 for feature in features)


def test_drift_in_two_of_five_batches_and_a_new_label_call_for_retraining(served):
    for day in range(7):
        add_batch(served, day, mix=(0.8, 0.1, 0.1) if day in {0, 1, 4, 6} else USUAL)
    assert monitor(make_context(CONFIG, served)).decision == "skip"
    add_labels(served, 1, "new-")
    report = monitor(make_context(CONFIG, served))
    assert [window.run_id for window in report.windows] == [f"run-{day}" for day in range(2, 7)]
    assert report.decision == "retrain"
    assert "batches drifted (2 call for retraining)" in report.reasons[0]


def test_batches_of_former_champions_are_left_alone(served):
    add_batch(served, 0, version="1", mix=(1.0, 0.0, 0.0))
    register(served, tables.version(served, "tweets"))
    add_batch(served, 1, version="2")
    report = monitor(make_context(CONFIG, served))
    assert report.model_version == "2"
    assert [window.run_id for window in report.windows] == ["run-1"]
    assert not report.windows[0].drifted


def test_test_rows_are_no_reference(served):
    register(served, add_labels(served, 4000, "test-", split="test", mix=(0.0, 0.0, 1.0)))
    add_batch(served, 0, version="2")
    assert not monitor(make_context(CONFIG, served)).windows[0].drifted


def test_the_reference_is_the_data_the_champion_saw_and_not_what_came_later(served):
    add_labels(served, 8000, "later-", mix=(0.0, 0.0, 1.0))
    add_batch(served, 0)
    assert not monitor(make_context(CONFIG, served)).windows[0].drifted


def test_texts_that_left_the_inbox_leave_the_length_out(served):
    add_batch(served, 0)
    gone = dataclasses.replace(served, tables_url=str(served.root / "elsewhere"))
    for name in ("predictions", "tweets"):
        tables.append(gone, name, tables.read(served, name))
    assert set(monitor(make_context(CONFIG, gone)).drift) == {"class_mix"}


def test_monitoring_writes_nothing(served):
    add_batch(served, 0)
    before = {name: tables.version(served, name) for name in ("tweets", "inbox", "predictions")}
    report = monitor(make_context(CONFIG, served))
    assert {name: tables.version(served, name) for name in before} == before
    assert json.loads(json.dumps(dataclasses.asdict(report), default=str))["model_version"] == "1"


def test_new_labels_are_counted_since_the_latest_training(served):
    assert "No new labelled data" in decide(make_context(CONFIG, served), BatchDrift("1", ())).reasons[0]
    version = add_labels(served, 600, "new-")
    decision = decide(make_context(CONFIG, served), BatchDrift("1", ()))
    assert decision.decision == "retrain"
    assert decision.reasons == ("600 rows newly labelled, corrected or dropped (500 call for retraining).",)
    register(served, version, champion=False)  # a challenger was trained on them, promoted or not
    assert decide(make_context(CONFIG, served), BatchDrift("1", ())).decision == "skip"


def test_corrected_and_dropped_labels_are_new_data(served):
    rows = tables.read(served, "tweets", columns=["id", "label"]).slice(0, 600)
    other = [LABELS[(LABELS.index(label) + 1) % 3] for label in rows["label"].to_pylist()]
    changes = pa.table({"id": rows["id"], "label": other, "removed": [True] * 10 + [False] * 590})
    assert tables.update_rows(served, "tweets", changes, "review", tables.position(served, "tweets", "review"))
    decision = decide(make_context(CONFIG, served), BatchDrift("1", ()))
    assert decision.decision == "retrain"
    assert decision.reasons == ("600 rows newly labelled, corrected or dropped (500 call for retraining).",)


def test_a_table_begun_anew_has_other_data_under_the_same_version(served):
    registry = Registry(served, "finsent")
    registry.set_tags("1", {"data_fingerprint": fingerprint_table(served)})
    add_batch(served, 0)
    assert "No new labelled data" in monitor(make_context(CONFIG, served)).reasons[0]
    before = tables.version(served, "tweets")
    shutil.rmtree(tables.location(served, "tweets"))
    assert add_labels(served, 700, "other-") == before
    report = monitor(make_context(CONFIG, served))
    assert (report.decision, report.drift) == ("retrain", {})
    assert "700 rows newly labelled" in report.reasons[0]


def test_a_decision_on_another_version_of_the_same_number_leaves_this_one_undecided(served):
    register(served, 1, champion=False)
    registry = Registry(served, "finsent")
    registry.set_tags("2", {"trained_by": "retrain"})
    gate = {"action": audit_log.GATE, "decision": "refuse", "champion": "1", "reasons": []}

    def found():
        return undecided_version(registry, served, "digest", retraining_is_due=False)

    append_entry(registry, "2", {**gate, "manifest_sha256": "of a registry that was lost"})
    assert found() == "2"
    append_entry(registry, "2", {**gate, "manifest_sha256": "digest-2"})
    assert found() is None


@pytest.mark.parametrize("removed", ["log entries", "files"])
def test_a_data_version_that_can_no_longer_be_read_leaves_out_what_needs_it(served, removed, caplog):
    """As in homes of 0.1 whose log was cleaned up before the first write of a later release stopped that."""
    from deltalake import DeltaTable

    add_batch(served, 0)
    add_batch(served, 1)
    add_labels(served, 600, "new-")
    if removed == "files":
        table = DeltaTable(tables.location(served, "tweets"))
        table.optimize.compact()
        table.vacuum(retention_hours=0, enforce_retention_duration=False, dry_run=False)
    else:
        add_labels(served, 1, "newest-")
        table = DeltaTable(tables.location(served, "tweets"))
        table.create_checkpoint()
        for commit in range(table.version()):
            (served.root / "tables" / "tweets" / "_delta_log" / f"{commit:020}.json").unlink()
    context = make_context(CONFIG, served)
    report = monitor(context)
    assert report.drift.keys() == {"class_mix_since_first", "confidence"}
    assert "2,60" in report.reasons[0], "every row counts as new"
    assert check_due(context).decision == "retrain"
    assert "can no longer be" in caplog.text
    register(served, tables.version(served, "tweets"), champion=False)
    assert "No new labelled data" in decide(context, BatchDrift("1", ())).reasons[0]


def test_cooldown_counts_from_the_latest_training(served):
    add_labels(served, 600, "new-")
    config = load_config(overrides=["monitor.cooldown_hours=24"])
    decision = decide(make_context(config, served), BatchDrift("1", ()))
    assert decision.decision == "skip"
    assert "Cooling down: trained 0.0 h ago" in decision.reasons[0]


def test_a_version_registered_by_a_clock_far_ahead_does_not_stop_retraining(served, caplog):
    with sqlite3.connect(served.root / "mlflow.db") as store:
        store.execute("update model_versions set creation_time = creation_time + 315360000000")  # ten years
    add_labels(served, 600, "new-")
    config = load_config(overrides=["monitor.cooldown_hours=24"])
    assert decide(make_context(config, served), BatchDrift("1", ())).decision == "retrain"
    assert "was registered 87600.0 h in the future by this machine's clock" in caplog.text


@pytest.mark.parametrize("noted", ["None", "99"])
def test_a_version_trained_on_data_unknown_here_has_seen_none_of_it(mlflow_home, noted):
    add_labels(mlflow_home, 700, "label-")
    register(mlflow_home, noted)
    assert "700 rows newly labelled" in decide(make_context(CONFIG, mlflow_home), BatchDrift("1", ())).reasons[0]
    add_batch(mlflow_home, 0)
    assert monitor(make_context(CONFIG, mlflow_home)).drift == {}


def test_without_any_version_the_first_labels_are_reason_enough(mlflow_home):
    assert check_due(make_context(CONFIG, mlflow_home)).decision == "skip"
    add_labels(mlflow_home, 600, "label-")
    assert decide(make_context(CONFIG, mlflow_home), BatchDrift("1", ())).decision == "retrain"
