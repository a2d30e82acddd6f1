"""What a version's evidence says on a terminal, in about a screen and a half."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

from finsent.cli.output import cell_text, facts, section, table, with_interval

_WIDTH: Final = 110  # columns of a sentence


def scores(evidence: Any) -> str:
    """Accuracy, macro-F1 and MCC with intervals, beside the champion."""
    metrics, intervals = evidence.metrics, evidence.intervals or {}
    if metrics is None:
        return "  not measured"
    keys = ("accuracy", "macro_f1", "mcc")
    rows = [(f"version {evidence.model_version}", *(with_interval(metrics[key], intervals.get(key)) for key in keys))]
    if evidence.champion:
        champion = evidence.champion["metrics"]
        rows.append((f"champion, version {evidence.champion_version}", *(f"{champion[key]:.4f}" for key in keys)))
    return table(("model", "accuracy [95 % interval]", "macro-F1 [95 % interval]", "MCC [95 % interval]"), rows)


def per_class(by_class: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class."""
    rows = [(label, s["precision"], s["recall"], s["f1"], s["support"]) for label, s in by_class.items()]
    return table(("class", "precision", "recall", "F1", "rows"), rows)


def floors(evidence: Any) -> str:
    """The floors on the same rows, and how surely they are beaten."""
    from finsent.evaluation.baselines import BASELINE_NAMES
    from finsent.reporting.summaries import format_p_value

    rows = [
        (BASELINE_NAMES.get(name, name), found["accuracy"], found["macro_f1"], format_p_value(found["mcnemar"]["p_one_sided"]))
        for name, found in evidence.floors.items()
    ]
    return table(("floor on the same rows", "accuracy", "macro-F1", "p (McNemar)"), rows)


def slices(evidence: Any) -> str:
    """All sources, and the three weakest of the other slices."""
    from finsent.reporting.summaries import iter_slices, weakest_slices

    every = list(iter_slices(evidence))
    shown = [found for found in every if found[0] == "source"]
    shown += [found for found in weakest_slices(evidence, len(every)) if found[0] != "source"][:3]
    rows = [
        (
            f"{dimension} = {value}",
            found["n"],
            with_interval(found["accuracy"], found["accuracy_interval"]),
            found["macro_f1"],
            found.get("champion_accuracy"),
            found.get("floor_accuracy"),
        )
        for dimension, value, found in shown
    ]
    heads = ("slice", "rows", "accuracy [95 % interval]", "macro-F1", "champion", "TF-IDF")
    others = sum(dimension != "source" for dimension, _, _ in every)
    title = f"Sources, and the weakest of {others} other slices" if others else "Sources"
    return section(title, table(heads, rows))


def lines(evidence: Any) -> str:
    """Calibration, abstaining, robustness, speed, leaks, power and looks: a line each."""
    from finsent.evaluation.power import format_power
    from finsent.reporting.summaries import format_abstention, format_speed, format_test_set_uses

    pairs: list[tuple[str, object]] = list(_calibration(evidence))
    parts = [facts(pairs)]
    if evidence.calibration:
        parts.append(format_abstention(evidence))
    if evidence.robustness:
        parts.append(_robustness(evidence.robustness))
    if evidence.speed:
        parts.append(format_speed(evidence))
    if evidence.champion:
        parts.append(format_power(evidence.champion["power"]))
    if evidence.looks:
        parts.append(format_test_set_uses(evidence))
    return "\n\n".join(textwrap.fill(part, _WIDTH) if "\n" not in part else part for part in parts)


def _calibration(evidence: Any) -> Iterable[tuple[str, object]]:
    intervals, found = evidence.intervals or {}, evidence.calibration
    ece = None if evidence.ece is None else with_interval(evidence.ece, intervals.get("ece"))
    before = f", {found['ece_before_scaling']:.4f} before scaling" if found and ece else ""
    yield ("calibration error", None if ece is None else f"{ece}{before}")
    if found:
        yield ("Brier score", with_interval(found["brier"], intervals.get("brier")))
    yield ("temperature", evidence.temperature)
    yield ("leaks", evidence.leaks)


def _robustness(checks: Mapping[str, Any]) -> str:
    """The worst check of each kind."""
    said = []
    for kind, what in (("invariance", "changes its mind"), ("direction", "misses a turned meaning")):
        found = {name: check for name, check in checks.items() if check["kind"] == kind}
        if found:
            worst = max(found, key=lambda name: found[name]["failure_rate"])
            rate, n = found[worst]["failure_rate"], cell_text(found[worst]["n"])
            said.append(f"{what} most under {worst.replace('_', ' ')}: {rate:.1%} of {n} texts ({len(found)} checks)")
    return f"Robustness: {'; '.join(said)}."
