"""A data version as one self-contained page: what was read, what became of it, and what a score on it can be worth.

Written for somebody who was not there. What the ingestion did not record is said to be missing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from finsent.data.dataset import DataVersion
from finsent.data.diff import Difference
from finsent.data.summary import Summary
from finsent.evaluation import html
from finsent.evaluation.confounding import Confounding
from finsent.labels import LABELS

NOT_RECORDED: Final = "not recorded"
_OUTCOMES: Final = ("read", "accepted", "duplicates", "quarantined")
_RULE_TEXT: Final = {
    "group": "by a stable hash of the near-duplicate group: a row never changes its split when data grows",
    "time": "by the time of writing: later rows test",
    "source": "by source: whole sources are held out",
}


@dataclass(frozen=True)
class DataFacts:
    """Everything that is known of a version of the data."""

    data: DataVersion
    report: Mapping[str, Any]
    """The ingestion's own report; keys may be missing."""
    summary: Summary
    confounding: Confounding
    quarantine: Mapping[str, Sequence[Mapping[str, Any]]]
    """Some quarantined rows of each reason: source, row, text, detail."""
    quarantined: Mapping[str, int]
    """Rows in the quarantine by reason, of all ingestions up to this version."""
    conflicts: Sequence[tuple[str, str]]
    """Some contradictions: one side, and what stands against it."""
    difference: Difference | None
    """What changed since the version before; None for the first."""
    languages: Mapping[str, int] | None = None
    """Languages of a fixed random sample of the rows; None where nobody looked."""


def write_data_report(facts: DataFacts, plots: Mapping[str, Path], path: Path) -> None:
    """Write the page; `plots` are captions and PNG files, in the order shown."""
    title = f"Data version {facts.data.version}"
    html.write(path, html.page(title, _sections(title, facts, plots)))


def _sections(title: str, facts: DataFacts, plots: Mapping[str, Path]) -> Iterable[str]:
    yield f"<h1>{html.markup(title)}</h1>"
    yield html.paragraph(f"fingerprint {facts.data.fingerprint}", "quiet")
    yield html.paragraph(in_words(facts), "lead")
    yield html.heading("Every row read ended in one place")
    yield _accounting(facts.report)
    yield html.heading("Splits")
    yield _splits(facts)
    yield html.heading("Leaks")
    yield from _leaks(facts)
    yield html.heading("Label and source")
    yield from _confounding(facts.confounding)
    if plots:
        yield html.heading("Plots")
        yield from (html.figure(caption, file) for caption, file in plots.items())
    yield html.heading("Since the version before")
    yield from _difference(facts.difference)
    yield html.heading("Quarantine")
    yield from _quarantine(facts)
    yield html.heading("Contradictions")
    yield _conflicts(facts)
    yield html.heading("Texts")
    yield from _texts(facts)
    yield html.heading("What was read")
    yield from _inputs(facts.report)
    yield html.heading("Split rule")
    yield from _rule(facts.report)


def in_words(facts: DataFacts) -> str:
    """What the version is, for somebody who was not there."""
    summary, report, data = facts.summary, facts.report, facts.data
    sources = f"{len(summary.sources)} source{'s' if len(summary.sources) != 1 else ''}"
    span = f", written from {_day(summary.first)} to {_day(summary.last)}" if summary.first and summary.last else ""
    some = " where the source says when" if span and summary.undated else ""
    held = ", ".join(f"{n:,} for {name}" for name, n in _uses(summary))
    sentences = [f"This version holds {summary.rows:,} labelled tweets from {sources}{span}{some}: {held}."]
    if all(key in report for key in _OUTCOMES):
        sentences.append(
            f"For it {report['read']:,} rows were read: {report['accepted']:,} were taken, {report['duplicates']:,} repeat a row "
            f"that is there, {report['quarantined']:,} were put into quarantine with a reason. None was lost."
        )
    else:
        sentences.append("No reading of sources is on record for it: it was made by a review, or the ingestion's report is lost.")
    if data.leaks == 0:
        sentences.append("No tweet of one split has an equal or nearly equal one in another.")
    if data.naive_leak is not None:
        sentences.append(
            f"Had the rows been split at random instead, {data.naive_leak:.1%} of the test rows would have had a near copy among "
            "the training rows, and scores on them would have flattered every model."
        )
    return " ".join(sentences)


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def _uses(summary: Summary) -> Iterable[tuple[str, int]]:
    names = {"train": "training", "validation": "validation", "test": "testing", "excluded": "no use"}
    for split, counts in summary.by_split().items():
        yield names.get(split, split), sum(counts.values())


