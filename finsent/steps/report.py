"""What an evaluation and a decision leave for people: artifacts, metrics and tags in MLflow, the report, the model card."""

import json
import tempfile
from dataclasses import asdict, astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config
from finsent.data.masking import mask_shown
from finsent.errors import ServiceError
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.examples import Disagreement, ErrorPair, WorstError, disagreements, worst_errors
from finsent.labels import LABELS
from finsent.model.manifest import Manifest
from finsent.registry.client import Registry
from finsent.reporting.evaluation_report import write_evaluation_report
from finsent.reporting.plots import draw_plots
from finsent.reporting.summaries import DecisionSummary
from finsent.steps.context import Context

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from finsent.data.dataset import Split
    from finsent.pipeline.gathering import Measured

EVIDENCE_FOLDER = "evaluation"
"""Where evidence, predictions, plots, report and card lie among the training run's artifacts."""
REPORT_INPUTS: Final = "pages.json"
"""What report and card are made of besides the evidence."""


def publish_evaluation(
    context: Context,
    record: "ModelVersion",
    evidence: Evidence,
    test: "Split",
    own: "Measured",
    rival: "Measured | None",
) -> bool:
    """The ledger, artifacts on the training run, metrics on the LoggedModel; the tags that say so come last.

    Returns:
        Whether the version is a candidate: it beats every floor significantly.
    """
    from finsent.model.engine import probabilities
    from finsent.registry.aliases import set_candidate
    from finsent.registry.evidence_store import record_evidence
    from finsent.registry.gate import against_baselines
    from finsent.registry.tracking import log_dataset
    from finsent.reporting.summaries import champion_remeasured, gate_preview
    from finsent.steps.promote import preview_decision

    config, home, registry = context.config, context.workspace, context.registry
    client, version = registry.client, evidence.model_version
    scaled = probabilities(own.logits, own.manifest.temperature)
    with tempfile.TemporaryDirectory(prefix="finsent-evaluation-") as scratch:
        folder = Path(scratch)
        content = evidence.model_dump_json(indent=2).encode()
        (folder / "evidence.json").write_bytes(content)
        _write_material(config, folder, evidence, test, own, rival, scaled)
        record_evidence(config, home, client, evidence, content)
        client.log_artifacts(record.run_id, str(folder), EVIDENCE_FOLDER)
        dataset = log_dataset(
            client,
            record.run_id,
            home,
            table="tweets",
            version=evidence.data_version or 0,
            fingerprint=evidence.data_fingerprint or "",
            context="evaluation",
            split="test",
            rows=evidence.n_test,
        )
        registry.log_model_metrics(version, scalars(evidence), run_id=record.run_id, dataset=dataset)
        short = [rule.reason for rule in against_baselines(evidence, config.gate) if rule.status != "pass"]
        set_candidate(registry, version, short)
        if evidence.champion_version == version:
            verdict = champion_remeasured(version)
        else:
            preview = preview_decision(context, version)
            verdict = gate_preview(version, preview.decision, preview.reasons, map(astuple, preview.rules))
        _publish(client, record.run_id, folder, evidence, verdict)
    assert evidence.metrics is not None, "measured above"  # noqa: S101 - tells the type checker
    tags = {
        "evaluation_run": record.run_id,
        "accuracy": f"{evidence.metrics['accuracy']:.4f}",
        "macro_f1": f"{evidence.metrics['macro_f1']:.4f}",
    }
    registry.set_tags(version, tags)
    client.update_model_version(registry.name, version, description=summary(evidence))
    return not short


def publish_report(registry: Registry, record: "ModelVersion", verdict: DecisionSummary) -> None:
    """Render report and model card anew, with a decision; nothing where the version has no evidence to tell of.

    Raises:
        ServiceError: MLflow does not hand out or take the files.
    """
    from mlflow.exceptions import MlflowException

    from finsent.registry.evidence_store import read_evidence

    client = registry.client
    found = read_evidence(client, record)
    if found.problem is not None:
        return
    try:
        with tempfile.TemporaryDirectory(prefix="finsent-decision-") as scratch:
            folder = Path(client.download_artifacts(record.run_id, EVIDENCE_FOLDER, scratch))
            if (folder / REPORT_INPUTS).is_file():  # an evaluation killed before that left evidence alone
                _publish(client, record.run_id, folder, found.evidence, verdict)
    except (MlflowException, OSError) as error:
        raise ServiceError(
            f"the report of version {record.version!r} cannot be written to MLflow ({error}). Try again."
        ) from error


