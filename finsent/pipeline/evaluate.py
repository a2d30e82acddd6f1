"""The evaluation step: everything that the gate will want to know of a version, measured on a fresh load and written down."""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config, Source
from finsent.errors import InputError
from finsent.evaluation.evidence import Evidence
from finsent.home import Home
from finsent.labels import LABELS

if TYPE_CHECKING:
    from finsent.data.dataset import DataVersion, Split
    from finsent.evaluation.evidence import NaiveSplitRecord
    from finsent.model.adapter import Loaded
    from finsent.model.manifest import Manifest
    from finsent.pipeline.lineage import KnownLeaks

Labels = NDArray[np.int64]
_TRAINING_ROWS = 500  # scored to estimate the accuracy on training rows: within about 4 points, and little work
EVIDENCE_FOLDER = "evaluation"
"""Where evidence, predictions, plots and report lie among the training run's artifacts."""


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured."""

    run_id: str
    """MLflow run that holds the artifacts."""
    model_version: str
    evidence: Evidence
    seconds: float
    rows_per_second: float
    """Rows through the model, tokenising included."""
    data: str | None = None
    """File that was scored instead of the test split."""
    n_in_training: int | None = None
    """Rows of that file whose text is in this home's training split: on those the model may have been trained."""


def evaluate(config: Config, home: Home, *, version: str | None = None, data: Source | None = None) -> EvaluationResult:
    """Measure a version (the newest by default) on the held-out test split, beside the floors and the champion on the same rows.

    With `data`, a labelled file is scored instead: for the record, in a run of its own; such figures are no evidence.

    Raises:
        InputError: no such version, no data, or the file cannot be read.
        ArtifactError: the version is not what was registered.
        Refused: a new process cannot load the version from the registry.
    """
    from finsent.registry.versions import latest_version

    name = config.registered_model
    version = version or latest_version(home, name)
    return _on_file(config, home, version, data) if data is not None else _on_test_split(config, home, version)


def _on_test_split(config: Config, home: Home, version: str) -> EvaluationResult:
    from finsent.data.dataset import data_version, load_split
    from finsent.model.base import free_earlier_models
    from finsent.pipeline.lineage import known_leaks
    from finsent.pipeline.opening import open_version
    from finsent.registry.roundtrip import prove
    from finsent.registry.tracking import connect
    from finsent.registry.versions import champion, get_version

    started, name = time.perf_counter(), config.registered_model
    facts = data_version(home)
    test, rows = load_split(home, "test", facts.version), load_split(home, "train", facts.version)
    if not test.texts:
        raise InputError(f"data version {facts.version} has no test rows. Ingest more.")
    loaded = open_version(config, home, version, rows=len(test.texts))
    logits, seconds = _score(config, loaded, test.texts)
    manifest, scored_with = loaded.manifest, f"{loaded.engine}, {loaded.precision}"
    leaks = known_leaks(home, manifest, facts)
    naive = None
    if leaks.pairs is not None and facts.naive_leak is not None:
        held_out = float((logits.argmax(axis=1) == test.labels).mean())
        naive = _naive_split(config, home, loaded, held_out, facts.naive_leak)
    del loaded  # the champion and the proof need its memory
    incumbent = champion(home, name)
    rival = _logits(config, home, incumbent, test.texts)[0].argmax(axis=1) if incumbent not in {None, version} else None
    free_earlier_models()
    evidence = gather(
        config,
        name,
        version,
        facts,
        test,
        rows,
        logits,
        manifest.temperature,
        leaks=leaks,
        incumbent=incumbent,
        rival=rival,
        round_trip=prove(home, name, version),
    )
    evidence = evidence.model_copy(update={"naive_split": naive, "scored_with": scored_with})
    client = connect(home)
    record = get_version(client, name, version)
    _keep(config, home, client, record.run_id, evidence, test, logits, rival)
    return EvaluationResult(record.run_id, version, evidence, time.perf_counter() - started, len(test.texts) / seconds)


