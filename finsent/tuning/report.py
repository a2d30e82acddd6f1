"""What a search leaves to be read: the best settings as a configuration file, and plots and table in its MLflow run."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finsent.config import Config, load_config
from finsent.evaluation.plots import CHAMPION, FLOOR, MODEL, QUIET, blank_figure, quieten, save
from finsent.home import Home
from finsent.tuning import search as studies
from finsent.tuning.space import Space, ValueRange, apply_params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study


def trial_records(search: "Study") -> tuple[TrialRecord, ...]:
    """The trials that are over, in order."""
    found = []
    for trial in studies.finished_trials(search):
        state, kept = studies.state_name(trial), trial.user_attrs
        found.append(
            TrialRecord(
                number=int(kept[studies.NUMBER]),
                state=state,
                value=trial.value if state == "complete" else None,  # Optuna gives a pruned one its last look's
                params=dict(trial.params),
                accuracy=kept.get("accuracy"),
                macro_f1=kept.get("macro_f1"),
                seconds=kept.get("seconds"),
                run_id=kept.get("run_id"),
                reason=kept.get(studies.REASON),
            )
        )
    return tuple(sorted(found, key=lambda trial: trial.number))


def write_best_config(search: "Study", config: Config, home: Home) -> Path | None:
    """Write the best settings so far as `best.yaml` in the study's folder, in one rename; None while no trial is complete.

    It holds whatever deviates from the shipped profile, so that it can stand in place of the file that the search was given.
    """
    best = studies.best_trial(search)
    if best is None:
        return None
    found = apply_params(config, best.params)
    deviations = _deviations(found.model_dump(mode="json"), load_config(config.profile).model_dump(mode="json"))
    text = (
        f"# Lowest validation loss of {len(studies.finished_trials(search))} trials in study {search.study_name}: "
        f"{best.value:.4f}, in trial {best.user_attrs[studies.NUMBER]}.\n"
        + yaml.safe_dump({"profile": config.profile, **deviations}, sort_keys=False, allow_unicode=True, width=110)
    )
    path = studies.study_dir(home, search.study_name) / "best.yaml"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def publish(client: "MlflowClient", run_id: str, search: "Study", config: Config, home: Home, space: Space) -> None:
    """Put best settings, counts, table and plots into the search's run; later ones replace earlier ones."""
    found, best = trial_records(search), studies.best_trial(search)
    for state, count in studies.count_states(search).items():
        client.log_metric(run_id, f"trials_{state}", count, step=len(found))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _table(found, folder / "trials.csv")
        if best is not None:
            # tags, since a parameter of a run cannot be changed when a later trial does better
            for key, value in {"trial": best.user_attrs[studies.NUMBER], **best.params}.items():
                client.set_tag(run_id, f"best.{key}", str(value))
            for key in ("loss", "accuracy", "macro_f1"):
                client.log_metric(run_id, f"best_{key}", float(best.user_attrs[key]), step=len(found))
            path = write_best_config(search, config, home)
            if path is not None:
                client.log_artifact(run_id, str(path))
            _plots(search, found, space, folder)
        client.log_artifacts(run_id, str(folder))


def _plots(search: "Study", found: Sequence[TrialRecord], space: Space, folder: Path) -> None:
    from optuna.importance import get_param_importances

    history_plot(found, folder / "history.png")
    slices_plot(
        found, [key for key, values in space.items() if isinstance(values, ValueRange) and values.log], folder / "slices.png"
    )
    values = {trial.value for trial in found if trial.value is not None}
    if len(values) >= 4:  # of fewer, shares would be noise
        importance_plot(get_param_importances(search), folder / "importances.png")


def _table(found: Sequence[TrialRecord], path: Path) -> None:
    keys = sorted({key for trial in found for key in trial.params})
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("trial", "state", "loss", "accuracy", "macro_f1", "seconds", *keys, "run_id", "reason"))
        for trial in found:
            measured = (trial.value, trial.accuracy, trial.macro_f1, trial.seconds)
            params = (trial.params.get(key) for key in keys)
            out.writerow((trial.number, trial.state, *measured, *params, trial.run_id, trial.reason))


def _deviations(values: Mapping[str, Any], shipped: Mapping[str, Any]) -> dict[str, Any]:
    """What differs from `shipped`, section by section."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        below = shipped.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            if inner := _deviations(value, below):
                found[key] = inner
        elif value != below:
            found[key] = value
    return found


# merged from finsent.tuning.report: Plots of a hyper-parameter search, as PNG files, from plain figures.

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
    quieten(axes)
    axes.legend(frameon=False, fontsize=9)
    save(figure, path)


def importance_plot(importances: Mapping[str, float], path: Path) -> None:
    """Share of each setting in the differences between trials."""
    names = sorted(importances, key=lambda name: importances[name])
    figure, axes = blank_figure(6.4, 0.9 + 0.36 * len(names))
    axes.barh(range(len(names)), [importances[name] for name in names], color=MODEL, height=0.62)
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="importance (shares of 1)")
    quieten(axes)
    save(figure, path)


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
            axes.axvline(own, color=FLOOR, linestyle="--", linewidth=1)
        if name in logarithmic:
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # labels between powers of ten would overlap
        axes.set_title(name, fontsize=10)
        quieten(axes)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.suptitle("Later trials are darker; the dashed line is the configuration's own setting.", fontsize=10, color=QUIET)
    figure.supylabel("validation loss (nats, after scaling)", fontsize=10)
    save(figure, path)
