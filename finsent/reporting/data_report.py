"""Data report: one version of the data, with its plots, as a self-contained HTML page.

What the ingestion did not record is marked as such.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from finsent.data.dataset import DataVersion
from finsent.data.version_statistics import LONGEST, DataProfile, VersionDiff
from finsent.evaluation.confounding import Confounding
from finsent.labels import LABELS
from finsent.reporting.pages import embed_png, render, write_page
from finsent.reporting.plots import BASELINE, CHAMPION, INK, MODEL, QUIET, blank_figure, save_figure, style_axes

CLASS_COLOURS: Final = {"Neutral": BASELINE, "Bullish": MODEL, "Bearish": CHAMPION}
SPLIT_COLOURS: Final = {"train": MODEL, "validation": "#7a9e4b", "test": CHAMPION}
_SHOWN_SOURCES: Final = 20
_NARROW: Final = 0.07  # a share below this has no room for its number


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
    """Changes since the previous version; None for the first, or where that can no longer be read."""
    no_difference: str
    """Why there is none, a sentence."""
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
    class_balance_plot(facts.confounding.by_source, plots["Classes by source"])
    length_plot(summary, plots["Length by split"])
    counted = "rows, copies included" if recorded else "rows stored, copies not counted"
    group_size_plot(recorded or summary.group_sizes, counted, plots["Near-duplicate groups of the new rows"])
    if summary.by_day:
        plots["Time of writing"] = folder / "time.png"
        time_plot(summary, plots["Time of writing"])
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
        unlabelled = f"; {report['unlabelled']:,} have no label" if report.get("unlabelled") else ""
        sentences.append(
            f"Of {report['read']:,} rows read, {report['accepted']:,} were accepted, {report['duplicates']:,} are duplicates of "
            f"stored rows and {report['quarantined']:,} were quarantined with a reason"
            f"{unlabelled}. None was lost."
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


def length_plot(summary: DataProfile, path: Path) -> None:
    """Share of each split's rows by length in words; the curves of comparable splits coincide."""
    figure, axes = blank_figure(6.4, 4.0)
    for split, row in zip(summary.splits, summary.words, strict=True):
        shares = row / max(row.sum(), 1)
        label = f"{split} ({row.sum():,})"
        axes.plot(np.arange(LONGEST + 1), shares, color=SPLIT_COLOURS.get(split, QUIET), linewidth=1.6, label=label)
    axes.set(xlabel=f"words ({LONGEST} stands for all longer ones)", ylabel="share of the split's rows", xlim=(0, LONGEST))
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g}%")
    axes.legend(frameon=False)
    style_axes(axes)
    save_figure(figure, path)


def class_balance_plot(by_source: Mapping[str, Mapping[str, int]], path: Path) -> None:
    """Share of each class by source, stacked; the largest sources come first, those beyond twenty share one bar."""
    shown = dict(list(by_source.items())[:_SHOWN_SOURCES])
    rest = list(by_source.values())[_SHOWN_SOURCES:]
    if rest:
        shown[f"{len(rest)} more"] = {label: sum(counts[label] for counts in rest) for label in LABELS}
    totals = np.array([max(sum(counts.values()), 1) for counts in shown.values()])
    figure, axes = blank_figure(6.4, 1.5 + 0.36 * len(shown))
    left = np.zeros(len(shown))
    positions = np.arange(len(shown))
    for label in LABELS:
        shares = np.array([counts[label] for counts in shown.values()]) / totals
        drawn = axes.barh(positions, shares, left=left, color=CLASS_COLOURS[label], edgecolor="white", height=0.78, label=label)
        numbers = [f"{share:.0%}" if share >= _NARROW else "" for share in shares]
        colour = "white" if label == "Bullish" else INK
        axes.bar_label(drawn, labels=numbers, label_type="center", fontsize=8, color=colour)
        left += shares
    axes.set_yticks(positions, [f"{name} ({total:,})" for name, total in zip(shown, totals, strict=True)])
    axes.invert_yaxis()
    axes.set(xlabel="share of the source's rows", xlim=(0, 1))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    style_axes(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(LABELS), frameon=False)
    save_figure(figure, path)


def group_size_plot(sizes: Mapping[str, int], what: str, path: Path) -> None:
    """Rows by the size of their near-duplicate group; `what` labels the rows counted."""
    total = max(sum(sizes.values()), 1)
    figure, axes = blank_figure(6.4, 4.0)
    drawn = axes.bar(range(len(sizes)), list(sizes.values()), color=MODEL, width=0.75)
    axes.bar_label(drawn, labels=[f"{n:,}\n{n / total:.1%}" for n in sizes.values()], fontsize=8, color=INK, padding=2)
    axes.set_xticks(range(len(sizes)), list(sizes))
    axes.set(xlabel="rows in the near-duplicate group", ylabel=what)
    axes.margins(y=0.16)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    style_axes(axes)
    axes.grid(visible=False, axis="x")
    save_figure(figure, path)


def time_plot(summary: DataProfile, path: Path) -> None:
    """Dated rows over the time of writing, stacked by split; by day, week or 28 days, depending on the span."""
    from matplotlib.dates import date2num

    days = sorted(summary.by_day)
    step, name = _step((days[-1] - days[0]).days if days else 0)
    starts = sorted({_start(day, step) for day in days})
    left = date2num(starts)
    place = {start: index for index, start in enumerate(starts)}
    figure, axes = blank_figure(6.4, 4.0)
    below = np.zeros(len(starts))
    for split in summary.splits:
        rows = np.zeros(len(starts))
        for day, counts in summary.by_day.items():
            rows[place[_start(day, step)]] += counts.get(split, 0)
        colour = SPLIT_COLOURS.get(split, QUIET)
        axes.bar(left, rows, bottom=below, width=step * 0.94, align="edge", color=colour, label=split)
        below += rows
    axes.xaxis_date()
    axes.set(ylabel=f"rows in a {name}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    for label in axes.get_xticklabels():
        label.set(rotation=30, ha="right")
    axes.legend(frameon=False)
    style_axes(axes)
    save_figure(figure, path)


def _step(days: int) -> tuple[int, str]:
    return (1, "day") if days <= 92 else (7, "week") if days <= 3 * 365 else (28, "month of 28 days")


def _start(day: date, step: int) -> date:
    """First day of the period; periods start on a Monday."""
    return date.fromordinal((day.toordinal() - 1) // step * step + 1)