def gather(
    config: Config,
    name: str,
    version: str,
    facts: "DataVersion",
    test: "Split",
    rows: "Split",
    logits: NDArray[np.float32],
    temperature: float,
    *,
    leaks: "KnownLeaks",
    incumbent: str | None,
    rival: Labels | None,
    round_trip: Any,
) -> Evidence:
    """Evidence from logits [test rows, 3]: scores, intervals, floors, calibration and, against a champion, paired tests."""
    from finsent.evaluation.baseline import majority, source_majority, tfidf_predictions
    from finsent.evaluation.calibration import expected_calibration_error
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.statistics import bootstrap, mcnemar
    from finsent.model.engine import probabilities

    own = logits.argmax(axis=1)
    resamples = config.gate.bootstrap_resamples
    metrics = compute_metrics(test.labels, own)
    floor = tfidf_predictions(rows.texts, rows.labels, test.texts)
    floor_metrics = compute_metrics(test.labels, floor)
    baseline = {
        "accuracy": floor_metrics.accuracy,
        "macro_f1": floor_metrics.macro_f1,
        "mcc": floor_metrics.mcc,
        "mcnemar": mcnemar(test.labels, own, floor, test.groups),
        "majority_accuracy": float((majority(rows.labels, len(test.texts)) == test.labels).mean()),
        "source_majority_accuracy": float((source_majority(rows.labels, rows.sources, test.sources) == test.labels).mean()),
    }
    return Evidence.model_validate(
        {
            "model_name": name,
            "model_version": version,
            "data_version": facts.version,
            "data_fingerprint": facts.fingerprint,
            "n_test": len(test.texts),
            "metrics": metrics,
            "intervals": bootstrap(test.labels, own, test.groups, resamples),
            "per_source": _per_source(test, own, floor, rival),
            "ece": expected_calibration_error(probabilities(logits, temperature), test.labels),
            "temperature": temperature,
            "leaks": leaks.pairs,
            "leaks_unknown_because": leaks.unknown_because,
            "baseline": baseline,
            "champion_version": incumbent,
            "champion_compared": rival is not None,
            "champion": _against(test, own, rival, resamples) if rival is not None else None,
            "round_trip": round_trip,
        }
    )


def _against(test: "Split", own: Labels, rival: Labels, resamples: int) -> dict[str, Any]:
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.statistics import mcnemar, paired_bootstrap

    return {
        "metrics": compute_metrics(test.labels, rival),
        "mcnemar": mcnemar(test.labels, own, rival, test.groups),
        "paired_bootstrap": paired_bootstrap(test.labels, own, rival, test.groups, resamples),
    }


def _per_source(test: "Split", own: Labels, floor: Labels, rival: Labels | None) -> dict[str, Any]:
    from finsent.evaluation.metrics import compute_metrics

    table: dict[str, Any] = {}
    sources = np.asarray(test.sources)
    for source in sorted(set(test.sources)):
        chosen = sources == source
        truth = test.labels[chosen]
        metrics = compute_metrics(truth, own[chosen])
        table[source] = {
            "n": metrics.n,
            "accuracy": metrics.accuracy,
            "macro_f1": metrics.macro_f1,
            "baseline_accuracy": float((floor[chosen] == truth).mean()),
        }
        if rival is not None:
            table[source]["champion_accuracy"] = float((rival[chosen] == truth).mean())
    return table


def _naive_split(config: Config, home: Home, loaded: "Loaded", held_out: float, leak: float) -> "NaiveSplitRecord | None":
    """What a random split would have claimed, from a fixed sample of the rows trained on; None if none of those is here."""
    from finsent.data.dataset import load_split
    from finsent.evaluation.naive_split import naive_split_claim

    trained = load_split(home, "train", loaded.manifest.data_version)  # not rows that came later: those it never saw
    chosen = np.random.default_rng(0).permutation(len(trained.texts))[:_TRAINING_ROWS]
    if not len(chosen):
        return None
    logits, _ = _score(config, loaded, [trained.texts[row] for row in chosen])
    training = float((logits.argmax(axis=1) == trained.labels[chosen]).mean())
    return naive_split_claim(held_out, training, len(chosen), leak)


