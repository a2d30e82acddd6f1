"""Plots of an evaluation, as PNG files. No pyplot: no global state, no display, safe in threads."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from finsent.evaluation.calibration import expected_calibration_error, reliability
from finsent.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finsent.evaluation.evidence import SourceRecord
    from finsent.evaluation.metrics import Metrics

INK, QUIET, FLOOR, MODEL, CHAMPION = "#1f2430", "#8a8f98", "#b8bcc4", "#2b6cb0", "#dd8b3a"


def confusion_plot(metrics: "Metrics", path: Path) -> None:
    """Counts of true against predicted class; colour and percentages are shares of the true class's rows."""
    counts = np.asarray(metrics.confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    figure, axes = blank_figure(5.6, 5.0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        axes.text(
            column,
            row,
            f"{counts[row, column]:,}\n{shares[row, column]:.1%}",
            ha="center",
            va="center",
            fontsize=11,
            color="white" if shares[row, column] > 0.55 else INK,
        )
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), [f"{name}\n({total:,})" for name, total in zip(LABELS, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted", ylabel="true (rows)")
    axes.set_title(f"{metrics.n:,} test rows · accuracy {metrics.accuracy:.3f} · macro-F1 {metrics.macro_f1:.3f}", fontsize=11)
    bar = figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
    bar.set_label("share of the true class")
    save(figure, path)


def reliability_plot(probabilities: ArrayLike, labels: ArrayLike, path: Path, bins: int = 15) -> None:
    """Accuracy against confidence above, rows by confidence below; on the diagonal the model is as good as it says."""
    rows = reliability(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)
    used = rows.count > 0
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.arange(bins) / bins
    upper.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="perfectly calibrated")
    upper.bar(edges[used], rows.accuracy[used], width=1 / bins, align="edge", color=MODEL, alpha=0.35, edgecolor="white")
    upper.plot(rows.confidence[used], rows.accuracy[used], color=MODEL, marker="o", markersize=4, label="model")
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    upper.set_title(f"{rows.count.sum():,} test rows · expected calibration error {error:.3f}", fontsize=11)
    upper.legend(loc="upper left", frameon=False)
    lower.bar(edges, rows.count, width=1 / bins, align="edge", color=MODEL, alpha=0.6, edgecolor="white")
    lower.set(xlabel="confidence (largest probability)", ylabel="rows")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (upper, lower):
        quieten(axes)
    save(figure, path)


def per_source_plot(per_source: "Mapping[str, SourceRecord]", path: Path) -> None:
    """Accuracy by source beside the TF-IDF floor and, where the sources carry `champion_accuracy`, the champion."""
    sources = sorted(per_source, key=lambda name: per_source[name]["n"], reverse=True)
    bars = [("TF-IDF floor", FLOOR, [float(per_source[name]["baseline_accuracy"]) for name in sources])]
    if any("champion_accuracy" in per_source[name] for name in sources):
        bars.append(("champion", CHAMPION, [float(per_source[name].get("champion_accuracy", np.nan)) for name in sources]))
    bars.append(("this version", MODEL, [float(per_source[name]["accuracy"]) for name in sources]))

    thickness = 0.8 / len(bars)
    figure, axes = blank_figure(7.2, 1.4 + len(sources) * (0.28 * len(bars) + 0.15))
    positions = np.arange(len(sources))
    for index, (name, colour, values) in enumerate(bars):
        offset = (index - (len(bars) - 1) / 2) * thickness
        drawn = axes.barh(positions + offset, values, height=thickness * 0.92, color=colour, label=name)
        axes.bar_label(
            drawn, labels=["–" if np.isnan(value) else f"{value:.3f}" for value in values], padding=3, fontsize=8, color=INK
        )
    axes.set_yticks(positions, [f"{name}\n({per_source[name]['n']:,} rows)" for name in sources])
    axes.invert_yaxis()
    axes.set(xlabel="accuracy on held-out rows", xlim=(0, 1.1))
    axes.set_xticks(np.linspace(0, 1, 6))
    quieten(axes)
    axes.grid(visible=False, axis="y")
    figure.legend(loc="outside upper center", ncols=len(bars), frameon=False)
    save(figure, path)


def blank_figure(width: float, height: float) -> "tuple[Figure, Any]":
    """An empty figure and its axes; inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def quieten(axes: Any) -> None:
    """Leave out what carries nothing: two sides of the frame, strong grid lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=QUIET, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def save(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": "finsent"})
