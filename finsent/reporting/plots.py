"""Plots of an evaluation as PNG files, and the style of all plots. No pyplot: no global state, no display, thread-safe."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from finsent.evaluation.calibration import expected_calibration_error, reliability
from finsent.labels import LABELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from finsent.config import GateConfig
    from finsent.evaluation.evidence import Evidence, MetricsRecord, RobustnessRecord, SliceRecord

INK, QUIET, BASELINE, MODEL, CHAMPION, BAD = "#1f2430", "#8a8f98", "#b8bcc4", "#2b6cb0", "#dd8b3a", "#b42318"
_SHADE: Final = 0.75
_KINDS: Final = {"invariance": "label must stay: share that changed", "direction": "label must change: share that stayed"}


def draw_plots(evidence: "Evidence", scaled: Any, labels: Any, rules: "GateConfig", folder: Path) -> dict[str, Path]:
    """Draw every plot that the evidence has figures for, as PNG files in `folder`; returns captions and files.

    Args:
        evidence: Sections that are absent have no plot.
        scaled: [rows, 3], probabilities after temperature scaling.
        labels: [rows].
        rules: Gate rules, for margins and limits.
        folder: Created if absent.
    """
    drawn: dict[str, Path] = {}

    def file(caption: str, name: str) -> Path:
        return drawn.setdefault(caption, folder / f"{name}.png")

    if evidence.metrics is not None:
        champion = evidence.champion["metrics"] if evidence.champion else None
        confusion_plot(evidence.metrics, file("Confusion matrix", "confusion"), champion)
    reliability_plot(scaled, labels, file("Reliability after temperature scaling", "reliability"))
    calibrated: Any = evidence.calibration
    if calibrated is not None and calibrated.get("curve"):
        abstention_plot(calibrated["curve"], calibrated["abstention"], file("Precision bought by abstaining", "abstention"))
    if evidence.slices:
        path = file("Accuracy by slice", "slices")
        slice_plot(evidence.slices, path, margin=rules.slice_margin, min_rows=rules.min_slice_rows)
    if evidence.robustness:
        judged = [name for name, check in evidence.robustness.items() if check["n"] >= rules.min_check_texts]
        limits = {name: rules.robustness_limit(name) for name in judged}
        robustness_plot(evidence.robustness, file("Robustness to changed texts", "robustness"), limits=limits)
    return drawn


def confusion_plot(metrics: "MetricsRecord", path: Path, champion: "MetricsRecord | None" = None) -> None:
    """Confusion matrix, the champion's beside it; colour and percentages are shares of the true class."""
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
    save_figure(figure, path)


def _confusion(axes: Any, counts: NDArray[np.int64]) -> Any:
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*counts.shape):
        colour = "white" if shares[row, column] > 0.55 else INK
        text = f"{counts[row, column]:,}\n{shares[row, column]:.1%}"
        axes.text(column, row, text, ha="center", va="center", fontsize=11, color=colour)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), [f"{name}\n({total:,})" for name, total in zip(LABELS, totals[:, 0], strict=True)])
    axes.set(xlabel="predicted")
    return image


