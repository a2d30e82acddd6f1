"""How results of the steps look to a person: ingestion, training, evaluation, the gate's decision, scoring, monitoring."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from finsent.cli.options import suggest_command
from finsent.cli.output import (
    Renderable,
    cell_text,
    duration,
    key_values,
    paragraph,
    section,
    shorten,
    stack,
    status_word,
    table,
    with_interval,
)
from finsent.cli.render_data import render_files

if TYPE_CHECKING:
    from finsent.registry.audit_log import AuditEntry
    from finsent.steps.predict import Prediction


def render_training(result: Any) -> Renderable:
    """A finished training."""
    return section(
        f"Version {result.model_version} trained and registered",
        key_values(
            [
                ("run", result.run_id),
                ("rows", result.rows),
                ("steps", result.steps),
                ("time", f"{duration(result.seconds)}, {result.rows_per_second:.0f} rows/s"),
                *((f"validation {name}", value) for name, value in result.validation.items()),
                ("adapter", result.adapter_dir),
            ]
        ),
        f"Next: {suggest_command('finsent evaluate')}",
    )


def render_evaluation(result: Any, *, suggest_next: bool = True) -> Renderable:
    """A version's evidence in about a screen and a half; with `suggest_next` the command that promotes a candidate."""
    evidence = result.evidence
    parts: list[Renderable] = [section(f"Version {result.model_version} on {_rows_scored(result)}")]
    if result.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.skipped.items())
        parts.append(f"NOT SCORED: {sum(result.skipped.values()):,} rows that cannot be read ({reasons})")
    parts.append(_scores(evidence))
    if evidence.metrics:
        by_class = evidence.metrics["per_class"].items()
        rows = [(label, s["precision"], s["recall"], s["f1"], s["support"]) for label, s in by_class]
        parts.append(table(("class", "precision", "recall", "F1", "rows"), rows))
    if evidence.baselines:
        parts.append(_baselines(evidence))
    if evidence.slices:
        parts.append(_slices(evidence))
    if result.candidate is not None:
        promote = f"\nNext: {suggest_command(f'finsent promote --version {result.model_version}')}"
        stands = "It is a candidate: it beats" if result.candidate else "It is no candidate: it does not beat"
        parts.append(f"{stands} every baseline significantly.{promote if result.candidate and suggest_next else ''}")
    parts += _measurements(evidence)
    if evidence.leaks_unknown_reason:
        parts.append(paragraph(evidence.leaks_unknown_reason))
    if evidence.naive_split:
        from finsent.reporting.summaries import format_naive_split, format_naive_split_method

        parts.append(paragraph(f"{format_naive_split(evidence.naive_split)}\n{format_naive_split_method(evidence.naive_split)}"))
    return stack(*parts)


def _rows_scored(result: Any) -> str:
    count = cell_text(result.evidence.n_test)
    if result.data is None:
        return f"{count} held-out rows"
    if result.n_in_training is None:
        return f"{count} rows of {result.data}, there is no training split here"
    return f"{count} rows of {result.data}, {result.n_in_training:,} of them in the training split"


def _scores(evidence: Any) -> Renderable:
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


def _baselines(evidence: Any) -> Renderable:
    """The baselines on the same rows, and how significantly they are beaten."""
    from finsent.evaluation.baselines import BASELINE_NAMES
    from finsent.reporting.summaries import format_p_value

    rows = [
        (BASELINE_NAMES.get(name, name), found["accuracy"], found["macro_f1"], format_p_value(found["mcnemar"]["p_one_sided"]))
        for name, found in evidence.baselines.items()
    ]
    return table(("baseline on the same rows", "accuracy", "macro-F1", "p (McNemar)"), rows)


def _slices(evidence: Any) -> Renderable:
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
            found.get("baseline_accuracy"),
        )
        for dimension, value, found in shown
    ]
    others = sum(dimension != "source" for dimension, _, _ in every)
    title = f"Sources, and the weakest of {others} other slices" if others else "Sources"
    return section(title, table(("slice", "rows", "accuracy [95 % interval]", "macro-F1", "champion", "TF-IDF"), rows))