def _accounting(report: Mapping[str, Any]) -> str:
    by_source: Mapping[str, Mapping[str, int]] = report.get("by_source") or {}
    rows = [(name, *(_number(counts.get(key)) for key in _OUTCOMES)) for name, counts in by_source.items()]
    if len(rows) > 1 or (not rows and "read" in report):
        rows.append(("all", *(_number(report.get(key)) for key in _OUTCOMES)))
    return html.table(
        ("source", "read =", "accepted +", "duplicates +", "quarantined"), rows, empty=f"{NOT_RECORDED.capitalize()}."
    )


def _splits(facts: DataFacts) -> str:
    summary = facts.summary
    rows = []
    for split, counts in summary.by_split().items():
        total = sum(counts.values())
        cells = (f"{n:,} ({n / max(total, 1):.1%})" for n in counts.values())
        rows.append((split, f"{total:,}", f"{total / summary.rows:.1%}", *cells))
    return html.table(("split", "rows", "share", *LABELS), rows)


def _leaks(facts: DataFacts) -> Iterable[str]:
    audit: Mapping[str, Mapping[str, int]] = facts.report.get("audit") or {}
    exact, near = audit.get("exact", {}), audit.get("near", {})
    rows = [
        (f"{' and '.join(pair.split('-'))}", _number(exact.get(pair, 0)), _number(near.get(pair, 0)))
        for pair in dict.fromkeys((*exact, *near))
    ]
    if rows:
        yield html.table(("pairs of rows between", "equal", "nearly equal"), rows)
    else:
        yield html.paragraph(f"By pair of splits: {NOT_RECORDED}.")
    leaks = facts.data.leaks
    found = (
        "No leak audit of these rows is on record" if leaks is None else f"Duplicate pairs across splits, all together: {leaks:,}"
    )
    yield html.paragraph(f"{found}. It must be 0.", "" if leaks == 0 else "bad")
    naive = facts.data.naive_leak
    share = (
        NOT_RECORDED
        if naive is None
        else f"{naive:.1%} of the test rows, on average over ten draws from all rows read so far, copies included"
    )
    yield html.paragraph(f"A plain random split would have leaked: {share}.")
    reasons = facts.report.get("reasons")
    refused = None if reasons is None else reasons.get("bridges splits", 0)
    yield html.paragraph(
        f"Groups of new rows that touched two splits (bridges): {_number(facts.report.get('bridges'))}; rows of them "
        f"quarantined, since they are near twins of both sides: {_number(refused)}."
    )


def _confounding(found: Confounding) -> Iterable[str]:
    yield html.paragraph(found.sentence)
    rows = [
        ("most frequent class of all, right on test rows", _share(found.majority_accuracy)),
        ("most frequent class of the source, right on test rows", _share(found.source_majority_accuracy)),
        ("mutual information of label and source", f"{found.mutual_information:.3f} bits"),
        ("... as a share of the label's entropy", f"{found.explained:.1%} of {found.label_entropy:.3f} bits"),
        ("Cramér's V, bias-corrected (0 unrelated, 1 the same)", f"{found.cramers_v:.3f}"),
    ]
    yield html.table(("guess or measure", "found"), rows)
    totals = [sum(counts[label] for counts in found.by_source.values()) for label in LABELS]
    balance = []
    for name, counts in found.by_source.items():
        n = sum(counts.values())
        shares = (f"{counts[label] / max(n, 1):.1%}" for label in LABELS)
        of_class = (f"{counts[label] / max(total, 1):.1%}" for label, total in zip(LABELS, totals, strict=True))
        balance.append((name, f"{n:,}", *shares, *of_class))
    heads = ("source", "rows", *LABELS, *(f"of all {label}" for label in LABELS))
    yield html.table(heads, balance)


def _difference(found: Difference | None) -> Iterable[str]:
    if found is None:
        yield html.paragraph("This is the first version.")
        return
    moved = sum(found.moved.values())
    yield html.paragraph(
        f"Version {found.before} had {found.rows_before:,} rows, this one has {found.rows_after:,}: {found.n_added:,} added, "
        f"{found.n_removed:,} removed, {sum(found.relabelled.values()):,} relabelled, {moved:,} moved between splits.",
        "bad" if moved else "",
    )
    kinds = (("added", found.added), ("removed", found.removed))
    rows = [(kind, name, *(_number(n) for n in counts.values())) for kind, table in kinds for name, counts in table.items()]
    if rows:
        yield html.table(("", "source", *LABELS), rows, text=(1,))
    shares = [(label, _share(found.shares_before[label]), _share(found.shares_after[label])) for label in LABELS]
    yield html.table(("class", f"share in version {found.before}", "share now"), shares)
    if found.p_value is not None:
        yield html.paragraph(
            f"Labels of the added rows against those of version {found.before}: chi-square {found.chi_square:.1f}, "
            f"p = {found.p_value:.3g}."
        )
    examples = [
        (kind, html.quote(row["text"]), row.get("label", row.get("label_before", "")))
        for kind, some in found.examples.items()
        for row in some
    ]
    if examples:
        yield html.table(("for example", "text", "label"), examples, text=(1, 2))