def _publish(client: "MlflowClient", run_id: str, folder: Path, evidence: Evidence, verdict: DecisionSummary | None) -> None:
    """Report and card from the material in `folder`."""
    from finsent.reporting.model_card import render_card_page, render_model_card

    material = json.loads((folder / REPORT_INPUTS).read_text(encoding="utf-8"))
    pages = folder / "pages"
    pages.mkdir(exist_ok=True)
    write_evaluation_report(
        evidence,
        {caption: folder / name for caption, name in material["plots"].items()},
        pages / "report.html",
        decision=verdict,
        examples=[Disagreement(**item) for item in material["disagreements"]],
        errors=[
            ErrorPair(**{**pair, "worst": tuple(WorstError(**item) for item in pair["worst"])}) for pair in material["errors"]
        ],
    )
    card = render_model_card(Manifest.model_validate(material["manifest"]), evidence, decision=verdict)
    (pages / "model_card.md").write_text(card, encoding="utf-8")
    (pages / "model_card.html").write_text(render_card_page(card), encoding="utf-8")
    client.log_artifacts(run_id, str(pages), EVIDENCE_FOLDER)


def _write_material(
    config: Config,
    folder: Path,
    evidence: Evidence,
    rows: "Split",
    own: "Measured",
    rival: "Measured | None",
    scaled: NDArray[np.float64],
) -> None:
    """Predictions, plots, examples and the manifest: what the pages are made of, now and when a decision is known."""
    _write_predictions(folder / "predictions.parquet", rows, scaled, rival)
    plots = draw_plots(evidence, scaled, rows.labels, config.gate, folder)
    texts = [mask_shown(text) for text in rows.texts] if config.data.mask_handles else rows.texts
    differ = () if rival is None else disagreements(texts, rows.labels, rival.labels, scaled, rows.groups)
    material = {
        "plots": {caption: path.name for caption, path in plots.items()},
        "disagreements": [asdict(item) for item in differ],
        "errors": [asdict(pair) for pair in worst_errors(texts, rows.labels, scaled, rows.groups)],
        "manifest": own.manifest.model_dump(mode="json"),
    }
    (folder / REPORT_INPUTS).write_text(json.dumps(material, ensure_ascii=False, indent=1), encoding="utf-8")


def publish_ad_hoc_evaluation(context: Context, evidence: Evidence, rows: "Split", own: "Measured", what: str) -> str:
    """The same pages and figures in a run of their own: no evidence, no tag, nothing that the gate reads; the run's id."""
    from finsent.model.engine import probabilities
    from finsent.registry.tracking import start_run

    config, client = context.config, context.registry.client
    tags = {"model_version": evidence.model_version, "data": Path(what).name}
    scaled = probabilities(own.logits, own.manifest.temperature)
    with (
        start_run(config, context.workspace, kind="evaluate", tags=tags) as run_id,
        tempfile.TemporaryDirectory(prefix="finsent-evaluation-") as scratch,
    ):
        folder = Path(scratch)
        for key, value in scalars(evidence).items():
            client.log_metric(run_id, key, value)
        # under another name than evidence's: the gate must never take it for that
        (folder / "figures.json").write_text(evidence.model_dump_json(indent=2), encoding="utf-8")
        _write_material(config, folder, evidence, rows, own, None, scaled)
        client.log_artifacts(run_id, str(folder), EVIDENCE_FOLDER)
        _publish(client, run_id, folder, evidence, None)
    return run_id