def _measurements(evidence: Any) -> Iterator[Renderable]:
    """Calibration, abstention, robustness, speed, leaks, power and uses of the test set."""
    from finsent.evaluation.power import format_power
    from finsent.reporting.summaries import format_abstention, format_speed, format_test_set_uses

    yield key_values(_calibration(evidence))
    if evidence.calibration:
        yield paragraph(format_abstention(evidence))
    if evidence.robustness:
        yield paragraph(_robustness(evidence.robustness))
    if evidence.speed:
        yield paragraph(format_speed(evidence))
    if evidence.champion:
        yield paragraph(format_power(evidence.champion["power"]))
    if evidence.test_set_uses:
        yield paragraph(format_test_set_uses(evidence))


def _calibration(evidence: Any) -> Iterator[tuple[str, object]]:
    intervals, found = evidence.intervals or {}, evidence.calibration
    ece = None if evidence.ece is None else with_interval(evidence.ece, intervals.get("ece"))
    before = f", {found['ece_before_scaling']:.4f} before scaling" if found and ece else ""
    yield "calibration error", None if ece is None else f"{ece}{before}"
    if found:
        yield "Brier score", with_interval(found["brier"], intervals.get("brier"))
    yield "temperature", evidence.temperature
    yield "leaks", evidence.leaks


def _robustness(checks: Mapping[str, Any]) -> str:
    """The worst check of each kind."""
    worst_of = []
    for kind, what in (("invariance", "changes its prediction"), ("direction", "misses a reversed meaning")):
        found = {name: check for name, check in checks.items() if check["kind"] == kind}
        if found:
            worst = max(found, key=lambda name: found[name]["failure_rate"])
            rate, n = found[worst]["failure_rate"], cell_text(found[worst]["n"])
            worst_of.append(f"{what} most under {worst.replace('_', ' ')}: {rate:.1%} of {n} texts ({len(found)} checks)")
    return f"Robustness: {'; '.join(worst_of)}."


def render_import_evaluation(found: Any, version: str) -> Renderable:
    """An imported version's evaluation and what the gate would decide, or why it was not evaluated."""
    if found.evaluation is None:
        return f"Not evaluated: {found.not_evaluated_because}"
    heading = {
        "promote": f"The gate would pass it.\nNext: {suggest_command(f'finsent promote --version {version}')}",
        "refuse": "The gate would refuse it:",
    }[found.verdict.decision]
    reasons = "".join(f"\n  {reason}" for reason in _other_reasons(found.verdict))
    return stack(render_evaluation(found.evaluation), f"{heading}{reasons}", render_rules(found.verdict.rules))


def _other_reasons(decision: Any) -> list[str]:
    """Reasons of a decision that its rules do not state themselves."""
    stated = {rule.reason for rule in decision.rules if rule.status != "pass"}
    return [reason for reason in decision.reasons if reason not in stated]


def render_rules(items: Any) -> Renderable:
    """The gate's rules that did not pass, one a line, then how many did."""
    items = list(items)
    open_rules = [rule for status in ("fail", "missing") for rule in items if rule.status == status]
    passed = f"{len(items) - len(open_rules)} of {len(items)} rules passed"
    if not open_rules:
        return f"{passed}."
    failed = sum(rule.status == "fail" for rule in open_rules)
    rows = [(status_word(rule.status), rule.name, rule.reason) for rule in open_rules]
    counts = f"{passed}, {failed} failed, {len(open_rules) - failed} had no evidence."
    return stack(table(("", "rule", "why"), rows), counts)


def render_promotion(result: Any) -> Renderable:
    """The gate's decision and what comes next."""
    version = result.model_version
    stays = f"version {result.champion_after} stays champion" if result.champion_after else "there is still no champion"
    before = f"before it: version {result.champion_before}" if result.champion_before else "the first one"
    verdicts = [suggest_command(f"finsent {verdict} {version} --why '...'") for verdict in ("approve", "reject")]
    already = result.champion_before == version
    title, *more = {
        "promoted": [
            f"Version {version} is the champion" if already else f"PROMOTED: version {version} is the champion now ({before})"
        ],
        "pending_approval": [f"PASSED: version {version} waits for approval.", f"Next: {verdicts[0]}", f"  or: {verdicts[1]}"],
        "refused": [f"REFUSED: version {version} is not promoted; {stays}"],
    }[result.decision]
    if (
        unusable := next((rule for rule in result.rules if rule.name == "evidence" and rule.status == "missing"), None)
    ) is not None:
        return stack(section(title), f"  {unusable.reason}")  # all other rules follow from it
    reasons = "\n".join(f"  {reason}" for reason in _other_reasons(result))
    return stack(section(title, *more), reasons, render_rules(result.rules) if result.rules else "")


