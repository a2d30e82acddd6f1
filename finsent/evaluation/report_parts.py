"""The sections of an evaluation's page, as HTML; what was not measured is said to be missing."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finsent.evaluation import html
from finsent.evaluation.baseline import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.examples import Disagreement, ErrorPair
from finsent.evaluation.power import format_power
from finsent.labels import LABELS
from finsent.reporting import summaries
from finsent.reporting.summaries import UNKNOWN, format_interval, format_naive_split, format_naive_split_method, format_score

_SCORES = (("accuracy", "accuracy"), ("macro-F1", "macro_f1"), ("MCC", "mcc"))


def power(evidence: Evidence) -> Iterable[str]:
    """What the test set can show at all, and how worn it is."""
    yield html.heading("What this test set can show")
    if evidence.champion is not None:
        yield html.paragraph(format_power(evidence.champion["power"]))
    else:
        yield html.paragraph(f"{summaries.no_comparison_reason(evidence)} What differences these rows can show is not known.")
    yield html.paragraph(summaries.format_test_set_uses(evidence))


def scores(evidence: Evidence) -> str:
    """This version beside the champion and the best floor."""
    own, rival = evidence.metrics, evidence.champion["metrics"] if evidence.champion else None
    intervals = evidence.intervals or {}
    floor = (evidence.floors or {}).get("tfidf")
    rows = [
        (
            name,
            format_score(own[key]) if own else UNKNOWN,  # type: ignore[literal-required]
            format_interval(intervals.get(key)),
            *((format_score(rival[key]),) if rival else ()),  # type: ignore[literal-required]
            format_score(floor[key]) if floor and key in floor else "–",  # type: ignore[literal-required]
        )
        for name, key in _SCORES
    ]
    heads = (
        "",
        "this version",
        f"{summaries.interval_level(evidence)} interval",
        *((f"champion {evidence.champion_version}",) if rival else ()),
        "TF-IDF floor",
    )
    note = html.paragraph("Intervals are bootstrapped by near-duplicate group: near copies of one tweet count once.", "quiet")
    return html.table(heads, rows) + note


def champion(evidence: Evidence, judged: Mapping[str, Sequence[object]]) -> Iterable[str]:
    """The paired tests; `judged` has value and threshold of the gate's rules by name."""
    if evidence.champion is None:
        yield html.paragraph(str(summaries.no_comparison_reason(evidence)))
        return
    test, paired = evidence.champion["mcnemar"], evidence.champion["paired_bootstrap"]
    yield html.paragraph(
        f"This version is better on {test['only_a']:,} groups of near-duplicate tweets, the champion on {test['only_b']:,}. "
        "Were they equally good, so many wins or more would come by chance with p = "
        f"{summaries.format_p_value(test['p_one_sided'])} (exact McNemar test, one-sided)."
    )
    differences = {"macro-F1": ("macro_f1_no_worse", paired["macro_f1_difference"])}
    for label, found in paired["class_f1_difference"].items():
        differences[f"F1 of {label}"] = (f"class_no_worse.{label}", found)
    rows = [
        (
            name,
            f"{100 * found['difference']:+.1f}",
            f"{100 * found['low']:+.1f} to {100 * found['high']:+.1f}",
            *(_points(side) for side in judged.get(rule, (None, None))),
        )
        for name, (rule, found) in differences.items()
    ]
    at = f"{paired['macro_f1_difference']['level']:.0%}"
    heads = ("this version minus champion, in points", "difference", f"paired {at} interval", "gate's lower end", "must be above")
    yield html.table(heads, rows)
    yield html.paragraph(
        "The gate asks that the version be shown to be no worse by more than a margin: the lower end of a one-sided interval, "
        "corrected for the number of classes, must be above it.",
        "quiet",
    )


def _points(share: object) -> str:
    return f"{100 * share:+.1f}" if isinstance(share, int | float) else "–"


def floors(evidence: Evidence) -> str:
    """What any version must beat."""
    rows = [
        (
            BASELINE_NAMES.get(name, name),
            format_score(found["accuracy"]),
            format_score(found["macro_f1"]),
            summaries.format_p_value(found["mcnemar"]["p_one_sided"]),
        )
        for name, found in (evidence.floors or {}).items()
    ]
    return html.table(("floor, trained on the same rows", "accuracy", "macro-F1", "p of the McNemar test against it"), rows)


