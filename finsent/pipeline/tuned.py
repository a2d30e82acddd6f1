"""What a search leaves to be read: the best settings as a configuration file, and plots and table in its MLflow run."""

import csv
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finsent.config import Config, load_config
from finsent.evaluation.tuning_plots import TrialRecord, history_plot, importance_plot, slices_plot
from finsent.home import Home
from finsent.pipeline import study as studies
from finsent.training.space import Interval, Space, with_values

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study


def records(search: "Study") -> tuple[TrialRecord, ...]:
    """The trials that are over, in order."""
    found = []
    for trial in studies.ended(search):
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


def config_file(search: "Study", config: Config, home: Home) -> Path | None:
    """Write the best settings so far as `best.yaml` in the study's folder, in one rename; None while no trial is complete.

    It holds whatever deviates from the shipped profile, so that it can stand in place of the file that the search was given.
    """
    best = studies.best(search)
    if best is None:
        return None
    found = with_values(config, best.params)
    deviations = _deviations(found.model_dump(mode="json"), load_config(config.profile).model_dump(mode="json"))
    text = (
        f"# Lowest validation loss of {len(studies.ended(search))} trials in study {search.study_name}: "
        f"{best.value:.4f}, in trial {best.user_attrs[studies.NUMBER]}.\n"
        + yaml.safe_dump({"profile": config.profile, **deviations}, sort_keys=False, allow_unicode=True, width=110)
    )
    path = studies.folder_of(home, search.study_name) / "best.yaml"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
    return path


def publish(client: "MlflowClient", run_id: str, search: "Study", config: Config, home: Home, space: Space) -> None:
    """Put best settings, counts, table and plots into the search's run; later ones replace earlier ones."""
    found, best = records(search), studies.best(search)
    for state, count in studies.counts(search).items():
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
            path = config_file(search, config, home)
            if path is not None:
                client.log_artifact(run_id, str(path))
            _plots(search, found, space, folder)
        client.log_artifacts(run_id, str(folder))


def _plots(search: "Study", found: Sequence[TrialRecord], space: Space, folder: Path) -> None:
    from optuna.importance import get_param_importances

    history_plot(found, folder / "history.png")
    slices_plot(
        found, [key for key, values in space.items() if isinstance(values, Interval) and values.log], folder / "slices.png"
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
