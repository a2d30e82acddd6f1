"""The tuning step: a hyper-parameter search on the training and validation splits, which registers nothing."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from finsent.config import Config
from finsent.data import tables
from finsent.errors import FinsentError, InputError
from finsent.logging_setup import track
from finsent.registry.tracking import experiment_id, filter_literal, log_splits, start_run
from finsent.steps.context import Context
from finsent.training.exclusive import hold_training
from finsent.tuning.report import publish, write_best_config
from finsent.tuning.search import (
    TrialRecord,
    best_trial,
    changed_since,
    count_states,
    finished_trials,
    open_study,
    study_dir,
    study_identity,
    study_name,
    tried,
)
from finsent.tuning.space import Space, count_settings, current_params, default_space, read_space, space_to_dict
from finsent.tuning.trial import TrialData, run_trial
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study

_log = logging.getLogger(__name__)

KIND: Final = "tune"
"""Tag `kind` of a search's run; its trials are nested below it."""
_TRIALS: Final = 20
"""Trials of a search that is given neither a number nor a time."""


@dataclass(frozen=True)
class TuneResult:
    """A search, as far as it has come."""

    study: str
    """Its name, and that of its folder below `tune` in the home."""
    trials: tuple[TrialRecord, ...]
    """All finished trials, those of earlier invocations too, in order."""
    states: dict[str, int]
    """Of these: complete, pruned, failed."""
    added: int
    """Trials of this invocation."""
    best: TrialRecord
    own: TrialRecord | None
    """The configuration's own settings; None where they failed."""
    config_file: Path
    """The best settings, as a file that --config takes."""
    run_id: str
    """MLflow run of the search."""


def tune(
    context: Context,
    *,
    trials: int | None = None,
    hours: float | None = None,
    study: str | None = None,
    space: Path | None = None,
) -> TuneResult:
    """Search settings of adapter and recipe for the lowest validation loss; the same call again resumes the search.

    The configuration's own settings are the first trial. Settings, search space and data identify the study: where one of
    them changed, a new one starts. The test split is never read.

    Args:
        context: Its configuration is where the search starts; data, study and result are in its workspace.
        trials: Trials in all, earlier invocations' included; left out, 20, or as many as `hours` allows. A space whose settings
            were all tried ends the search before.
        hours: No trial starts later than this after the beginning, except a first one.
        study: Beginning of the study's name; left out, the profile's name.
        space: YAML file of what is varied; left out, `default_space`.

    Raises:
        InputError: no data, or another process is at work in the study.
        ConfigError: the space is wrong.
        BaseModelError: the base cannot be reached.
        ServiceError: the MLflow server does not answer.
        FinsentError: no trial was completed.
    """
    from finsent.models.base_model import locate_base

    varied = read_space(space, context.config) if space else default_space(context.config)
    if hours is not None and not hours > 0:  # NaN too: no time would ever be later
        raise InputError(f"--hours {hours} is no time. Give a number above 0.")
    most = trials if trials is not None or hours is not None else _TRIALS
    deadline = time.monotonic() + hours * 3600 if hours is not None else None
    data = _load(context.workspace)
    client = context.registry.client
    base = None if context.config.model.embedded else locate_base(context.config.model, context.workspace).fingerprint
    identity = study_identity(context.config, varied, data.fingerprint, base)
    prefix = study or context.config.profile
    name = study_name(prefix, identity)
    if (changed := changed_since(context.workspace, prefix, name, identity)) is not None:
        _log.warning("%s changed since study %s: starting a new one, %s", " and ".join(changed[1]), changed[0], name)
    with (
        hold_training(context.workspace, f"tune {name}"),
        open_study(context.workspace, name, identity, current_params(context.config, varied)) as search,
    ):
        before = len(finished_trials(search))
        run_id, ended = _find_run(client, context.config, context.workspace, name)
        if run_id is None or not ended or most is None or before < most:
            with _open_run(context, data, name, varied, run_id) as run_id:
                todo = _remaining(search, varied, most, deadline)
                try:
                    for _ in track(todo, description="trials", total=most and most - before, unit="trial"):
                        run_trial(search, context.config, context.workspace, data, varied, run_id, context.require_own_run)
                        write_best_config(
                            search, context.config, context.workspace
                        )  # at once: a process that is killed leaves the best so far
                except KeyboardInterrupt:
                    publish(client, run_id, search, context.config, context.workspace, varied)
                    raise
                publish(client, run_id, search, context.config, context.workspace, varied)
        return _result(search, context.workspace, before, run_id)


