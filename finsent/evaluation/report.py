"""One evaluation as one self-contained HTML page: evidence in tables, plots inline, nothing loaded from elsewhere."""

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from finsent.evaluation import html
from finsent.evaluation.evidence import Evidence, IntervalRecord
from finsent.evaluation.naive_split import claim_in_words, how_estimated
from finsent.labels import LABELS

_UNKNOWN = "not measured"


def write_report(evidence: Evidence, plots: Mapping[str, Path], path: Path) -> None:
    """Write the page; `plots` are captions and PNG files, in the order shown."""
    title = f"{evidence.model_name}, version {evidence.model_version}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_where(evidence))}</p>',
        "<h2>Scores on held-out rows</h2>",
        _scores(evidence),
        *_naive(evidence),
        *_champion(evidence),
        "<h2>Plots</h2>" if plots else "",
        *(html.figure(caption, file) for caption, file in plots.items()),
        "<h2>By class</h2>",
        _by_class(evidence),
        "<h2>By source</h2>",
        _by_source(evidence),
        "<h2>Soundness</h2>",
        _soundness(evidence),
    ]
    html.write(path, html.page(title, sections))


def _where(evidence: Evidence) -> str:
    rows = _UNKNOWN if evidence.n_test is None else f"{evidence.n_test:,} test rows"
    return f"{rows}, data version {_or_unknown(evidence.data_version)}, fingerprint {_or_unknown(evidence.data_fingerprint)}"


def _scores(evidence: Evidence) -> str:
    own, floor, champion = evidence.metrics, evidence.baseline, evidence.champion
    intervals = evidence.intervals or {}
    rows = []
    for name, key in (("accuracy", "accuracy"), ("macro-F1", "macro_f1"), ("MCC", "mcc")):
        sides = (own, champion["metrics"] if champion else None, floor)
        score, rival, least = (_decimal(side.get(key)) if side else "–" for side in sides)
        rows.append((name, score, _interval(intervals.get(key)), rival, least))
    heads = ("", "this version", "interval", f"champion {evidence.champion_version or ''}", "TF-IDF floor")
    return html.table(heads, rows)


def _naive(evidence: Evidence) -> Iterable[str]:
    yield html.heading("What a naive split would have claimed")
    record = evidence.naive_split
    if record is None:
        yield html.paragraph(f"{_UNKNOWN.capitalize()}.")
        return
    yield html.paragraph(claim_in_words(record))
    yield html.paragraph(f"{how_estimated(record)} The gate does not look at this.", "quiet")


def _champion(evidence: Evidence) -> Iterable[str]:
    yield "<h2>Against the champion, on the same rows</h2>"
    if evidence.champion is None:
        met = "There was no champion." if evidence.champion_version is None else "The champion was not scored."
        yield f"<p>{met}</p>"
        return
    test, paired = evidence.champion["mcnemar"], evidence.champion["paired_bootstrap"]
    yield f"<p>This version alone is right {test['only_a']:,} times, the champion alone {test['only_b']:,} times. "
    yield f"Were they equally good, so many wins or more would come by chance with p = {test['p_one_sided']:.3g} "
    yield "(exact McNemar test, one-sided).</p>"
    rows = [("macro-F1", _interval(paired["macro_f1_difference"], signed=True))]
    rows += [(f"F1 of {label}", _interval(item, signed=True)) for label, item in paired["class_f1_difference"].items()]
    yield html.table(("this version minus champion", "paired interval"), rows)


def _by_class(evidence: Evidence) -> str:
    per_class = evidence.metrics["per_class"] if evidence.metrics else {}
    rows = [
        (label, *(_decimal(scores[key]) for key in ("precision", "recall", "f1")), f"{scores['support']:,}")
        for label, scores in ((label, per_class[label]) for label in LABELS if label in per_class)
    ]
    return html.table(("class", "precision", "recall", "F1", "rows"), rows)


def _by_source(evidence: Evidence) -> str:
    rows = [
        (
            name,
            f"{scores['n']:,}",
            _decimal(scores["accuracy"]),
            _decimal(scores["macro_f1"]),
            _decimal(scores.get("champion_accuracy")),
            _decimal(scores["baseline_accuracy"]),
        )
        for name, scores in sorted((evidence.per_source or {}).items(), key=lambda item: -item[1]["n"])
    ]
    return html.table(("source", "rows", "accuracy", "macro-F1", "champion's accuracy", "floor's accuracy"), rows)


def _soundness(evidence: Evidence) -> str:
    proof, floor = evidence.round_trip, evidence.baseline
    rows = [
        ("equal or nearly equal tweets across splits", _or_unknown(evidence.leaks)),
        ("calibration error after temperature scaling", _decimal(evidence.ece)),
        ("temperature", _decimal(evidence.temperature)),
        ("p against the TF-IDF floor", f"{floor['mcnemar']['p_one_sided']:.3g}" if floor else _UNKNOWN),
        ("the head in the registry is the trained one", ("yes" if proof["head_hash_equal"] else "no") if proof else _UNKNOWN),
        ("largest logit difference after the registry", f"{proof['max_logit_difference']:.2g}" if proof else _UNKNOWN),
        ("... between padding sides", f"{proof['max_padding_difference']:.2g}" if proof else _UNKNOWN),
        ("... between batch sizes", f"{proof['max_batch_difference']:.2g}" if proof else _UNKNOWN),
    ]
    return html.table(("check", "found"), rows)


def _interval(interval: IntervalRecord | None, *, signed: bool = False) -> str:
    if interval is None:
        return "–"
    sign = "+" if signed else ""
    return f"{interval['low']:{sign}.3f} to {interval['high']:{sign}.3f} ({interval['level']:.0%})"


def _decimal(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else _UNKNOWN


def _or_unknown(value: object) -> str:
    return _UNKNOWN if value is None else str(value)
