"""What a version's evidence says on a terminal, in about a screen and a half."""

import textwrap
from collections.abc import Iterable, Mapping
from typing import Any, Final

from finsent.cli.options import suggest_command
from finsent.cli.output import cell_text, duration, key_values, section, shorten, table, with_interval

_WIDTH: Final = 110  # columns of a sentence


def _scores(evidence: Any) -> str:
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


def _per_class(by_class: Mapping[str, Any]) -> str:
    """Precision, recall and F1 of each class."""
    rows = [(label, s["precision"], s["recall"], s["f1"], s["support"]) for label, s in by_class.items()]
    return table(("class", "precision", "recall", "F1", "rows"), rows)


def _baselines(evidence: Any) -> str:
    """The floors on the same rows, and how surely they are beaten."""
    from finsent.evaluation.wording import FLOOR_NAMES, p_value

    rows = [
        (FLOOR_NAMES.get(name, name), found["accuracy"], found["macro_f1"], p_value(found["mcnemar"]["p_one_sided"]))
        for name, found in evidence.floors.items()
    ]
    return table(("floor on the same rows", "accuracy", "macro-F1", "p (McNemar)"), rows)


def _slices(evidence: Any) -> str:
    """All sources, and the three weakest of the other slices."""
    from finsent.evaluation.wording import each_slice, weakest

    every = list(each_slice(evidence))
    shown = [found for found in every if found[0] == "source"]
    shown += [found for found in weakest(evidence, len(every)) if found[0] != "source"][:3]
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


def _measurements(evidence: Any) -> str:
    """Calibration, abstaining, robustness, speed, leaks, power and looks: a line each."""
    from finsent.evaluation.wording import abstention_in_words, cost_in_words, looks_in_words, power_in_words

    pairs: list[tuple[str, object]] = list(_calibration(evidence))
    parts = [key_values(pairs)]
    if evidence.calibration:
        parts.append(abstention_in_words(evidence))
    if evidence.robustness:
        parts.append(_robustness(evidence.robustness))
    if evidence.speed:
        parts.append(cost_in_words(evidence))
    if evidence.champion:
        parts.append(power_in_words(evidence.champion["power"]))
    if evidence.looks:
        parts.append(looks_in_words(evidence))
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


# merged from finsent.cli.render: What each step says to a person.


def render_ingestion(report: Any) -> str:
    """Where every row ended, the splits, the leak audit."""
    heading = (
        f"Data version {report.version}" if report.new_version else f"Nothing new, the data stays at version {report.version}"
    )
    total = ("all", report.read, report.accepted, report.duplicates, report.quarantined)
    sources = [(name, n["read"], n["accepted"], n["duplicates"], n["quarantined"]) for name, n in report.by_source.items()]
    parts = [
        (
            f"{heading}: {report.read:,} rows read = {report.accepted:,} accepted "
            f"+ {report.duplicates:,} duplicates + {report.quarantined:,} quarantined ({duration(report.seconds)})"
        ),
        table(("source", "read", "accepted", "duplicates", "quarantined"), [*sources, total] if len(sources) > 1 else sources),
    ]
    parts += _quarantine_reasons(report.reasons)
    if report.flags:
        parts.append(section("Noted about texts", table(("rows", "what"), [(n, flag) for flag, n in report.flags.items()])))
    if report.bridges:
        parts.append(f"{report.bridges:,} groups of new rows touched two splits: see `bridges splits` in the quarantine")
    parts += [render_splits(report.splits), leak_audit(report.leaks, report.naive_leak)]
    return "\n\n".join(parts)


def _quarantine_reasons(reasons: Mapping[str, int]) -> list[str]:
    """Why rows were quarantined; nothing if none were."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return [section("Quarantined because", table(("rows", "reason"), [(n, reason) for reason, n in ordered]))] if ordered else []


def render_inbox(report: Any) -> str:
    """What arrived in the inbox."""
    heading = (
        f"{report.read:,} rows read = {report.received:,} received into the inbox + {report.known:,} known already "
        f"+ {report.quarantined:,} quarantined"
    )
    return "\n\n".join([heading, *_quarantine_reasons(report.reasons), f"Next: {suggest_command('finsent score')}"])


def render_splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Rows by split and class."""
    labels = list(dict.fromkeys(label for by_label in counts.values() for label in by_label))
    rows = [(name, *(by_label.get(label, 0) for label in labels), sum(by_label.values())) for name, by_label in counts.items()]
    return section("Splits", table(("split", *labels, "all"), rows))


def leak_audit(pairs: int | None, naive: float | None) -> str:
    """The leak audit in one line."""
    audit = "Leak audit: not made" if pairs is None else f"Leak audit: {pairs} duplicate pairs across splits"
    return audit + ("" if naive is None else f"; a random split would have leaked {naive:.1%} of its test rows")


def render_training(result: Any) -> str:
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


def _rows_scored(result: Any) -> str:
    count = cell_text(result.evidence.n_test)
    if result.data is None:
        return f"{count} held-out rows"
    known = (
        "there is no training split here"
        if result.n_in_training is None
        else f"{result.n_in_training:,} of them in the training split"
    )
    return f"{count} rows of {result.data}, {known}"


