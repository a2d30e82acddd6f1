"""What each step says to a person."""

from collections.abc import Mapping
from typing import Any

from finsent.cli.evidence import floors, lines, per_class, scores, slices
from finsent.cli.options import again
from finsent.cli.output import cell_text, duration, facts, section, shorten, table


def ingestion(report: Any) -> str:
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
    parts += quarantine(report.reasons)
    if report.flags:
        parts.append(section("Noted about texts", table(("rows", "what"), [(n, flag) for flag, n in report.flags.items()])))
    if report.split_conflicts:
        parts.append(f"{report.split_conflicts:,} groups of new rows touched two splits: see `bridges splits` in the quarantine")
    parts += [splits(report.splits), leaks(report.leaks, report.naive_leak)]
    return "\n\n".join(parts)


def quarantine(reasons: Mapping[str, int]) -> list[str]:
    """Why rows were quarantined; nothing if none were."""
    ordered = sorted(reasons.items(), key=lambda item: -item[1])
    return [section("Quarantined because", table(("rows", "reason"), [(n, reason) for reason, n in ordered]))] if ordered else []


def received(report: Any) -> str:
    """What arrived in the inbox."""
    heading = (
        f"{report.read:,} rows read = {report.received:,} received into the inbox + {report.known:,} known already "
        f"+ {report.quarantined:,} quarantined"
    )
    return "\n\n".join([heading, *quarantine(report.reasons), f"Next: {again('finsent score')}"])


def splits(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Rows by split and class."""
    labels = list(dict.fromkeys(label for by_label in counts.values() for label in by_label))
    rows = [(name, *(by_label.get(label, 0) for label in labels), sum(by_label.values())) for name, by_label in counts.items()]
    return section("Splits", table(("split", *labels, "all"), rows))


def leaks(pairs: int | None, naive: float | None) -> str:
    """The leak audit in one line."""
    audit = "Leak audit: not made" if pairs is None else f"Leak audit: {pairs} duplicate pairs across splits"
    return audit + ("" if naive is None else f"; a random split would have leaked {naive:.1%} of its test rows")


def training(result: Any) -> str:
    """A finished training."""
    return section(
        f"Version {result.model_version} trained and registered",
        facts(
            [
                ("run", result.run_id),
                ("rows", result.rows),
                ("steps", result.steps),
                ("time", f"{duration(result.seconds)}, {result.rows_per_second:.0f} rows/s"),
                *((f"validation {name}", value) for name, value in result.validation.items()),
                ("adapter", result.adapter_dir),
            ]
        ),
        f"Next: {again('finsent evaluate')}",
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


def evaluation(result: Any, *, following: bool = True) -> str:
    """A version's evidence; with `following`, what to type next where it may be promoted."""
    evidence = result.evidence
    parts = [f"Version {result.model_version} on {_rows_scored(result)}"]
    if result.skipped:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in result.skipped.items())
        parts.append(f"NOT SCORED: {sum(result.skipped.values()):,} rows that cannot be read ({reasons})")
    parts.append(scores(evidence))
    if evidence.metrics:
        parts.append(per_class(evidence.metrics["per_class"]))
    if evidence.floors:
        parts.append(floors(evidence))
    if evidence.slices:
        parts.append(slices(evidence))
    if result.candidate is not None:
        promote = f"\nNext: {again(f'finsent promote --version {result.model_version}')}"
        stands = "It is a candidate: it beats" if result.candidate else "It is no candidate: it does not beat"
        parts.append(f"{stands} every floor significantly.{promote if result.candidate and following else ''}")
    parts.append(lines(evidence))
    if evidence.leaks_unknown_because:
        parts.append(evidence.leaks_unknown_because)
    if evidence.naive_split:
        from finsent.reporting.summaries import format_naive_split, format_naive_split_method

        parts.append(f"{format_naive_split(evidence.naive_split)}\n{format_naive_split_method(evidence.naive_split)}")
    return "\n\n".join(parts)


def appraisal(found: Any, version: str) -> str:
    """A version's scores and what the gate makes of them, or why there are none."""
    if found.evaluation is None:
        return f"Not evaluated: {found.not_evaluated_because}"
    heading = {
        "promote": f"The gate lets it through.\nNext: {again(f'finsent promote --version {version}')}",
        "refuse": "The gate would refuse it:",
    }[found.verdict.decision]
    told = {rule.reason for rule in found.verdict.rules if rule.status != "pass"}
    reasons = "".join(f"\n  {reason}" for reason in found.verdict.reasons if reason not in told)
    return "\n\n".join([evaluation(found.evaluation), f"{heading}{reasons}", rules(found.verdict.rules)])


def rules(items: Any) -> str:
    """The gate's rules that did not pass, one a line, then how many did."""
    items = list(items)
    open_rules = [rule for status in ("fail", "missing") for rule in items if rule.status == status]
    passed = f"{len(items) - len(open_rules)} of {len(items)} rules passed"
    if not open_rules:
        return f"{passed}."
    failed = sum(rule.status == "fail" for rule in open_rules)
    counts = f"{passed}, {failed} failed, {len(open_rules) - failed} had no evidence."
    return f"{table(('', 'rule', 'why'), [(rule.status, rule.name, rule.reason) for rule in open_rules])}\n\n{counts}"


def promotion(result: Any) -> str:
    """The gate's decision and what comes next."""
    version = result.model_version
    stays = f"version {result.champion_after} stays champion" if result.champion_after else "there is still no champion"
    before = f"before it: version {result.champion_before}" if result.champion_before else "the first one"
    verdicts = [again(f"finsent {verdict} {version} --why '...'") for verdict in ("approve", "reject")]
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
    return "\n\n".join([heading, *(["\n".join(reasons)] if reasons else []), *([rules(result.rules)] if result.rules else [])])


def scoring(report: Any) -> str:
    """One scoring run."""
    total = sum(report.classes.values())
    mix = [(label, n, f"{n / total:.1%}") for label, n in report.classes.items()] if total else []
    return section(
        f"Version {report.model_version} scored {report.scored:,} tweets",
        facts(
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


def monitoring(report: Any) -> str:
    """Drift and the decision."""
    return section(
        f"Decision: {report.decision}",
        "\n".join(f"  {reason}" for reason in report.reasons),
        table(("feature", "PSI"), sorted(report.drift.items())) if report.drift else "",
    )


def predictions(rows: list[dict[str, Any]]) -> str:
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
