"""What a card says of a version's evidence, in Markdown; what was not measured is said to be missing."""

from collections.abc import Iterable, Sequence

from finsent.evaluation.baseline import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.power import format_power
from finsent.labels import LABELS
from finsent.model.manifest import ABSTAIN_BELOW, Manifest
from finsent.reporting import summaries
from finsent.reporting.summaries import UNKNOWN, DecisionSummary, format_naive_split, format_naive_split_method

_HOW_DRAWN = "Intervals are bootstrapped by near-duplicate group."
_HOW_READ = (
    "The interval of the calibration error leans upwards: its upper end is a safe bound, its lower end proves nothing. The Brier "
    "score is summed over the classes (0 best, 2 worst)."
)


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; pipes in cells are defused."""
    cells = [[str(cell) for cell in row] for row in rows]
    # text to the left, figures to the right: whatever shows the table may have a mind of its own otherwise
    text = [any(row[column][:1].isalpha() for row in cells) for column in range(len(head))]
    lines = [head, [":---" if left else "---:" for left in text], *cells]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def scores(evidence: Evidence | None, of: str = "this adapter", least: int = 200) -> str:
    """Scores with intervals, by class and by slice; `of` is what was measured, slices of fewer than `least` rows are left out.

    Sources are listed whatever their size.
    """
    if evidence is None or evidence.metrics is None:
        return "## Scores\n\nNot evaluated yet: `finsent evaluate` measures a version, and its evidence goes to the MLflow run."
    metrics = evidence.metrics
    classes = [
        (
            label,
            *(f"{metrics['per_class'][label][key]:.4f}" for key in ("precision", "recall", "f1")),
            metrics["per_class"][label]["support"],
        )
        for label in LABELS
        if label in metrics["per_class"]
    ]
    parts = [
        f"## Scores\n\nOn {metrics['n']:,} held-out test rows, from a fresh load of {of}. {_HOW_DRAWN}",
        table(_heads(evidence), _headline(evidence)),
        _HOW_READ,
        table(("class", "precision", "recall", "F1", "rows"), classes),
        *_slices(evidence, least),
    ]
    return "\n\n".join(parts)


def _heads(evidence: Evidence) -> tuple[str, ...]:
    champion = (f"champion, version {evidence.champion_version}",) if evidence.champion else ()
    return ("metric", "value", f"{summaries.interval_level(evidence)} interval".strip(), *champion, "TF-IDF floor")


def _headline(evidence: Evidence) -> Iterable[Sequence[object]]:
    intervals, floor = evidence.intervals or {}, (evidence.floors or {}).get("tfidf")
    own, rival = evidence.metrics, evidence.champion["metrics"] if evidence.champion else None
    brier = evidence.calibration["brier"] if evidence.calibration else None

    def interval(key: str) -> str:
        return summaries.format_interval(intervals.get(key), digits=4)

    for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1"), ("MCC", "mcc")):
        value = summaries.format_score(own[key] if own else None, 4)  # type: ignore[literal-required]
        beside = (summaries.format_score(rival[key], 4),) if rival else ()  # type: ignore[literal-required]
        least = UNKNOWN if floor is None else summaries.format_score(floor[key], 4) if key in floor else ""  # type: ignore[literal-required]
        yield (name, value, interval(key), *beside, least)
    blank = ("", "") if rival else ("",)
    yield ("calibration error (15 bins)", summaries.format_score(evidence.ece, 4), interval("ece"), *blank)
    yield ("Brier score", summaries.format_score(brier, 4), interval("brier"), *blank)


def _slices(evidence: Evidence, least: int) -> Iterable[str]:
    rows = [
        (
            f"{dimension} = {value}",
            found["n"],
            f"{found['accuracy']:.4f}",
            summaries.format_interval(found["accuracy_interval"], digits=4),
            f"{found['macro_f1']:.4f}",
            summaries.format_score(found.get("floor_accuracy"), 4),
        )
        for dimension, value, found in summaries.iter_slices(evidence)
        if dimension == "source" or found["n"] >= least
    ]
    if rows:
        yield table(("slice", "rows", "accuracy", "interval", "macro-F1", "floor accuracy"), rows)
        yield f"Sources, and other slices of at least {least} rows: of fewer, nothing can be judged."


def comparisons(evidence: Evidence | None) -> str:
    """Floors and champion on the same rows, what the test set can see, and how worn it is."""
    if evidence is None or evidence.metrics is None:
        return ""
    rows = [
        (
            BASELINE_NAMES.get(name, name),
            f"{found['accuracy']:.4f}",
            f"{found['macro_f1']:.4f}",
            summaries.format_p_value(found["mcnemar"]["p_one_sided"]),
        )
        for name, found in (evidence.floors or {}).items()
    ]
    if evidence.champion:
        metrics, test = evidence.champion["metrics"], evidence.champion["mcnemar"]
        name, scored = f"champion, version {evidence.champion_version}", (metrics["accuracy"], metrics["macro_f1"])
        rows.append((name, f"{scored[0]:.4f}", f"{scored[1]:.4f}", summaries.format_p_value(test["p_one_sided"])))
    parts = ["## Against others on the same rows"]
    parts.append(table(("model", "accuracy", "macro-F1", "p of the exact McNemar test"), rows) if rows else "Not measured.")
    if evidence.champion:
        paired = evidence.champion["paired_bootstrap"]["macro_f1_difference"]
        parts.append(
            f"Macro-F1 minus the champion's: {100 * paired['difference']:+.1f} points, {paired['level']:.0%} interval "
            f"{100 * paired['low']:+.1f} to {100 * paired['high']:+.1f}. {format_power(evidence.champion['power'])}"
        )
    else:
        parts.append(str(summaries.no_comparison_reason(evidence)))
    parts.append(summaries.format_test_set_uses(evidence))
    return "\n\n".join(parts)


def confidence(manifest: Manifest, evidence: Evidence | None) -> str:
    """Temperature, threshold and what abstaining does."""
    own = manifest.abstain_below
    fitted = (
        f"It has no abstain threshold of its own, and abstains below {ABSTAIN_BELOW:g}."
        if own is None
        else "It always answers."
        if summaries.always_answers(own)
        else f"Below a confidence of {own:.4f} it abstains."
    )
    found = evidence.calibration if evidence else None
    measured = summaries.format_abstention(evidence) if evidence and found else fitted
    before = (
        f" Before scaling the calibration error was {found['ece_before_scaling']:.4f}, after it "
        f"{summaries.format_score(evidence.ece, 4)}."
        if evidence and found
        else ""
    )
    origin = (
        "finsent did not train it and fitted no temperature"
        if manifest.data_version is None
        else "the temperature was fitted on the validation split"
    )
    scaled = f"Probabilities are softmax(logits / {manifest.temperature:.4g}); {origin}."
    return f"## Calibration and abstaining\n\n{scaled}{before} {measured}"


def robustness(evidence: Evidence | None) -> str:
    """Each check with its interval."""
    if evidence is None or not evidence.robustness:
        return "" if evidence is None else "## Robustness\n\nNot measured."
    wanted = {"invariance": "stay", "direction": "change"}
    rows = [
        (
            name.replace("_", " "),
            wanted.get(check["kind"], check["kind"]),
            check["n"],
            f"{check['failure_rate']:.1%}",
            f"{check['interval']['low']:.1%} to {check['interval']['high']:.1%}",
        )
        for name, check in evidence.robustness.items()
    ]
    return f"## Robustness\n\n{table(('change to the text', 'label must', 'texts', 'failed', 'interval'), rows)}"


def speed(evidence: Evidence | None) -> str:
    """Speed and cost."""
    return "" if evidence is None else f"## Speed and cost\n\n{summaries.format_speed(evidence)}"


def naive(evidence: Evidence | None) -> str:
    """What a random split would have claimed."""
    if evidence is None or evidence.naive_split is None:
        return ""
    said = f"{format_naive_split(evidence.naive_split)} {format_naive_split_method(evidence.naive_split)}"
    return f"## What a naive split would have claimed\n\n{said}"


def gate(decision: DecisionSummary | None) -> str:
    """What was decided on the version."""
    if decision is None:
        return "## Promotion\n\nNo decision of the registry gate was known when this card was written."
    by = ", ".join(part for part in (decision.when, f"by {decision.who}" if decision.who else "") if part)
    passed = sum(rule[3] == "pass" for rule in decision.rules)
    counts = f" {passed} of {len(decision.rules)} rules passed." if decision.rules else ""
    why = f"\n\nIn their words: {decision.why}" if decision.why else ""
    reasons = "".join(f"\n- {reason}" for reason in decision.reasons)
    return f"## Promotion\n\n{decision.heading}{f' ({by})' if by else ''}.{counts}{why}\n{reasons}"
