"""One evaluation as one self-contained HTML page: why the version was or was not promoted, for somebody who was not there."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from finsent.evaluation import html
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.examples import Disagreement, ErrorPair
from finsent.evaluation.glossary import glossary
from finsent.evaluation.report_parts import (
    calibration,
    champion,
    classes,
    disagreements,
    errors_by_pair,
    floors,
    naive,
    origin,
    power,
    robustness,
    scores,
    slices,
    soundness,
    speed,
)
from finsent.reporting.summaries import DecisionSummary, Rule, Value

_ORDER = {"fail": 0, "missing": 1, "pass": 2}


def write_evaluation_report(
    evidence: Evidence,
    plots: Mapping[str, Path],
    path: Path,
    *,
    decision: DecisionSummary | None = None,
    examples: Sequence[Disagreement] | None = None,
    errors: Sequence[ErrorPair] | None = None,
) -> None:
    """Write the page.

    Args:
        evidence: What was measured; what was not is said to be missing.
        plots: Captions and PNG files, in the order shown.
        path: Where to.
        decision: What was decided, or what the gate would say now.
        examples: Where the version and the champion disagree; texts as they may be shown.
        errors: Confident wrong answers; texts as they may be shown.
    """
    title = f"{evidence.model_name}, version {evidence.model_version}"
    html.write(path, html.page(title, _sections(title, evidence, plots, decision, examples, errors)))


def _sections(
    title: str,
    evidence: Evidence,
    plots: Mapping[str, Path],
    decision: DecisionSummary | None,
    examples: Sequence[Disagreement] | None,
    errors: Sequence[ErrorPair] | None,
) -> Iterable[str]:
    left, rules = dict(plots), decision.rules if decision else ()

    def shown(start: str, *, broad: bool = False) -> Iterable[str]:
        for caption in [caption for caption in left if caption.startswith(start)]:
            yield html.figure(caption, left.pop(caption), broad=broad)

    yield f"<h1>{html.markup(title)}</h1>"
    yield html.paragraph(_where(evidence), "quiet")
    yield from _verdict(decision)
    yield from power(evidence)
    yield html.heading("Scores on held-out rows")
    yield scores(evidence)
    yield from shown("Confusion", broad=evidence.champion is not None)
    yield html.heading("Against the champion, on the same rows")
    yield from champion(evidence, {rule[0]: rule[1:3] for rule in rules})
    yield html.heading("Against the floors")
    yield floors(evidence)
    yield html.heading("By class")
    yield classes(evidence)
    yield html.heading("Can its confidence be believed?")
    yield from calibration(evidence)
    yield from shown("Reliability")
    yield from shown("Precision")
    yield html.heading("By slice")
    yield from shown("Accuracy by slice", broad=True)
    yield from slices(evidence)
    yield html.heading("Robustness to changed texts")
    yield from shown("Robustness", broad=True)
    yield from robustness(evidence, {rule[0]: rule[2:4] for rule in rules})
    yield html.heading("Where version and champion disagree")
    yield from disagreements(evidence, examples)
    yield html.heading("Confident and wrong")
    yield from errors_by_pair(errors)
    yield html.heading("Speed and cost")
    yield from speed(evidence)
    yield html.heading("Soundness")
    yield soundness(evidence)
    yield html.heading("What a naive split would have claimed")
    yield from naive(evidence)
    if left:
        yield html.heading("More plots")
        yield from (html.figure(caption, file) for caption, file in left.items())
    yield html.heading("What this rests on")
    yield origin(evidence)
    yield glossary()


def _where(evidence: Evidence) -> str:
    rows = "test rows not counted" if evidence.n_test is None else f"{evidence.n_test:,} test rows"
    data = "data not known" if evidence.data_version is None else f"data version {evidence.data_version}"
    met = "no champion" if evidence.champion_version is None else f"champion version {evidence.champion_version}"
    met = "itself the champion" if evidence.champion_version == evidence.model_version else met
    taken = f", evidence taken {evidence.taken_at}" if evidence.taken_at else ""
    return f"{rows} of {data}, {met}{taken}"


def _verdict(decision: DecisionSummary | None) -> Iterable[str]:
    if decision is None:
        body = html.paragraph("No decision on this version was known when this page was written.")
        yield f'<div class="verdict"><h2>Not decided</h2>{body}</div>'
        return
    by = ", ".join(part for part in (decision.when, f"by {decision.who}" if decision.who else "") if part)
    parts = [f"<h2>{'✓' if decision.favourable else '✗'} {html.markup(decision.heading)}</h2>"]
    parts += [html.paragraph(by, "quiet")] if by else []
    parts += [html.paragraph(f"In their words: {decision.why}")] if decision.why else []
    parts.append(html.listing(decision.reasons))
    yield f'<div class="verdict {"yes" if decision.favourable else "no"}">{"".join(parts)}</div>'
    yield html.heading("The gate's rules")
    if not decision.rules:
        yield html.paragraph("This decision does not rest on the gate's rules.")
        return
    ordered = sorted(decision.rules, key=lambda rule: _ORDER.get(rule[3], 1))  # a stable sort: the gate's order within a status
    counts = {status: sum(rule[3] == status for rule in ordered) for status in _ORDER}
    yield html.paragraph(
        f"{counts['pass']} of {len(ordered)} rules passed, {counts['fail']} failed, {counts['missing']} had no evidence, "
        "which counts as failed."
    )
    open_rules = [rule for rule in ordered if rule[3] != "pass"]
    if open_rules:
        yield _rules(open_rules)
    if counts["pass"]:
        yield html.folded(f"The {counts['pass']} rules that passed", _rules([rule for rule in ordered if rule[3] == "pass"]))


def _rules(rules: Sequence[Rule]) -> str:
    """On a narrow screen the sentence stands below the figures (class `rules`): it names both, and is too long for a column."""
    rows = [
        (html.status(status), html.name(name), _short(value), _short(threshold), reason)
        for name, value, threshold, status, reason in rules
    ]
    table = html.table(("", "rule", "value", "threshold", "what it says"), rows, text=(1, 4))
    return f'<div class="rules">{table}</div>'


def _short(value: Value) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
    return value if len(value) <= 40 else f"{value[:39]}…"