def summary(evidence: Evidence) -> str:
    """What the registry's page says of a version: its scores beside the floor's and the champion's, and where the rest is."""
    from finsent.evaluation.power import format_power
    from finsent.reporting.summaries import format_naive_split

    metrics, interval = evidence.metrics, (evidence.intervals or {}).get("accuracy")
    assert metrics is not None, "measured before"  # noqa: S101 - tells the type checker
    around = f" (95 % interval {interval['low']:.3f} to {interval['high']:.3f})" if interval else ""
    lines = [
        f"Accuracy **{metrics['accuracy']:.3f}**{around}, macro-F1 {metrics['macro_f1']:.3f} on {metrics['n']:,} held-out tweets."
    ]
    if evidence.floors:
        lines.append(f"TF-IDF floor on the same rows: {evidence.floors['tfidf']['accuracy']:.3f}.")
    if evidence.champion:
        score = evidence.champion["metrics"]["accuracy"]
        lines.append(f"Champion, version {evidence.champion_version}, on the same rows: {score:.3f}.")
        lines.append(format_power(evidence.champion["power"], short=True))
    if evidence.naive_split:
        lines.append(format_naive_split(evidence.naive_split))
    found = evidence.leaks_unknown_because or f"{evidence.leaks} leaks across splits."
    lines.append(f"Data version {evidence.data_version}. {found}")
    if evidence.looks:
        lines.append(f"Look {evidence.looks['at_these_rows']} at these test rows.")
    return " ".join(lines) + f"\n\nReport, model card and evidence: artifacts of the source run, folder `{EVIDENCE_FOLDER}`."


def scalars(evidence: Evidence) -> dict[str, float]:
    """The evidence's figures as MLflow metrics."""
    flat = {**_own_figures(evidence), **_compared_figures(evidence)}
    return {key: float(value) for key, value in flat.items() if value is not None}


def _own_figures(evidence: Evidence) -> dict[str, float | None]:
    metrics = evidence.metrics
    flat: dict[str, float | None] = {f"test_{key}": metrics[key] for key in ("accuracy", "macro_f1", "mcc")} if metrics else {}
    for label, scores in (metrics["per_class"] if metrics else {}).items():
        flat[f"test_f1_{label.lower()}"] = scores["f1"]
    for key, interval in (evidence.intervals or {}).items():
        flat |= {f"test_{key}_low": interval["low"], f"test_{key}_high": interval["high"]}
    flat |= {"test_ece": evidence.ece, "test_leaks": evidence.leaks, "test_rows": evidence.n_test}
    if evidence.calibration:
        flat["test_brier"] = evidence.calibration["brier"]
        if abstention := evidence.calibration["abstention"]:
            flat |= {"test_coverage": abstention["coverage"], "test_answered_precision": abstention["precision"]}
    if speed := evidence.speed:
        flat |= {key: speed[key] for key in ("rows_per_second", "latency_ms_p50", "latency_ms_p95", "cost_per_million")}
    if evidence.looks:
        flat["test_looks"] = evidence.looks["at_these_rows"]
    return flat


def _compared_figures(evidence: Evidence) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, floor in (evidence.floors or {}).items():
        flat |= {f"{name}_accuracy": floor["accuracy"], f"{name}_macro_f1": floor["macro_f1"]}
    for name, check in (evidence.robustness or {}).items():
        flat[f"robustness_{name}"] = check["failure_rate"]
    if naive := evidence.naive_split:
        flat |= {"naive_split_accuracy": naive["claimed_accuracy"], "training_accuracy": naive["training_accuracy"]}
    if champion := evidence.champion:
        flat |= {f"champion_{key}": champion["metrics"][key] for key in ("accuracy", "macro_f1")}
        flat["champion_p"] = champion["mcnemar"]["p_one_sided"]
    return flat


def _write_predictions(path: Path, rows: "Split", scaled: NDArray[np.float64], rival: "Measured | None") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": rows.ids,
        "source": rows.sources,
        "label": [LABELS[i] for i in rows.labels],
        "prediction": [LABELS[i] for i in scaled.argmax(axis=1)],
        **{f"p_{label.lower()}": scaled[:, i] for i, label in enumerate(LABELS)},
    }
    if rival is not None:
        columns["champion_prediction"] = [LABELS[i] for i in rival.labels]
    pq.write_table(pa.table(columns), path)