def reliability_plot(probabilities: ArrayLike, labels: ArrayLike, path: Path, bins: int = 15) -> None:
    """Reliability diagram: accuracy against confidence with 95 % intervals above, rows by confidence below.

    On the diagonal the model is calibrated. Intervals are Wilson's (1927) with rows taken as independent: a bin whose interval
    meets the diagonal is consistent with calibration.
    """
    from matplotlib.figure import Figure

    rows = reliability(probabilities, labels, bins)
    error = expected_calibration_error(probabilities, labels, bins)
    used = rows.count > 0
    figure = Figure(figsize=(5.6, 6.0), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges = np.arange(bins) / bins
    upper.plot([0, 1], [0, 1], color=QUIET, linestyle="--", linewidth=1, label="calibrated")
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
        style_axes(axes)
    save_figure(figure, path)


def _wilson(share: NDArray[np.float64], n: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % score intervals of shares [bins] of n rows [bins]."""
    z = 1.96
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    reach = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return np.clip(centre - reach, 0, 1), np.clip(centre + reach, 0, 1)


def abstention_plot(curve: Sequence[Mapping[str, float]], chosen: Mapping[str, Any] | None, path: Path) -> None:
    """Precision against coverage as the abstain threshold rises; the version's own threshold and its target are marked.

    Args:
        curve: Points with `threshold`, `coverage` and `precision`.
        chosen: Effect of the version's threshold, an `AbstentionRecord`; None if it has none.
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
            xycoords=axes.get_yaxis_transform(),  # in the right margin, clear of the curve and the tick labels
            textcoords="offset points",
            fontsize=8,
            color=QUIET,
            va="center",
        )
        if chosen["precision"] is not None:
            label = f"threshold {chosen['threshold']:.3f}: {chosen['coverage']:.1%} answered, {chosen['precision']:.1%} right"
            axes.plot(chosen["coverage"], chosen["precision"], "D", color=CHAMPION, markersize=8, label=label)
            axes.legend(loc="lower left", frameon=False, fontsize=9)
    lowest = min(precision.min(), 1.0 if chosen is None else chosen["target_precision"])
    bottom = max(0.0, float(np.floor(20 * lowest) / 20) - 0.05)
    axes.set(xlabel="share of tweets answered (coverage)", ylabel="share of answers that are right", xlim=(0, 1.02))
    axes.set_ylim(bottom, 1.01)
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    style_axes(axes)
    save_figure(figure, path)


def slice_plot(slices: "Mapping[str, Mapping[str, SliceRecord]]", path: Path, *, margin: float, min_rows: int) -> None:
    """Forest plot of the accuracy on every slice; with a champion also its accuracy and the paired difference.

    Args:
        slices: By dimension and value.
        path: PNG file.
        margin: Non-inferiority margin, a share; drawn as a line beside the differences.
        min_rows: Slices of fewer rows are not judged and drawn hollow.
    """
    from matplotlib.figure import Figure

    rows: list[tuple[str, SliceRecord | None]] = []
    for dimension, values in slices.items():
        rows.append((dimension.replace("_", " "), None))
        # bands and periods in natural order, names by size
        ordered = (
            natural_order(values) if dimension in {"length", "time"} else sorted(values, key=lambda name: -values[name]["n"])
        )
        rows += [(name, values[name]) for name in ordered]
    paired = any(found is not None and "accuracy_difference" in found for _, found in rows)
    size = (9.6 if paired else 7.0, 1.5 + 0.27 * len(rows))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, 2 if paired else 1, sharey=True, squeeze=False, width_ratios=[3, 2] if paired else [1])[0]
    places = range(len(rows))
    for place, (_, found) in zip(places, rows, strict=True):
        if found is not None:
            _accuracies(panels[0], place, found, judged=found["n"] >= min_rows)
            if paired and "accuracy_difference" in found:
                _difference(panels[1], place, found, judged=found["n"] >= min_rows)
    panels[0].set_yticks(places, [name if found is None else f"{name}  ({found['n']:,})" for name, found in rows])
    for label, (_, found) in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if found is None else "normal")
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    panels[0].set(xlabel="accuracy, 95 % interval")
    if paired:
        panels[1].axvline(0, color=QUIET, linewidth=1)
        panels[1].axvline(-100 * margin, color=BAD, linestyle="--", linewidth=1.2)
        panels[1].set(xlabel=f"minus the champion, points, 95 % interval\n(margin {-100 * margin:+.1f}, dashed)")
        panels[1].tick_params(axis="y", length=0)
    for axes in panels:
        style_axes(axes)
        axes.grid(visible=False, axis="y")
    handles = [_mark("o", MODEL, "this version"), _mark("o", "white", f"under {min_rows} rows: not judged", edge=MODEL)]
    handles += [_mark("D", CHAMPION, "champion")] if paired else []
    if any(found is not None and "baseline_accuracy" in found for _, found in rows):
        handles += [_mark("|", INK, "TF-IDF baseline", edge=QUIET)]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    save_figure(figure, path)


def natural_order(values: Iterable[str]) -> list[str]:
    """Sorted by the first number in each name (bands of length, years, quarters); names without one come last."""

    def place(name: str) -> tuple[float, int, str]:
        numbers = [int(number) for number in re.findall(r"\d+", name)]
        # "over 30 words" follows "21 to 30 words"
        return (float(numbers[0]) + 0.5 * name.startswith("over") if numbers else math.inf, sum(numbers[1:]), name)

    return sorted(values, key=place)


def _accuracies(axes: Any, place: int, found: "SliceRecord", *, judged: bool) -> None:
    axes.plot([found["accuracy_interval"]["low"], found["accuracy_interval"]["high"]], [place] * 2, color=MODEL, linewidth=1.4)
    if "baseline_accuracy" in found:
        axes.plot(found["baseline_accuracy"], place, "|", color=QUIET, markersize=9, markeredgewidth=2)
    if "champion_accuracy" in found:
        below = place + 0.24  # otherwise hidden where both are equal
        axes.plot(found["champion_accuracy"], below, "D", color=CHAMPION, markersize=4.5)
    axes.plot(found["accuracy"], place, "o", color=MODEL, markerfacecolor=MODEL if judged else "white", markersize=6, zorder=4)