def decision_word(entry: "AuditEntry") -> str:
    """A decision as shown: a version that passes the gate may still wait for approval."""
    if entry.action == "adopt":
        return "adopted"
    if entry.decision == "promote" and entry.champion_after != entry.version:
        return "passed, waits"
    if entry.action == "reject":
        return "rejected"
    shown = {"promote": "promoted", "refuse": "refused"}
    return shown.get(entry.decision or "", cell_text(entry.decision))


def render_scoring(report: Any, tables_url: str) -> Renderable:
    """One scoring run, and where its predictions are."""
    total = sum(report.classes.values())
    # a tweet without an answer counts for no class
    mix = {label: n - report.abstained_by_class.get(label, 0) for label, n in report.classes.items()}
    shares = [(label, n, f"{n / total:.1%}") for label, n in (*mix.items(), ("abstained", report.abstained))] if total else []
    quarantined = f"{report.quarantined:,} (why: finsent data quarantine)" if report.quarantined else 0
    return section(
        f"Version {report.model_version} scored {report.scored:,} tweets",
        key_values(
            [
                ("received", report.received),
                ("known already", report.known),
                ("done before", report.skipped),
                ("quarantined", quarantined),
                ("abstained", report.abstained),
                ("time", f"{duration(report.seconds)}, {report.rows_per_second:.0f} rows/s"),
                ("predictions", f"{tables_url}/predictions (a Delta table)"),
                *_answers(report.answers),
            ]
        ),
        table(("answer", "rows", "share"), shares) if shares else "",
        render_files(report, "received", "known already"),
        _arrivals(report.sources) if report.sources else "",
        render_inbox_faults([fault for source in report.sources for fault in source.faults]),
    )


def _answers(answers: Any) -> Iterator[tuple[str, object]]:
    if answers is not None:
        why = f", {answers.unanswered:,} of them without a label (why: column reason)" if answers.unanswered else ""
        yield "answers", f"{answers.path}: {answers.rows:,} rows{why}"


def _arrivals(sources: Any) -> Renderable:
    """What each source of the inbox gave."""
    headers = ("source", "files read", "known files", "being written", "rows", "received", "known", "quarantined", "not read")
    rows = [
        (s.source, s.files, s.files_before, len(s.unsettled), s.read, s.received, s.known, s.quarantined, len(s.faults))
        for s in sources
    ]
    return table(headers, rows)


def render_inbox_faults(faults: Any) -> Renderable:
    """Files and sources of the inbox that are not read, the first twenty of many."""
    if not faults:
        return ""
    rows = [
        (
            fault.state,
            shorten(fault.uri, 200),
            f"{fault.since:%Y-%m-%d %H:%M}",
            fault.reason + ("" if fault.configured else " (its source is not in this command's configuration)"),
        )
        for fault in faults[:20]
    ]
    title = f"Not read into the inbox ({len(faults)}): correct, replace or remove the file, or repair the source"
    return section(title, table(("", "file or source", "since (UTC)", "why"), rows))


def render_monitoring(report: Any) -> Renderable:
    """Drift and the decision."""
    return section(
        f"Decision: {report.decision}",
        "\n".join(f"  {reason}" for reason in report.reasons),
        table(("feature", "PSI"), sorted(report.drift.items())) if report.drift else "",
    )


def render_predictions(rows: "Sequence[Prediction]") -> Renderable:
    """Label and probabilities of a few texts."""
    classes = ("Bearish", "Neutral", "Bullish")
    cells = [
        (
            "no label" if row.label is None else "abstained" if row.abstained else row.label,
            *(row.probabilities.get(label) for label in classes),
            shorten(row.text) + (f" ({row.reason})" if row.reason else ""),
        )
        for row in rows
    ]
    return table(("label", *map(str.lower, classes), "text"), cells)
