"""Plots of a hyper-parameter search, as PNG files, from plain figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from finsent.reporting.plots import BASELINE, CHAMPION, MODEL, QUIET, blank_figure, save_figure, style_axes

Value = bool | int | float | str


@dataclass(frozen=True)
class TrialRecord:
    """A trial that is over."""

    number: int
    state: str
    """`complete`, `pruned` or `failed`."""
    value: float | None
    """What is minimised; None unless complete."""
    params: dict[str, Value]
    accuracy: float | None
    """On the validation split; None unless complete."""
    macro_f1: float | None
    seconds: float | None
    run_id: str | None
    """Its MLflow run."""
    reason: str | None
    """Why it was pruned or failed."""


def history_plot(trials: Sequence[TrialRecord], path: Path) -> None:
    """Value of each complete trial and the best so far; trial 0 is the configuration's own settings. One must be complete."""
    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    figure, axes = blank_figure(6.4, 4.0)
    numbers, values = [number for number, _ in done], [value for _, value in done]
    best = [min(values[: place + 1]) for place in range(len(values))]
    through = max(trial.number for trial in trials)
    axes.plot(numbers, values, "o", color=MODEL, markersize=5, label="complete trial")
    axes.step([*numbers, through], [*best, best[-1]], where="post", color=CHAMPION, linewidth=1.5, label="best so far")
    pruned = [trial.number for trial in trials if trial.state == "pruned"]
    if pruned:
        at_the_top = axes.get_xaxis_transform()  # x in data, y in shares of the panel: they have no value
        axes.plot(pruned, [0.97] * len(pruned), "x", color=QUIET, markersize=5, transform=at_the_top, label="pruned")
    if done and done[0][0] == 0:
        axes.axhline(values[0], color=QUIET, linestyle="--", linewidth=1, label="the configuration's own settings")
    axes.set(xlabel="trial", ylabel="validation loss (nats, after scaling)")
    style_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def importance_plot(importances: Mapping[str, float], path: Path) -> None:
    """Share of each setting in the differences between trials."""
    names = sorted(importances, key=lambda name: importances[name])
    figure, axes = blank_figure(6.4, 0.9 + 0.36 * len(names))
    axes.barh(range(len(names)), [importances[name] for name in names], color=MODEL, height=0.62)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="importance (shares of 1)")
    style_axes(axes)
    save_figure(figure, path)


def slices_plot(trials: Sequence[TrialRecord], logarithmic: Sequence[str], path: Path) -> None:
    """Value against each setting, one panel a setting; later trials are darker."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    done = [trial for trial in trials if trial.value is not None]
    names = sorted(done[0].params)
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(9.0, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    shades = [0.25 + 0.75 * (place + 1) / len(done) for place in range(len(done))]
    for axes, name in zip(panels, names, strict=False):
        given = [trial.params[name] for trial in done]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
        axes.scatter(
            given if numeric else [str(value) for value in given], [trial.value for trial in done], c=MODEL, alpha=shades, s=22
        )
        own = next((trial.params[name] for trial in done if trial.number == 0), None)
        if own is not None and numeric:
            axes.axvline(own, color=BASELINE, linestyle="--", linewidth=1)
        if name in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # labels between powers of ten would overlap
        axes.set_title(name, fontsize=10)
        style_axes(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle("Later trials are darker; the dashed line is the configuration's own setting.", fontsize=10, color=QUIET)
    figure.supylabel("validation loss (nats, after scaling)", fontsize=10)
    save_figure(figure, path)