def _difference(axes: Any, place: int, found: "SliceRecord", *, judged: bool) -> None:
    low, seen, high = (100 * found["accuracy_difference"][end] for end in ("low", "difference", "high"))
    axes.plot([low, high], [place] * 2, color=MODEL, linewidth=1.4)
    axes.plot(seen, place, "o", color=MODEL, markerfacecolor=MODEL if judged else "white", markersize=6)


def _mark(marker: str, colour: str, label: str, edge: str | None = None) -> Any:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"markeredgewidth": 2} if marker == "|" else {}
    return Line2D([], [], marker=marker, color=edge or colour, markerfacecolor=colour, linestyle="none", label=label, **style)


def robustness_plot(checks: "Mapping[str, RobustnessRecord]", path: Path, *, limits: Mapping[str, float]) -> None:
    """Failure rate of every check with its interval, its limit and, if there is one, the champion's rate.

    Bars over their limit are red and hatched. `limits` are by check; a check without a limit is not judged.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    kinds = [kind for kind in _KINDS if any(check["kind"] == kind for check in checks.values())]
    by_kind = {kind: {name: check for name, check in checks.items() if check["kind"] == kind} for kind in kinds}
    sizes = [len(found) for found in by_kind.values()]
    figure = Figure(figsize=(9.6, 1.0 + sum(0.9 + 0.34 * size for size in sizes)), layout="constrained")
    panels = figure.subplots(len(kinds), 1, squeeze=False, height_ratios=[size + 1 for size in sizes])[:, 0]
    for axes, (kind, found) in zip(panels, by_kind.items(), strict=True):
        names = sorted(found, key=lambda name: -found[name]["failure_rate"])
        for place, name in enumerate(names):
            _failure(axes, place, found[name], limits.get(name))
        axes.set_yticks(range(len(names)), [f"{name.replace('_', ' ')}  ({found[name]['n']:,})" for name in names])
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_title(_KINDS[kind], fontsize=11, loc="left")
        highest = max(max(check["interval"]["high"], limits.get(name, 0.0)) for name, check in found.items())
        axes.set_xlim(0, 1.0 if kind == "direction" else max(0.25, 1.1 * highest))
        axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
        style_axes(axes)
        axes.grid(visible=False, axis="y")
    handles = [Patch(color=MODEL, alpha=_SHADE, label="this version, 95 % interval")]
    if any(check["failure_rate"] > limits.get(name, 1.0) for name, check in checks.items()):
        handles += [Patch(facecolor=BAD, alpha=_SHADE, hatch="///", edgecolor="white", label="over its limit")]
    if any("champion_failure_rate" in check for check in checks.values()):
        handles += [_mark("D", CHAMPION, "champion")]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles), frameon=False, fontsize=9)
    save_figure(figure, path)


def _failure(axes: Any, place: int, check: "RobustnessRecord", limit: float | None) -> None:
    rate, over = check["failure_rate"], limit is not None and check["failure_rate"] > limit
    axes.barh(
        place, rate, height=0.62, color=BAD if over else MODEL, alpha=_SHADE, hatch="///" if over else None, edgecolor="white"
    )
    axes.plot([check["interval"]["low"], check["interval"]["high"]], [place] * 2, color=INK, linewidth=1.2)
    text = "not judged" if limit is None else f"{'✗ limit' if over else 'limit'} {100 * limit:.3g} %"
    if limit is not None:
        axes.plot([limit, limit], [place - 0.45, place + 0.45], color=INK, linestyle="--", linewidth=1.2)
    # in the right margin, beyond all bars
    style: dict[str, Any] = {"color": BAD, "fontweight": "bold"} if over else {"color": INK if limit is not None else QUIET}
    axes.text(1.01, place, text, transform=axes.get_yaxis_transform(), fontsize=9, va="center", **style)
    if "champion_failure_rate" in check:
        axes.plot(check["champion_failure_rate"], place, "D", color=CHAMPION, markersize=5, markeredgecolor="white")


def blank_figure(width: float, height: float) -> "tuple[Figure, Any]":
    """An empty figure and its axes; inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def style_axes(axes: Any) -> None:
    """Remove two sides of the frame and lighten the grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, color=QUIET, alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)


def save_figure(figure: "Figure", path: Path) -> None:
    """Write the figure as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130, metadata={"Software": "finsent"})