def _quarantine(facts: DataFacts) -> Iterable[str]:
    reasons: Mapping[str, int] = facts.report.get("reasons") or {}
    names = sorted(
        {*reasons, *facts.quarantined}, key=lambda name: (-reasons.get(name, 0), -facts.quarantined.get(name, 0), name)
    )
    rows = []
    for name in names:
        shown = "".join(
            f'<p>{html.quote(row["text"] or "(no text)", 140)}<br><span class="quiet long">{html.markup(_origin(row))}</span></p>'
            for row in facts.quarantine.get(name, ())
        )
        rows.append((name, _number(reasons.get(name, 0)), _number(facts.quarantined.get(name, 0)), html.Markup(shown)))
    heads = ("reason", "this time", "on record", "for example")
    yield html.table(heads, rows, text=(3,), empty="Nothing was ever quarantined.")
    if rows:
        yield html.paragraph(
            "A row is on record once, however often its file is read. `finsent data quarantine` shows all of them.", "quiet"
        )


def _origin(row: Mapping[str, Any]) -> str:
    detail = " ".join(str(row["detail"]).split())
    return f"{row['source']} row {row['row']}: {detail if len(detail) <= 160 else detail[:159] + '…'}"


def _conflicts(facts: DataFacts) -> str:
    total = facts.report.get("conflicts")
    known = (
        f"Groups of near duplicates with more than one label, this time: {_number(total)}. Their new rows are in quarantine. "
        "Some that are on record, of this ingestion and of earlier ones:"
    )
    rows = [(html.quote(here, 200), html.quote(there, 300)) for here, there in facts.conflicts]
    return html.paragraph(known) + (html.table(("some of them: one side", "against"), rows, text=(0, 1)) if rows else "")


def _texts(facts: DataFacts) -> Iterable[str]:
    summary = facts.summary
    flags = [(name, f"{n:,}", f"{n / summary.rows:.2%}") for name, n in summary.flags.items()]
    yield html.table(("noted of stored rows (flags)", "rows", "share"), flags, empty="No stored row carries a flag.")
    if facts.languages:
        total = sum(facts.languages.values())
        rows = [(name, f"{n:,}", f"{n / total:.1%}") for name, n in sorted(facts.languages.items(), key=lambda item: -item[1])]
        yield html.table((f"language, of {total:,} random rows", "rows", "share"), rows)
    if summary.undated:
        yield html.paragraph(f"{summary.undated:,} rows ({summary.undated / summary.rows:.1%}) have no time of writing.")


def _inputs(report: Mapping[str, Any]) -> Iterable[str]:
    inputs: Sequence[Mapping[str, Any]] = report.get("inputs") or ()
    rows = [
        (
            str(item.get("name")),
            html.code(str(item.get("uri"))),
            _number(item.get("bytes")),
            html.code(str(item.get("sha256") or item.get("revision") or NOT_RECORDED)),
        )
        for item in inputs
    ]
    yield html.table(("source", "where", "bytes", "SHA-256"), rows, text=(1, 3), empty=f"{NOT_RECORDED.capitalize()}.")
    schemas: Mapping[str, Mapping[str, Any]] = report.get("schemas") or {}
    if schemas:
        described = [(name, _listed(schema.get("columns")), _listed(schema.get("labels"))) for name, schema in schemas.items()]
        yield html.table(("source", "columns", "label values"), described, text=(1, 2))


def _rule(report: Mapping[str, Any]) -> Iterable[str]:
    rule: Mapping[str, Any] = report.get("split_rule") or {}
    strategy = str(rule.get("strategy", rule.get("split", "group")))
    if rule and strategy in _RULE_TEXT:
        yield html.paragraph(f"Rows are split {_RULE_TEXT[strategy]}. A near-duplicate group lives in one split.")
    rows = [(key.replace("_", " "), _plain(value)) for key, value in rule.items()]
    yield html.table(("setting", "value"), rows, text=(1,), empty=f"{NOT_RECORDED.capitalize()}.")


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else "–" if value is None else str(value)


def _listed(values: Any) -> str:
    if values is None:
        return NOT_RECORDED
    items = (
        [f"{key}: {value}" for key, value in values.items()] if isinstance(values, Mapping) else [str(value) for value in values]
    )
    return ", ".join(items[:20]) + (f" and {len(items) - 20} more" if len(items) > 20 else "")


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else NOT_RECORDED


def _share(value: float | None) -> str:
    return NOT_RECORDED if value is None else f"{value:.1%}"