def _logits(config: Config, home: Home, version: str, texts: Sequence[str]) -> tuple[NDArray[np.float32], "Manifest", float]:
    """Logits of a fresh load of the version, its manifest, and the seconds that scoring took."""
    from finsent.pipeline.opening import open_version

    loaded = open_version(config, home, version, rows=len(texts))
    logits, seconds = _score(config, loaded, texts)
    return logits, loaded.manifest, seconds


def _score(config: Config, loaded: "Loaded", texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    """Logits [texts, 3], and the seconds that they took."""
    from finsent.model.engine import predict_logits

    started = time.perf_counter()
    logits = predict_logits(loaded, texts, token_budget=config.scoring.token_budget, progress=True)
    return logits, time.perf_counter() - started


def _keep(
    config: Config,
    home: Home,
    client: Any,
    run_id: str,
    evidence: Evidence,
    test: "Split",
    logits: NDArray[np.float32],
    rival: Labels | None,
) -> None:
    """Artifacts on the training run, metrics on the LoggedModel with the dataset; the tag that says so comes last."""
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.plots import confusion_plot, per_source_plot, reliability_plot
    from finsent.evaluation.report import write_report
    from finsent.model.engine import probabilities
    from finsent.registry.tracking import log_dataset
    from finsent.registry.versions import log_model_metrics, set_tags

    assert evidence.metrics is not None, "gathered above"  # noqa: S101 - tells the type checker
    assert evidence.temperature is not None, "gathered above"  # noqa: S101
    scaled = probabilities(logits, evidence.temperature)
    with tempfile.TemporaryDirectory(prefix="finsent-evaluation-") as scratch:
        folder = Path(scratch)
        plots = {
            "Confusion matrix": folder / "confusion.png",
            "Reliability after temperature scaling": folder / "reliability.png",
            "Accuracy by source": folder / "per_source.png",
        }
        confusion_plot(compute_metrics(test.labels, logits.argmax(axis=1)), plots["Confusion matrix"])
        reliability_plot(scaled, test.labels, plots["Reliability after temperature scaling"])
        per_source_plot(evidence.per_source or {}, plots["Accuracy by source"])
        write_report(evidence, plots, folder / "report.html")
        _write_predictions(folder / "predictions.parquet", test, scaled, rival)
        (folder / "evidence.json").write_text(evidence.model_dump_json(indent=2), encoding="utf-8")
        client.log_artifacts(run_id, str(folder), EVIDENCE_FOLDER)
    dataset = log_dataset(
        client,
        run_id,
        home,
        table="tweets",
        version=evidence.data_version or 0,
        fingerprint=evidence.data_fingerprint or "",
        context="evaluation",
        split="test",
        rows=evidence.n_test,
    )
    log_model_metrics(client, evidence.model_name, evidence.model_version, _scalars(evidence), run_id=run_id, dataset=dataset)
    tags = {
        "evaluation_run": run_id,
        "accuracy": f"{evidence.metrics['accuracy']:.4f}",
        "macro_f1": f"{evidence.metrics['macro_f1']:.4f}",
    }
    set_tags(client, config.registered_model, evidence.model_version, tags)
    client.update_model_version(config.registered_model, evidence.model_version, description=_summary(evidence))


def _summary(evidence: Evidence) -> str:
    """What the registry's page says of a version: its scores beside the floor's and the champion's, and where the rest is."""
    from finsent.evaluation.naive_split import claim_in_words

    metrics, interval, floor = evidence.metrics, (evidence.intervals or {}).get("accuracy"), evidence.baseline
    assert metrics is not None, "gathered above"  # noqa: S101 - tells the type checker
    around = f" (95 % interval {interval['low']:.3f} to {interval['high']:.3f})" if interval else ""
    lines = [
        f"Accuracy **{metrics['accuracy']:.3f}**{around}, macro-F1 {metrics['macro_f1']:.3f} on {metrics['n']:,} held-out tweets."
    ]
    if floor:
        lines.append(f"TF-IDF floor on the same rows: {floor['accuracy']:.3f}.")
    if evidence.champion:
        lines.append(
            f"Champion, version {evidence.champion_version}, on the same rows: {evidence.champion['metrics']['accuracy']:.3f}."
        )
    if evidence.naive_split:
        lines.append(claim_in_words(evidence.naive_split))
    found = evidence.leaks_unknown_because or f"{evidence.leaks} leaks across splits."
    lines.append(f"Data version {evidence.data_version}. {found}")
    return " ".join(lines) + f"\n\nReport and evidence: artifacts of the source run, folder `{EVIDENCE_FOLDER}`."


def _write_predictions(path: Path, test: "Split", scaled: NDArray[np.float64], rival: Labels | None) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": test.ids,
        "source": test.sources,
        "label": [LABELS[i] for i in test.labels],
        "prediction": [LABELS[i] for i in scaled.argmax(axis=1)],
        **{f"p_{label.lower()}": scaled[:, i] for i, label in enumerate(LABELS)},
    }
    if rival is not None:
        columns["champion_prediction"] = [LABELS[i] for i in rival]
    pq.write_table(pa.table(columns), path)