def classes(evidence: Evidence) -> str:
    """Scores by class, the champion's F1 beside them."""
    own = evidence.metrics["per_class"] if evidence.metrics else {}
    rival = evidence.champion["metrics"]["per_class"] if evidence.champion else {}
    rows = [
        (
            label,
            *(format_score(found[key]) for key in ("precision", "recall", "f1")),
            f"{found['support']:,}",
            *((format_score(rival[label]["f1"]),) if label in rival else ()),
        )
        for label, found in ((label, own[label]) for label in LABELS if label in own)
    ]
    heads = ("class", "precision", "recall", "F1", "rows", *(("champion's F1",) if rival else ()))
    return html.table(heads, rows)


def calibration(evidence: Evidence) -> Iterable[str]:
    """Calibration error, Brier score and what abstaining buys."""
    found, intervals = evidence.calibration, evidence.intervals or {}
    rows = [
        (
            "expected calibration error (15 bins), after temperature scaling",
            format_score(evidence.ece),
            format_interval(intervals.get("ece")),
        ),
        ("... before", format_score(found["ece_before_scaling"]) if found else UNKNOWN, "–"),
        (
            "Brier score (summed over classes, 0 best, 2 worst)",
            format_score(found["brier"]) if found else UNKNOWN,
            format_interval(intervals.get("brier")),
        ),
        ("temperature", format_score(evidence.temperature), "–"),
    ]
    yield html.table(("", "value", f"{summaries.interval_level(evidence)} interval"), rows)
    yield html.paragraph(
        "A calibration error is never below what chance alone gives, and its interval leans upwards: the upper end is a safe "
        "bound, the lower end proves nothing.",
        "quiet",
    )
    worse = summaries.format_scaling(evidence)
    if worse:
        yield html.paragraph(worse)
    yield html.paragraph(summaries.format_abstention(evidence))


def slices(evidence: Evidence) -> Iterable[str]:
    """What stands out, and on a click the table."""
    worst = summaries.weakest_slices(evidence)
    if worst:
        named = "; ".join(
            f"{dimension} = {value}: {found['accuracy']:.3f} ({found['n']:,} rows)" for dimension, value, found in worst
        )
        yield html.paragraph(f"Lowest accuracy: {named}.")
    rows, rival = [], evidence.champion is not None
    for dimension, value, found in summaries.iter_slices(evidence):
        difference = found.get("accuracy_difference")
        rows.append(
            (
                f"{dimension} = {value}",
                f"{found['n']:,}",
                format_score(found["accuracy"]),
                format_interval(found["accuracy_interval"]),
                format_score(found["macro_f1"]),
                *(
                    (
                        format_score(found["champion_accuracy"]) if "champion_accuracy" in found else "–",
                        f"{100 * difference['low']:+.1f} to {100 * difference['high']:+.1f}" if difference else "–",
                    )
                    if rival
                    else ()
                ),
                format_score(found.get("floor_accuracy")),
            )
        )
    beside = ("champion", "difference, points") if rival else ()
    heads = ("slice", "rows", "accuracy", "interval", "macro-F1", *beside, "TF-IDF floor")
    table = html.table(heads, rows)
    yield html.folded(f"All {len(rows)} slices", table) if rows else table


def robustness(evidence: Evidence, judged: Mapping[str, Sequence[object]]) -> Iterable[str]:
    """Each check, and texts on which it failed; `judged` has threshold and status of the gate's rules by name."""
    checks: Any = evidence.robustness or {}
    rival = evidence.champion is not None
    known = any(f"robust.{name}" in judged for name in checks)
    wanted = {"invariance": "label must stay", "direction": "label must change"}
    rows = [
        (
            name.replace("_", " "),
            wanted.get(check["kind"], check["kind"]),
            f"{check['n']:,}",
            f"{check['failure_rate']:.1%}",
            f"{check['interval']['low']:.1%} to {check['interval']['high']:.1%}",
            *((f"{check['champion_failure_rate']:.1%}" if "champion_failure_rate" in check else "–",) if rival else ()),
            *(_limit(*judged.get(f"robust.{name}", (None, ""))) if known else ()),
        )
        for name, check in checks.items()
    ]
    heads = ("change", "what must happen", "texts", "failed", "interval", *(("champion",) if rival else ()))
    yield html.table((*heads, *(("limit", "") if known else ())), rows, text=(1,))
    failed = [
        (
            name.replace("_", " "),
            html.Markup(f"{html.quote(example['original'])}<br>{html.quote(example['changed'])}"),
            html.Markup(f"{html.markup(str(example['before']))}<br>{html.markup(str(example['after']))}"),
        )
        for name, check in checks.items()
        for example in check.get("examples") or ()
    ]
    if failed:
        table = html.table(("change", "text before and after", "answer before and after"), failed, text=(1, 2))
        yield html.folded(f"Texts on which a check failed ({len(failed)})", table)


