"""Data report: one version of the data as a self-contained HTML page.

What the ingestion did not record is marked as such.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from finsent.data.dataset import DataVersion
from finsent.data.version_statistics import DataProfile, VersionDiff
from finsent.evaluation.confounding import Confounding
from finsent.labels import LABELS
from finsent.reporting import data_plots
from finsent.reporting.pages import embed_png, render, write_page


@dataclass(frozen=True)
class DataFacts:
    """Everything that is known of a version of the data."""

    data: DataVersion
    report: Mapping[str, Any]
    """The ingestion's own report; keys may be missing."""
    summary: DataProfile
    confounding: Confounding
    quarantine: Mapping[str, Sequence[Mapping[str, Any]]]
    """Some quarantined rows of each reason: source, row, text, detail."""
    quarantined: Mapping[str, int]
    """Rows in the quarantine by reason, of all ingestions up to this version."""
    conflicts: Sequence[tuple[str, str]]
    """Some contradictory pairs: one side, and the rows against it."""
    difference: VersionDiff | None
    """Changes since the previous version; None for the first."""
    languages: Mapping[str, int] | None = None
    """Languages of a fixed random sample of the rows; None if they were not detected."""


def write_data_report(facts: DataFacts, path: Path) -> None:
    """Draw the plots and write the page; folders are made."""
    by_source = facts.confounding.by_source
    with tempfile.TemporaryDirectory(prefix="finsent-data-") as scratch:
        figures = {caption: embed_png(file) for caption, file in _draw_plots(facts, Path(scratch)).items()}
    page = render(
        "data_report.html.j2",
        title=f"Data version {facts.data.version}",
        facts=facts,
        overview=format_overview(facts),
        class_heads=[f"of all {label}" for label in LABELS],
        class_totals={label: sum(counts[label] for counts in by_source.values()) for label in LABELS},
        figures=figures,
        quarantine=list(_quarantine(facts)),
    )
    write_page(path, page)


def _draw_plots(facts: DataFacts, folder: Path) -> dict[str, Path]:
    """Captions and PNG files, in the order shown."""
    summary, recorded = facts.summary, facts.report.get("group_sizes")
    plots = {
        "Classes by source": folder / "classes.png",
        "Length by split": folder / "length.png",
        "Near-duplicate groups of the new rows": folder / "groups.png",
    }
    data_plots.class_balance_plot(facts.confounding.by_source, plots["Classes by source"])
    data_plots.length_plot(summary, plots["Length by split"])
    counted = "rows, copies included" if recorded else "rows stored, copies not counted"
    data_plots.group_size_plot(recorded or summary.group_sizes, counted, plots["Near-duplicate groups of the new rows"])
    if summary.by_day:
        plots["Time of writing"] = folder / "time.png"
        data_plots.time_plot(summary, plots["Time of writing"])
    return plots


def format_overview(facts: DataFacts) -> str:
    """The version in a few sentences: rows, sources, period, splits, accounting and leaks."""
    summary, report, data = facts.summary, facts.report, facts.data
    sources = f"{len(summary.sources)} source{'s' if len(summary.sources) != 1 else ''}"
    span = f", written from {_day(summary.first)} to {_day(summary.last)}" if summary.first and summary.last else ""
    dated = " where the source gives a time" if span and summary.undated else ""
    uses = {"train": "training", "validation": "validation", "test": "testing", "excluded": "no use"}
    splits = ", ".join(f"{sum(counts.values()):,} for {uses.get(name, name)}" for name, counts in summary.by_split().items())
    sentences = [f"This version holds {summary.rows:,} labelled tweets from {sources}{span}{dated}: {splits}."]
    if {"read", "accepted", "duplicates", "quarantined"} <= report.keys():
        sentences.append(
            f"Of {report['read']:,} rows read, {report['accepted']:,} were accepted, {report['duplicates']:,} are duplicates of "
            f"stored rows and {report['quarantined']:,} were quarantined with a reason. None was lost."
        )
    else:
        sentences.append("No ingestion is on record for it: it was made by a review, or the ingestion's report is lost.")
    if data.leaks == 0:
        sentences.append("No tweet of one split has an equal or nearly equal one in another.")
    if data.naive_leak is not None:
        sentences.append(
            f"With a random split, {data.naive_leak:.1%} of the test rows would have had a near-duplicate among the training "
            "rows, and scores on them would have been too high for every model."
        )
    return " ".join(sentences)


def _day(moment: datetime) -> str:
    return f"{moment.day} {moment:%B %Y}"


def _quarantine(facts: DataFacts) -> Iterable[tuple[str, int, int, Sequence[Mapping[str, Any]]]]:
    """Reason, rows of this ingestion, rows on record, and examples; the most frequent reason first."""
    now: Mapping[str, int] = facts.report.get("reasons") or {}
    for reason in sorted({*now, *facts.quarantined}, key=lambda name: (-now.get(name, 0), -facts.quarantined.get(name, 0), name)):
        yield reason, now.get(reason, 0), facts.quarantined.get(reason, 0), facts.quarantine.get(reason, ())