def _scalars(evidence: Evidence) -> dict[str, float]:
    """The evidence's figures as MLflow metrics."""
    metrics, intervals = evidence.metrics, evidence.intervals or {}
    flat: dict[str, float | None] = {f"test_{key}": metrics[key] for key in ("accuracy", "macro_f1", "mcc")} if metrics else {}
    for label, scores in (metrics["per_class"] if metrics else {}).items():
        flat[f"test_f1_{label.lower()}"] = scores["f1"]
    for key, interval in intervals.items():
        flat |= {f"test_{key}_low": interval["low"], f"test_{key}_high": interval["high"]}
    flat |= {"test_ece": evidence.ece, "test_leaks": evidence.leaks, "test_rows": evidence.n_test}
    if evidence.baseline:
        flat |= {"tfidf_accuracy": evidence.baseline["accuracy"], "tfidf_macro_f1": evidence.baseline["macro_f1"]}
    if evidence.naive_split:
        naive = evidence.naive_split
        flat |= {"naive_split_accuracy": naive["claimed_accuracy"], "training_accuracy": naive["training_accuracy"]}
    if evidence.champion:
        flat |= {f"champion_{key}": evidence.champion["metrics"][key] for key in ("accuracy", "macro_f1")}
    return {key: float(value) for key, value in flat.items() if value is not None}


def _on_file(config: Config, home: Home, version: str, source: Source) -> EvaluationResult:
    from finsent.data.labelled import load_labelled
    from finsent.evaluation.calibration import expected_calibration_error
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.statistics import bootstrap
    from finsent.model.engine import probabilities
    from finsent.registry.tracking import connect, start_run

    started = time.perf_counter()
    rows = load_labelled(config, source)
    logits, manifest, seconds = _logits(config, home, version, rows.texts)
    own = logits.argmax(axis=1)
    evidence = Evidence.model_validate(
        {
            "model_name": config.registered_model,
            "model_version": version,
            "n_test": len(rows.texts),
            "metrics": compute_metrics(rows.labels, own),
            "intervals": bootstrap(rows.labels, own, rows.groups, config.gate.bootstrap_resamples),
            "ece": expected_calibration_error(probabilities(logits, manifest.temperature), rows.labels),
            "temperature": manifest.temperature,
        }
    )
    tags = {"model_version": version, "data": Path(source.uri).name}
    with start_run(config, home, kind="evaluate", tags=tags) as run_id:
        client = connect(home)
        for key, value in _scalars(evidence).items():
            client.log_metric(run_id, key, value)
        client.log_text(run_id, evidence.model_dump_json(indent=2), "figures.json")
    return EvaluationResult(
        run_id,
        version,
        evidence,
        time.perf_counter() - started,
        len(rows.texts) / seconds,
        data=source.uri,
        n_in_training=_in_training(home, rows),
    )


def _in_training(home: Home, rows: "Split") -> int | None:
    """How many of a file's rows (their groups are the ids of their texts) lie in the training split; None without data."""
    from finsent.data import tables

    if tables.version(home, "tweets") is None:
        return None
    known = set(tables.read(home, "tweets", columns=["id"], filters=[("split", "=", "train")])["id"].to_pylist())
    return sum(group in known for group in rows.groups)