def _limit(threshold: object, status: object) -> tuple[str, str]:
    """A check of too few texts has no rule, and so no limit; what passed needs no mark."""
    limit = f"{100 * threshold:.3g}%" if isinstance(threshold, int | float) else "–"
    return limit, "" if status in {"", "pass"} else html.status(str(status))


def disagreements(evidence: Evidence, examples: Sequence[Disagreement] | None) -> Iterable[str]:
    """The surest rows of each kind of disagreement."""
    if not examples:
        agreed = "No examples were kept." if examples is None else "They agree on every test row."
        yield html.paragraph(summaries.no_comparison_reason(evidence) or agreed)
        return
    for kind in dict.fromkeys(example.kind for example in examples):
        rows = [
            (html.quote(found.text), found.label, found.own, f"{found.confidence:.2f}", found.champion)
            for found in examples
            if found.kind == kind
        ]
        yield html.paragraph(f"{kind[0].upper()}{kind[1:]} (the surest first, one of each near-duplicate group):")
        yield html.table(("tweet", "truth", "this version", "confidence", "champion"), rows, text=(1, 2, 4))


def errors_by_pair(errors: Sequence[ErrorPair] | None) -> Iterable[str]:
    """The surest wrong answers by pair of classes; one given with less than even confidence is not confident."""
    if not errors:
        yield html.paragraph("No examples were kept." if errors is None else "It made no error on the test rows.")
        return
    rows = [
        (html.quote(worst.text), f"{pair.label} taken for {pair.own}", f"{worst.confidence:.2f}", f"{pair.count:,}")
        for pair in errors
        for worst in pair.worst
        if worst.confidence >= 0.5
    ]
    none = "No wrong answer had a confidence of 0.5 or more."
    yield html.table(("tweet", "error", "confidence", "errors of this kind"), rows, text=(1,), empty=none)


def speed(evidence: Evidence) -> Iterable[str]:
    """Speed and cost in a sentence."""
    yield html.paragraph(summaries.format_speed(evidence))


def soundness(evidence: Evidence) -> str:
    """Leak audit and round trip."""
    proof = evidence.round_trip

    def shown(key: str) -> str:
        return ("yes" if proof[key] else "NO") if proof else UNKNOWN  # type: ignore[literal-required]

    def size(key: str) -> str:
        return f"{proof[key]:.2g}" if proof else UNKNOWN  # type: ignore[literal-required]

    leaks = evidence.leaks_unknown_because or (UNKNOWN if evidence.leaks is None else f"{evidence.leaks:,}")
    rows = [
        ("pairs of equal or nearly equal tweets across splits", leaks),
        ("the head in the registry is the trained one", shown("head_hash_equal")),
        ("the order of the labels is training's", shown("labels_equal")),
        ("padding and pooled position are training's", shown("padding_equal")),
        ("largest logit difference between training and a load from the registry", size("max_logit_difference")),
        ("... between padding sides", size("max_padding_difference")),
        ("... between batch sizes", size("max_batch_difference")),
    ]
    return html.table(("check", "found"), rows)


def naive(evidence: Evidence) -> Iterable[str]:
    """The claim of a plain random split."""
    record = evidence.naive_split
    if record is None:
        yield html.paragraph(f"{UNKNOWN.capitalize()}.")
        return
    yield html.paragraph(format_naive_split(record))
    yield html.paragraph(f"{format_naive_split_method(record)} The gate does not look at this.", "quiet")


def origin(evidence: Evidence) -> str:
    """By what data, artifact and rules can be told again."""
    rows = [
        ("model and version", f"{evidence.model_name} {evidence.model_version}"),
        ("data version", UNKNOWN if evidence.data_version is None else str(evidence.data_version)),
        ("fingerprint of the data", _code(evidence.data_fingerprint)),
        ("SHA-256 of the artifact's manifest", _code(evidence.manifest_sha256)),
        ("SHA-256 of the gate's rules when the evidence was taken", _code(evidence.rules_sha256)),
        ("evidence taken at", evidence.taken_at or UNKNOWN),
        ("scored with", evidence.scored_with or UNKNOWN),
    ]
    return html.table(("", "value"), rows, text=(1,))


def _code(value: str | None) -> str:
    return UNKNOWN if value is None else html.code(value)
