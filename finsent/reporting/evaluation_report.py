"""Evaluation report: one version's evidence and decision as a self-contained HTML page."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import ChampionRecord, Evidence
from finsent.evaluation.examples import Disagreement, ErrorPair
from finsent.evaluation.power import format_power
from finsent.reporting.pages import embed_png, render, write_page
from finsent.reporting.summaries import DecisionSummary, iter_slices, weakest_slices

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