def _load(home: Workspace) -> TrialData:
    """Training and validation rows of the newest data, and a fingerprint of these alone.

    Raises:
        InputError: no data, or none in one of the two.
    """
    from finsent.data.dataset import add_fingerprints, fingerprint_split, load_split

    version = tables.version(home, "tweets")
    if version is None:
        raise InputError("there are no rows to train on. Run `finsent ingest` first.")

    data = TrialData(
        version=version,
        fingerprint=add_fingerprints(*(fingerprint_split(home, split, version) for split in ("train", "validation"))),
        train=load_split(home, "train", version),
        validation=load_split(home, "validation", version),
    )
    if not data.train.texts or not data.validation.texts:
        raise InputError(
            f"data version {version} has {len(data.train.texts)} training, {len(data.validation.texts)} validation rows: "
            "ingest more."
        )
    return data


def _remaining(study: "Study", space: Space, most: int | None, deadline: float | None) -> Iterator[None]:
    """One item for each trial still to run, drawn when the one before is over; past the deadline, the first one only."""
    before, settings = len(finished_trials(study)), count_settings(space)
    while (count := len(finished_trials(study))) < (most if most is not None else count + 1):
        if len(tried(study, space)) >= settings:
            _log.info("Study %s: all %d settings of its space were tried; widen the space to go on", study.study_name, settings)
            return
        if deadline is not None and time.monotonic() >= deadline and count > before:
            _log.info("the time is up after %d trials; the same command resumes the search", count)
            return
        yield


def _find_run(client: "MlflowClient", config: Config, home: Workspace, name: str) -> tuple[str | None, bool]:
    """The search's run, None if this MLflow store has none, and whether it ended well."""
    wanted = f"tags.kind = '{KIND}' and tags.study = {filter_literal(name)}"
    runs = client.search_runs([experiment_id(client, home, config.experiment)], wanted, order_by=["attributes.start_time ASC"])
    return (str(runs[0].info.run_id), runs[0].info.status == "FINISHED") if runs else (None, False)


@contextmanager
def _open_run(context: Context, data: TrialData, name: str, space: Space, run_id: str | None) -> Iterator[str]:
    """The search's run, resumed or new, linked to its splits; nested runs that a killed process left open are ended."""
    from finsent.registry.tracking import RunTag, tag_run

    client, home = context.registry.client, context.workspace
    if run_id is not None:
        experiment = client.get_run(run_id).info.experiment_id
        wanted = f"tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'RUNNING'"
        for left in client.search_runs([experiment], wanted):
            tag_run(client, left.info.run_id, "trial_state", "failed")
            client.set_terminated(left.info.run_id, status="KILLED")
    tags: dict[RunTag, str] = {
        "study": name,
        "data_version": str(data.version),
        "space": json.dumps(space_to_dict(space))[:5000],
        **context.run_tags,
    }
    with start_run(context.config, home, kind=KIND, tags=tags, resume=run_id) as opened:
        if run_id is None:
            log_splits(client, opened, home, data.version, data.fingerprint, train=data.train, validation=data.validation)
        yield opened


def _result(study: "Study", home: Workspace, before: int, run_id: str) -> TuneResult:
    found, best = finished_trials(study), best_trial(study)
    if best is None:
        reasons = sorted({trial.reason for trial in found if trial.reason})
        raise FinsentError(
            f"none of the {len(found)} trials of study {study.study_name!r} was completed: " + "; ".join(reasons[:3])
        )
    return TuneResult(
        study=study.study_name,
        trials=found,
        states=count_states(found),
        added=len(found) - before,
        best=best,
        own=next((trial for trial in found if trial.number == 0 and trial.value is not None), None),
        config_file=study_dir(home, study.study_name) / "best.yaml",
        run_id=run_id,
    )
