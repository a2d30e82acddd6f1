"""Evaluation report of a version: the HTML page, the files that it is rendered from, MLflow metrics, the version's description.

The files are stored with the evidence, so that a later decision can be added without scoring anything again.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.data.validation.text_cleaning import mask_raw_handles
from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import ChampionRecord, Evidence
from finsent.evaluation.examples import Disagreement, ErrorPair, WorstError, disagreements, worst_errors
from finsent.evaluation.power import format_power
from finsent.labels import LABELS
from finsent.models.manifest import Manifest
from finsent.models.predict import probabilities
from finsent.reporting.model_card import render_card_page, render_model_card
from finsent.reporting.pages import embed_png, render, write_page
from finsent.reporting.plots import draw_plots
from finsent.reporting.summaries import DecisionSummary, format_naive_split, iter_slices, weakest_slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from finsent.data.dataset import Split
    from finsent.evaluation.build_evidence import ModelScores

REPORT_INPUTS: Final = "report_inputs.json"
"""File with what report and card show besides the evidence."""
PREDICTIONS: Final = "predictions.parquet"
REPORT_PAGE: Final = "report.html"
MODEL_CARD: Final = "model_card.md"
MODEL_CARD_PAGE: Final = "model_card.html"
GLOSSARY: Final = {
    "gate": "The fixed set of rules that a version must pass before it may become the champion.",
    "baseline": "A simple model trained on the same rows, which any useful version must beat.",
    "MCC": "Matthews correlation coefficient, one score from the whole confusion matrix: 1 is perfect, 0 no better than chance.",
    "macro-F1": "The plain mean of the classes' F1 scores, so that a rare class counts as much as a frequent one.",
    "calibration error": "The average gap between confidence and the share of right answers: at 0 a confidence of 80 % is right "
    "80 % of the time.",
    "temperature": "The one number by which the model's raw outputs (logits) are divided so that its confidence is neither too "
    "high nor too low.",
    "Brier score": "The squared distance between the probabilities and the truth, averaged over tweets: 0 is best, 2 is worst.",
    "slice": "A subset of the rows that have something in common, such as their source or their length.",
    "head": "The last layer, which turns the base model's representation of a tweet into one number for each class.",
    "pooled position": "The one token of a tweet, its last, whose vector the head reads.",
    "packed engine": "The faster way to compute: tweets are laid end to end instead of padded to one length.",
    "McNemar test": "Compares two models by the tweets that only one of them gets right; a small p means that the difference is "
    "hardly chance.",
    "non-inferiority": "Being shown to be worse by less than a declared margin.",
}
_PLACED_PLOTS: Final = {
    "Confusion matrix",
    "Reliability after temperature scaling",
    "Precision bought by abstaining",
    "Accuracy by slice",
    "Robustness to changed texts",
}
"""Captions that the template shows beside the section that they belong to (`plots.draw_plots` gives them)."""
_CONFIDENT: Final = 0.5  # a wrong answer below this confidence is not called confident


def write_report_inputs(
    config: Config, folder: Path, evidence: Evidence, rows: "Split", own: "ModelScores", champion: "ModelScores | None"
) -> None:
    """Write predictions, plots, examples and the manifest to `folder`."""
    scaled = probabilities(own.logits, own.manifest.temperature)
    _write_predictions(folder / PREDICTIONS, rows, scaled, champion)
    plots = draw_plots(evidence, scaled, rows.labels, config.gate, folder)
    texts = [mask_raw_handles(text) for text in rows.texts] if config.data.mask_handles else rows.texts
    differ = () if champion is None else disagreements(texts, rows.labels, champion.labels, scaled, rows.groups)
    inputs = {
        "plots": {caption: path.name for caption, path in plots.items()},
        "disagreements": [asdict(item) for item in differ],
        "errors": [asdict(pair) for pair in worst_errors(texts, rows.labels, scaled, rows.groups)],
        "manifest": own.manifest.model_dump(mode="json"),
    }
    (folder / REPORT_INPUTS).write_text(json.dumps(inputs, ensure_ascii=False, indent=1), encoding="utf-8")


def render_pages(folder: Path, evidence: Evidence, decision: DecisionSummary | None) -> Path:
    """Render report and model card from the inputs in `folder`; returns the folder that holds the pages alone."""
    inputs = json.loads((folder / REPORT_INPUTS).read_text(encoding="utf-8"))
    pages = folder / "pages"
    pages.mkdir(exist_ok=True)
    write_evaluation_report(
        evidence,
        {caption: folder / name for caption, name in inputs["plots"].items()},
        pages / REPORT_PAGE,
        decision=decision,
        examples=[Disagreement(**item) for item in inputs["disagreements"]],
        errors=[ErrorPair(**{**pair, "worst": tuple(WorstError(**item) for item in pair["worst"])}) for pair in inputs["errors"]],
    )
    card = render_model_card(Manifest.model_validate(inputs["manifest"]), evidence, decision=decision)
    (pages / MODEL_CARD).write_text(card, encoding="utf-8")
    (pages / MODEL_CARD_PAGE).write_text(render_card_page(card), encoding="utf-8")
    return pages


def write_evaluation_report(
    evidence: Evidence,
    plots: Mapping[str, Path],
    path: Path,
    *,
    decision: DecisionSummary | None = None,
    examples: Sequence[Disagreement] | None = None,
    errors: Sequence[ErrorPair] | None = None,
) -> None:
    """Write the page; what was not measured is marked as such.

    Args:
        evidence: What was measured.
        plots: Captions and PNG files; those that no section shows follow under "More plots".
        path: The HTML file; folders are made.
        decision: The decision on the version, or what the gate would decide.
        examples: Disagreements with the champion, texts masked as configured; None: none were kept.
        errors: Wrong answers by pair of classes, texts masked as configured; None: none were kept.
    """
    rules = {rule.name: rule for rule in decision.rules} if decision else {}
    checks: Mapping[str, Any] = evidence.robustness or {}
    page = render(
        "evaluation_report.html.j2",
        title=f"{evidence.model_name}, version {evidence.model_version}",
        evidence=evidence,
        decision=decision,
        rules=rules,
        power=format_power(evidence.champion["power"]) if evidence.champion else None,
        paired_differences=list(_paired_differences(evidence.champion)) if evidence.champion else [],
        baseline_names=BASELINE_NAMES,
        slices=list(iter_slices(evidence)),
        weakest=weakest_slices(evidence),
        limits_known=any(f"robust.{name}" in rules for name in checks),
        failed_texts=[(name.replace("_", " "), text) for name, check in checks.items() for text in check.get("examples") or ()],
        examples=examples,
        disagreements={
            kind: [example for example in examples or () if example.kind == kind]
            for kind in dict.fromkeys(example.kind for example in examples or ())
        },
        errors=errors,
        confident_errors=[(pair, error) for pair in errors or () for error in pair.worst if error.confidence >= _CONFIDENT],
        figures={caption: embed_png(file) for caption, file in plots.items()},
        more_plots=[caption for caption in plots if caption not in _PLACED_PLOTS],
        glossary=GLOSSARY,
    )
    write_page(path, page)


def _paired_differences(champion: ChampionRecord) -> Iterable[tuple[str, str, Mapping[str, Any]]]:
    """Name of the score, name of the gate rule that judges it, and this version minus the champion."""
    paired = champion["paired_bootstrap"]
    yield "macro-F1", "macro_f1_noninferior", paired["macro_f1_difference"]
    for label, found in paired["class_f1_difference"].items():
        yield f"F1 of {label}", f"class_noninferior.{label}", found


def version_description(evidence: Evidence, folder: str) -> str:
    """Description of the version in the registry: its scores beside baseline and champion, and where the report is."""
    metrics, interval = evidence.metrics, (evidence.intervals or {}).get("accuracy")
    assert metrics is not None, "measured before"  # noqa: S101 - tells the type checker
    around = f" (95 % interval {interval['low']:.3f} to {interval['high']:.3f})" if interval else ""
    lines = [
        f"Accuracy **{metrics['accuracy']:.3f}**{around}, macro-F1 {metrics['macro_f1']:.3f} on {metrics['n']:,} held-out tweets."
    ]
    if evidence.baselines:
        lines.append(f"TF-IDF baseline on the same rows: {evidence.baselines['tfidf']['accuracy']:.3f}.")
    if evidence.champion:
        score = evidence.champion["metrics"]["accuracy"]
        lines.append(f"Champion, version {evidence.champion_version}, on the same rows: {score:.3f}.")
        lines.append(format_power(evidence.champion["power"], short=True))
    if evidence.naive_split:
        lines.append(format_naive_split(evidence.naive_split))
    found = evidence.leaks_unknown_reason or f"{evidence.leaks} leaks across splits."
    lines.append(f"Data version {evidence.data_version}. {found}")
    if evidence.test_set_uses:
        lines.append(f"Use {evidence.test_set_uses['at_these_rows']} of these test rows.")
    return " ".join(lines) + f"\n\nReport, model card and evidence: artifacts of the source run, folder `{folder}`."


def evaluation_metrics(evidence: Evidence) -> dict[str, float]:
    """The evidence's scores as MLflow metrics."""
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
    if evidence.test_set_uses:
        flat["test_set_uses"] = evidence.test_set_uses["at_these_rows"]
    return flat


