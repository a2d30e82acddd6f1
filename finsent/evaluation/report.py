"""One evaluation as one self-contained HTML page: evidence in tables, plots inline, nothing loaded from elsewhere."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

from finsent.evaluation.evidence import Evidence, IntervalRecord
from finsent.labels import LABELS

_UNKNOWN = "not measured"
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2430; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.quiet { color: #5d636e; } figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; }
img { width: 29rem; max-width: 100%; height: auto; } table { border-collapse: collapse; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #dfe2e7; text-align: right; }
th:first-child, td:first-child { text-align: left; } th { font-weight: 600; color: #5d636e; }
"""


def write_report(evidence: Evidence, plots: Mapping[str, Path], path: Path) -> None:
    """Write the page; `plots` are captions and PNG files, in the order shown."""
    title = f"{evidence.model_name}, version {evidence.model_version}"
    sections = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="quiet">{escape(_where(evidence))}</p>',
        "<h2>Scores on held-out rows</h2>",
        _scores(evidence),
        *_champion(evidence),
        "<h2>Plots</h2>" if plots else "",
        *(_figure(caption, file) for caption, file in plots.items()),
        "<h2>By class</h2>",
        _by_class(evidence),
        "<h2>By source</h2>",
        _by_source(evidence),
        "<h2>Soundness</h2>",
        _soundness(evidence),
    ]
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style></head>'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{page}<body>{''.join(sections)}</body></html>\n", encoding="utf-8")


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
    return _table(heads, rows)


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
    yield _table(("this version minus champion", "paired interval"), rows)


def _by_class(evidence: Evidence) -> str:
    per_class = evidence.metrics["per_class"] if evidence.metrics else {}
    rows = [
        (label, *(_decimal(scores[key]) for key in ("precision", "recall", "f1")), f"{scores['support']:,}")
        for label, scores in ((label, per_class[label]) for label in LABELS if label in per_class)
    ]
    return _table(("class", "precision", "recall", "F1", "rows"), rows)


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
    return _table(("source", "rows", "accuracy", "macro-F1", "champion's accuracy", "floor's accuracy"), rows)


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
    return _table(("check", "found"), rows)


def _figure(caption: str, file: Path) -> str:
    data = base64.b64encode(file.read_bytes()).decode("ascii")
    image = f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}">'
    return f'<figure>{image}<figcaption class="quiet">{escape(caption)}</figcaption></figure>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not rows:
        return f"<p>{_UNKNOWN.capitalize()}.</p>"
    head = "".join(f"<th>{escape(cell)}</th>" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"


def _interval(interval: IntervalRecord | None, *, signed: bool = False) -> str:
    if interval is None:
        return "–"
    sign = "+" if signed else ""
    return f"{interval['low']:{sign}.3f} to {interval['high']:{sign}.3f} ({interval['level']:.0%})"


def _decimal(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else _UNKNOWN


def _or_unknown(value: object) -> str:
    return _UNKNOWN if value is None else str(value)
