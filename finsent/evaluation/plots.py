"""Plots of an evaluation, as PNG files. No pyplot: no global state, no display, safe in threads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.evaluation.calibration import expected_calibration_error, reliability
from finsent.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finsent.evaluation.evidence import MetricsRecord

INK, QUIET, FLOOR, MODEL, CHAMPION = "#1f2430", "#8a8f98", "#b8bcc4", "#2b6cb0", "#dd8b3a"


def confusion_plot(metrics: "MetricsRecord", path: Path, champion: "MetricsRecord | None" = None) -> None:
    """Counts of true against predicted class, the champion's beside them; colour and percentages are shares of the true class."""
    from matplotlib.figure import Figure

    sides = [("this version", metrics)] + ([("champion", champion)] if champion else [])
    figure = Figure(figsize=(2.0 + 4.4 * len(sides), 5.0), layout="constrained")
    panels = figure.subplots(1, len(sides), squeeze=False)[0]
    for axes, (name, scores) in zip(panels, sides, strict=True):
        image = _confusion(axes, np.asarray(scores["confusion"]))
        axes.set_title(f"{name}\naccuracy {scores['accuracy']:.3f} · macro-F1 {scores['macro_f1']:.3f}", fontsize=11)
    panels[0].set(ylabel=f"true class (of {metrics['n']:,} test rows)")
    bar = figure.colorbar(image, ax=panels[-1], fraction=0.046, pad=0.04)
    bar.set_label("share of the true class")
    save(figure, path)


def _confusion(axes: Any, counts: NDArray[np.int64]) -> Any:
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else INK
        said = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, said, ha="center", va="center", fontsize=11, color=colour)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), [f"{name}\n({total:,})" for name, total in zip(LABELS, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted")
    return image


def reliability_plot(probabilities: ArrayLike, labels: ArrayLike, path: Path, bins: int = 15) -> None:
    """Accuracy with 95 % intervals against confidence above, rows by confidence below.

    On the diagonal the model is as good as it says. Intervals are Wilson's (1927), rows taken as independent: where one meets the
    diagonal, the bin says nothing against the model.
    """
    from matplotlib.figure import Figure

    rows = reliability(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)
    used = rows.count > 0
    figure = Figure(figsize=(5.6, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.arange(bins) / bins
    upper.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="as good as it says")
    low, high = _wilson(rows.accuracy[used], rows.count[used])
    reach = (rows.accuracy[used] - low, high - rows.accuracy[used])
    upper.errorbar(
        rows.confidence[used],
        rows.accuracy[used],
        yerr=np.maximum(reach, 0),
        fmt="o-",
        color=MODEL,
        markersize=4,
        linewidth=1.2,
        elinewidth=1.2,
        capsize=2.5,
        label="this version, 95 % interval",
    )
    start = float(np.floor(10 * min(edges[used].min(), 1 / len(LABELS))) / 10)
    upper.set(ylabel="accuracy", xlim=(start, 1.01), ylim=(0, 1.03))
    upper.set_title(f"{rows.count.sum():,} test rows · expected calibration error {error:.3f}", fontsize=11)
    upper.legend(loc="lower right", frameon=False)
    lower.bar(edges, rows.count, width=1 / bins, align="edge", color=MODEL, alpha=0.6, edgecolor="white")
    lower.set(xlabel="confidence (largest probability)", ylabel="rows")
    lower.yaxis.set_major_formatter("{x:,.0f}")
    for axes in (upper, lower):
        quieten(axes)
    save(figure, path)


def _wilson(share: NDArray[np.float64], n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % score intervals of shares [bins] of n rows [bins]."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


def abstention_plot(curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any] | None, path: Path) -> None:
    """Precision against coverage as the threshold rises; the version's own threshold and its target are marked.

    Args:
        curve: Points with `threshold`, `coverage` and `precision`.
        chosen: What the version's threshold does, see `abstention.Abstention`; None if it has none.
        path: PNG file.
    """
    coverage = np.array([point["coverage"] for point in curve])
    precision = np.array([point["precision"] for point in curve])
    figure, axes = blank_figure(5.6, 4.4)
    axes.plot(coverage, precision, color=MODEL, linewidth=1.8)
    for point in curve[5 :: max(1, len(curve) // 6)]:
        at = (point["coverage"], point["precision"])
        axes.plot(*at, "o", color=MODEL, markersize=3)
        axes.annotate(f"≥ {point['threshold']:.2f}", at, (2, 5), textcoords="offset points", fontsize=8, color=QUIET)
    if chosen is not None:
        axes.axhline(chosen["target_precision"], color=QUIET, linestyle="--", linewidth=1)
        axes.annotate(
            f"target\n{100 * chosen['target_precision']:.3g} %",
            (1, chosen["target_precision"]),
            (4, 0),
            xycoords=axes.get_yaxis_transform(),  # in the right margin: neither the curve nor a tick's label is there
            textcoords="offset points",
            fontsize=8,
            color=QUIET,
            va="center",
        )
        if chosen["precision"] is not None:
            label = f"its threshold {chosen['threshold']:.3f}: {chosen['coverage']:.1%} answered, {chosen['precision']:.1%} right"
            axes.plot(chosen["coverage"], chosen["precision"], "D", color=CHAMPION, markersize=8, label=label)
            axes.legend(loc="lower left", frameon=False, fontsize=9)
    lowest = min(precision.min(), 1.0 if chosen is None else chosen["target_precision"])
    floor = max(0.0, float(np.floor(20 * lowest) / 20) - 0.05)
    axes.set(xlabel="share of tweets answered (coverage)", ylabel="share of answers that are right", xlim=(0, 1.02))
    axes.set_ylim(floor, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    quieten(axes)
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