def _compared_figures(evidence: Evidence) -> dict[str, float | None]:
    flat: dict[str, float | None] = {}
    for name, baseline in (evidence.baselines or {}).items():
        flat |= {f"{name}_accuracy": baseline["accuracy"], f"{name}_macro_f1": baseline["macro_f1"]}
    for name, check in (evidence.robustness or {}).items():
        flat[f"robustness_{name}"] = check["failure_rate"]
    if naive := evidence.naive_split:
        flat |= {"naive_split_accuracy": naive["estimated_accuracy"], "training_accuracy": naive["training_accuracy"]}
    if champion := evidence.champion:
        flat |= {f"champion_{key}": champion["metrics"][key] for key in ("accuracy", "macro_f1")}
        flat["champion_p"] = champion["mcnemar"]["p_one_sided"]
    return flat


def _write_predictions(path: Path, rows: "Split", scaled: "NDArray[np.float64]", champion: "ModelScores | None") -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, Any] = {
        "id": rows.ids,
        "source": rows.sources,
        "label": [LABELS[i] for i in rows.labels],
        "prediction": [LABELS[i] for i in scaled.argmax(axis=1)],
        **{f"p_{label.lower()}": scaled[:, i] for i, label in enumerate(LABELS)},
    }
    if champion is not None:
        columns["champion_prediction"] = [LABELS[i] for i in champion.labels]
    pq.write_table(pa.table(columns), path)
