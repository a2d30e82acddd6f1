"""Results of a search: its trials, the best settings as a configuration file, and table and plots in its MLflow run."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finsent.config import Config, load_config
from finsent.config.loader import write_yaml
from finsent.files import atomic_write
from finsent.reporting.plots import BASELINE, CHAMPION, MODEL, QUIET, blank_figure, save_figure, style_axes
from finsent.tuning.search import TrialRecord, best_trial, count_states, finished_trials, study_dir
from finsent.tuning.space import Space, apply_params
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study

_LOSS_AXIS = "validation loss (nats, after scaling)"


def write_best_config(study: "Study", config: Config, home: Workspace) -> Path | None:
    """Write the best settings so far as `best.yaml` in the study's folder, atomically; None while no trial is complete.

    It holds all deviations from the shipped profile, so that it can replace the file that the search was given.
    """
    best = best_trial(study)
    if best is None:
        return None
    shipped = load_config(config.profile).model_dump(mode="json")
    deviations = _deviations(apply_params(config, best.params).model_dump(mode="json"), shipped)
    text = (
        f"# Lowest validation loss of {len(finished_trials(study))} trials in study {study.study_name}: "
        f"{best.value:.4f}, in trial {best.number}.\n" + write_yaml({"profile": config.profile, **deviations}) + "\n"
    )
    path = study_dir(home, study.study_name) / "best.yaml"
    atomic_write(path, text)
    return path


def _deviations(values: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from `shipped`, section by section."""
    found = {key: (value, shipped.get(key)) for key, value in values.items() if value != shipped.get(key)}
    return {
        key: _deviations(value, old) if isinstance(value, Mapping) and isinstance(old, Mapping) else value
        for key, (value, old) in found.items()
    }


def publish(client: "MlflowClient", run_id: str, study: "Study", config: Config, home: Workspace, space: Space) -> None:
    """Put best settings, counts, table and plots into the search's run; later ones replace earlier ones."""
    found, best = finished_trials(study), best_trial(study)
    for state, count in count_states(found).items():
        client.log_metric(run_id, f"trials_{state}", count, step=len(found))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _write_table(found, folder / "trials.csv")
        if best is not None:
            # tags, since a parameter of a run cannot be changed when a later trial is better
            for key, value in {"trial": best.number, **best.params}.items():
                client.set_tag(run_id, f"best.{key}", str(value))
            for key, score in {"loss": best.value, "accuracy": best.accuracy, "macro_f1": best.macro_f1}.items():
                client.log_metric(run_id, f"best_{key}", score, step=len(found))
            client.log_artifact(run_id, str(write_best_config(study, config, home)))
            history_plot(found, folder / "history.png")
            slices_plot(found, [key for key, values in space.items() if getattr(values, "log", False)], folder / "slices.png")
            if len({trial.value for trial in found if trial.value is not None}) >= 4:  # of fewer, shares would be noise
                from optuna.importance import get_param_importances

                importance_plot(get_param_importances(study), folder / "importances.png")
        client.log_artifacts(run_id, str(folder))


def _write_table(found: Sequence[TrialRecord], path: Path) -> None:
    keys = sorted({key for trial in found for key in trial.params})
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("trial", "state", "loss", "accuracy", "macro_f1", "seconds", *keys, "run_id", "reason"))
        for trial in found:
            measured = (trial.value, trial.accuracy, trial.macro_f1, trial.seconds)
            params = (trial.params.get(key) for key in keys)
            out.writerow((trial.number, trial.state, *measured, *params, trial.run_id, trial.reason))


def history_plot(trials: Sequence[TrialRecord], path: Path) -> None:
    """Value of each complete trial and the best so far; trial 0 is the configuration's own settings. One must be complete."""
    done = [(trial.number, trial.value) for trial in trials if trial.value is not None]
    figure, axes = blank_figure(6.4, 4.0)
    numbers, values = [number for number, _ in done], [value for _, value in done]
    best = [min(values[: count + 1]) for count in range(len(values))]
    last = max(trial.number for trial in trials)
    axes.plot(numbers, values, "o", color=MODEL, markersize=5, label="complete trial")
    axes.step([*numbers, last], [*best, best[-1]], where="post", color=CHAMPION, linewidth=1.5, label="best so far")
    pruned = [trial.number for trial in trials if trial.state == "pruned"]
    if pruned:
        at_the_top = axes.get_xaxis_transform()  # x in data, y in shares of the panel: they have no value
        axes.plot(pruned, [0.97] * len(pruned), "x", color=QUIET, markersize=5, transform=at_the_top, label="pruned")
    if numbers[0] == 0:
        axes.axhline(values[0], color=QUIET, linestyle="--", linewidth=1, label="the configuration's own settings")
    axes.set(xlabel="trial", ylabel=_LOSS_AXIS)
    style_axes(axes)
    axes.legend(frameon=False, fontsize=9)
    save_figure(figure, path)


def importance_plot(importances: Mapping[str, float], path: Path) -> None:
    """Share of each setting in the differences between trials (fANOVA, Optuna's default)."""
    names = sorted(importances, key=lambda name: importances[name])
    figure, axes = blank_figure(6.4, 0.9 + 0.36 * len(names))
    axes.barh(names, [importances[name] for name in names], color=MODEL, height=0.62)
    axes.set(xlabel="importance (shares of 1)")
    style_axes(axes)
    save_figure(figure, path)


def slices_plot(trials: Sequence[TrialRecord], logarithmic: Sequence[str], path: Path) -> None:
    """Value against each setting, one panel a setting; later trials are darker. One must be complete."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullFormatter

    done = [trial for trial in trials if trial.value is not None]
    names = sorted(done[0].params)
    rows = -(-len(names) // 3)
    figure = Figure(figsize=(9.0, 2.7 * rows), layout="constrained")
    panels = figure.subplots(rows, 3, squeeze=False, sharey=True).ravel()
    shades = [0.25 + 0.75 * (count + 1) / len(done) for count in range(len(done))]
    for axes, name in zip(panels, names, strict=False):
        given = [trial.params[name] for trial in done]
        numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in given)
        shown = given if numeric else [str(value) for value in given]
        axes.scatter(shown, [trial.value for trial in done], c=MODEL, alpha=shades, s=22)
        if numeric and done[0].number == 0:
            axes.axvline(given[0], color=BASELINE, linestyle="--", linewidth=1)
        if name in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # labels between powers of ten would overlap
        axes.set_title(name, fontsize=10)
        style_axes(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle("Later trials are darker; the dashed line is the configuration's own setting.", fontsize=10, color=QUIET)
    figure.supylabel(_LOSS_AXIS, fontsize=10)
    save_figure(figure, path)
