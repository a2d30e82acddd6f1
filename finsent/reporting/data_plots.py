"""Plots of a data version as PNG files."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final

import numpy as np

from finsent.data.version_statistics import LONGEST, DataProfile
from finsent.labels import LABELS
from finsent.reporting.plots import BASELINE, CHAMPION, INK, MODEL, QUIET, blank_figure, save_figure, style_axes

CLASS_COLOURS: Final = {"Neutral": BASELINE, "Bullish": MODEL, "Bearish": CHAMPION}
SPLIT_COLOURS: Final = {"train": MODEL, "validation": "#7a9e4b", "test": CHAMPION}
_SHOWN_SOURCES: Final = 20
_NARROW: Final = 0.07  # a share below this has no room for its number


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