def render_evaluation(result: Any, *, following: bool = True) -> str:
    """A version's evidence; with `following`, what to type next where it may be promoted."""
    evidence = result.evidence
    parts = [f"Version {result.model_version} on {_rows_scored(result)}"]
    if result.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.skipped.items())
        parts.append(f"NOT SCORED: {sum(result.skipped.values()):,} rows that cannot be read ({reasons})")
    parts.append(_scores(evidence))
    if evidence.metrics:
        parts.append(_per_class(evidence.metrics["per_class"]))
    if evidence.floors:
        parts.append(_baselines(evidence))
    if evidence.slices:
        parts.append(_slices(evidence))
    if result.candidate is not None:
        promote = f"\nNext: {suggest_command(f'finsent promote --version {result.model_version}')}"
        stands = "It is a candidate: it beats" if result.candidate else "It is no candidate: it does not beat"
        parts.append(f"{stands} every floor significantly.{promote if result.candidate and following else ''}")
    parts.append(_measurements(evidence))
    if evidence.leaks_unknown_because:
        parts.append(evidence.leaks_unknown_because)
    if evidence.naive_split:
        from finsent.evaluation.naive_split import claim_in_words, how_estimated

        parts.append(f"{claim_in_words(evidence.naive_split)}\n{how_estimated(evidence.naive_split)}")
    return "\n\n".join(parts)


def render_appraisal(found: Any, version: str) -> str:
    """A version's scores and what the gate makes of them, or why there are none."""
    if found.evaluation is None:
        return f"Not evaluated: {found.not_evaluated_because}"
    heading = {
        "promote": f"The gate lets it through.\nNext: {suggest_command(f'finsent promote --version {version}')}",
        "refuse": "The gate would refuse it:",
    }[found.verdict.decision]
    told = {rule.reason for rule in found.verdict.rules if rule.status != "pass"}
    reasons = "".join(f"\n  {reason}" for reason in found.verdict.reasons if reason not in told)
    return "\n\n".join([render_evaluation(found.evaluation), f"{heading}{reasons}", render_rules(found.verdict.rules)])


def render_rules(items: Any) -> str:
    """The gate's rules that did not pass, one a line, then how many did."""
    items = list(items)
    open_rules = [rule for status in ("fail", "missing") for rule in items if rule.status == status]
    passed = f"{len(items) - len(open_rules)} of {len(items)} rules passed"
    if not open_rules:
        return f"{passed}."
    failed = sum(rule.status == "fail" for rule in open_rules)
    counts = f"{passed}, {failed} failed, {len(open_rules) - failed} had no evidence."
    return f"{table(('', 'rule', 'why'), [(rule.status, rule.name, rule.reason) for rule in open_rules])}\n\n{counts}"


def render_promotion(result: Any) -> str:
    """The gate's decision and what comes next."""
    version = result.model_version
    stays = f"version {result.champion_after} stays champion" if result.champion_after else "there is still no champion"
    before = f"before it: version {result.champion_before}" if result.champion_before else "the first one"
    verdicts = [suggest_command(f"finsent {verdict} {version} --why '...'") for verdict in ("approve", "reject")]
    already = result.champion_before == version
    heading = {
        "promoted": f"Version {version} is the champion"
        if already
        else f"PROMOTED: version {version} is the champion now ({before})",
        "pending_approval": f"PASSED: version {version} waits for approval.\nNext: {verdicts[0]}\n  or: {verdicts[1]}",
        "refused": f"REFUSED: version {version} is not promoted; {stays}",
    }[result.decision]
    told = {rule.reason for rule in result.rules if rule.status != "pass"}  # the rules below say these themselves
    reasons = [f"  {reason}" for reason in result.reasons if reason not in told]
    return "\n\n".join([heading, *(["\n".join(reasons)] if reasons else []), *([render_rules(result.rules)] if result.rules else [])])


def render_scoring(report: Any) -> str:
    """One scoring run."""
    total = sum(report.classes.values())
    mix = [(label, n, f"{n / total:.1%}") for label, n in report.classes.items()] if total else []
    return section(
        f"Version {report.model_version} scored {report.scored:,} tweets",
        key_values(
            [
                ("received", report.received),
                ("known already", report.known),
                ("already scored", report.skipped),
                ("quarantined", report.quarantined),
                ("abstained", report.abstained),
                ("time", f"{duration(report.seconds)}, {report.rows_per_second:.0f} rows/s"),
            ]
        ),
        table(("class", "rows", "share"), mix) if mix else "",
    )


def render_monitoring(report: Any) -> str:
    """Drift and the decision."""
    return section(
        f"Decision: {report.decision}",
        "\n".join(f"  {reason}" for reason in report.reasons),
        table(("feature", "PSI"), sorted(report.drift.items())) if report.drift else "",
    )


def render_predictions(rows: list[dict[str, Any]]) -> str:
    """Label and probabilities of a few texts."""
    cells = [
        (
            "abstained" if row["abstained"] else row["label"],
            row["probabilities"]["Bearish"],
            row["probabilities"]["Neutral"],
            row["probabilities"]["Bullish"],
            shorten(row["text"]),
        )
        for row in rows
    ]
    return table(("label", "bearish", "neutral", "bullish", "text"), cells)
