"""Hyper-parameter search on the training and validation splits: nothing is registered, and the test split is never read."""

import functools
import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.errors import FinsentError, InputError
from finsent.home import Home
from finsent.progress import track
from finsent.tuning import search as studies
from finsent.tuning.report import TrialRecord, publish, trial_records, write_best_config
from finsent.tuning.space import Space, apply_params, current_params, default_space, distributions, read_space
from finsent.tuning.trial import TrialData, run_trial

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from optuna import Study
    from optuna.trial import Trial

_log = logging.getLogger(__name__)

KIND: Final = "tune"
"""Tag `kind` of a search's run; its trials are nested below it."""
TRIALS: Final = 20
"""Trials of a search that is told neither a number nor a time."""


@dataclass(frozen=True)
class TuneResult:
    """A search, as far as it has come."""

    study: str
    """Its name, which its folder below `tune` in the home has too."""
    trials: tuple[TrialRecord, ...]
    """All that are over, those of earlier invocations too, in order."""
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
    config: Config,
    home: Home,
    *,
    trials: int | None = None,
    hours: float | None = None,
    study: str | None = None,
    space: Path | None = None,
) -> TuneResult:
    """Search settings of adapter and recipe for the lowest validation loss; the same call again goes on where it was.

    The configuration's own settings are the first trial. Settings, values and data make the study: where one of them
    changed, a new one starts.

    Args:
        config: Where the search starts, and what is not varied.
        home: Where data, study and result are.
        trials: Trials in all, earlier invocations' included; left out, 20, or as many as `hours` allows.
        hours: No trial starts later than this after the beginning, but for a first one.
        study: Beginning of the study's name; left out, the profile's name.
        space: YAML file of what is varied; left out, `default_space`.

    Raises:
        InputError: no data, or another process is at work in the study.
        ConfigError: the space is wrong.
        BaseModelError: the base cannot be reached.
        ServiceError: the MLflow server does not answer.
        FinsentError: no trial was completed.
    """
    from finsent.registry.tracking import connect

    varied = read_space(space, config) if space else default_space(config)
    most = trials if trials is not None or hours is not None else TRIALS
    deadline = time.monotonic() + hours * 3600 if hours is not None else None
    data = _load(home)
    client = connect(home)
    identity = studies.study_identity(config, varied, data.fingerprint)
    prefix = study or config.profile
    name = studies.study_name(prefix, identity)
    _say_what_changed(home, prefix, name, identity)
    with studies.open_study(home, name, identity, current_params(config, varied)) as search:
        before = len(studies.finished_trials(search))
        run_id = _run_of(client, config, home, name)
        if run_id is None or _is_open(client, run_id) or most is None or before < most:
            with _run(client, config, home, data, name, varied, run_id) as run_id:
                try:
                    for _ in track(
                        _places(search, most, deadline), description="trials", total=most and most - before, unit="trial"
                    ):
                        _next(search, config, home, data, varied, run_id)
                except KeyboardInterrupt:
                    publish(client, run_id, search, config, home, varied)
                    raise
                publish(client, run_id, search, config, home, varied)
        return _result(search, home, before, run_id)


def _load(home: Home) -> TrialData:
    """Training and validation rows of the newest data, and a fingerprint of these alone.

    Raises:
        InputError: no data, or none in one of the two.
    """
    from finsent.data import tables
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


def _say_what_changed(home: Home, prefix: str, name: str, identity: dict[str, str]) -> None:
    found = studies.changed_since(home, prefix, name, identity)
    if found is not None:
        older, parts = found
        _log.warning("%s changed since study %s: starting a new one, %s", " and ".join(parts), older, name)


def _places(search: "Study", most: int | None, deadline: float | None) -> Iterator[int]:
    """One item for each trial that is still to come, asked for when the one before is over; at least one, if there is one."""
    before = len(studies.finished_trials(search))
    while (over := len(studies.finished_trials(search))) < (most if most is not None else over + 1):
        if deadline is not None and time.monotonic() >= deadline and over > before:
            _log.info("the time is up after %d trials; the same command goes on", over)
            return
        yield over


def _next(search: "Study", config: Config, home: Home, data: TrialData, space: Space, parent: str) -> None:
    """Run one trial and record how it ended; cut off, it is queued again."""
    trial = studies.next_trial(search, distributions(space, config), config.recipe.seed)
    place = int(trial.user_attrs[studies.NUMBER])
    folder = studies.study_dir(home, search.study_name) / "trials" / str(place)
    tried = apply_params(config, trial.params)
    looks = _taken_over(search, trial, tried, len(data.train.texts), folder)
    try:
        outcome = run_trial(
            tried, home, data, folder, parent, f"trial-{place}", functools.partial(studies.should_prune, trial, looks)
        )
        facts: dict[str, Any] = {"run_id": outcome.run_id, "seconds": round(outcome.seconds, 3), **outcome.scores}
        for key, value in facts.items():
            trial.set_user_attr(key, value)
        if outcome.reason is not None:
            trial.set_user_attr(studies.REASON, outcome.reason)
    except BaseException as error:
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else f"{type(error).__name__}: {error}"
        studies.requeue_trial(search, trial.number, reason)
        raise
    if outcome.state == "complete":
        search.tell(trial, outcome.scores["loss"])
    else:
        search.tell(trial, state=studies.state_of(outcome.state))
    best = studies.best_trial(search)
    if best is not None and best.number == trial.number:
        write_best_config(search, config, home)  # at once: a process that is killed leaves the best so far
    so_far = f"{best.value:.4f} (trial {best.user_attrs[studies.NUMBER]})" if best is not None else "none"
    value = f"loss {outcome.scores['loss']:.4f}, macro-F1 {outcome.scores['macro_f1']:.4f}" if outcome.scores else outcome.reason
    _log.info("trial %d %s: %s; best so far %s", place, outcome.state, value, so_far)


def _taken_over(search: "Study", trial: "Trial", config: Config, rows: int, folder: Path) -> list[tuple[float, float]]:
    """Report what the interrupted attempt saw before the checkpoint that this one goes on from: it will not be seen again."""
    from finsent.training.batches import steps_in_total
    from finsent.training.checkpoint import PREFIX, complete_checkpoints

    checkpoints, before = complete_checkpoints(folder), trial.user_attrs.get(studies.RETRY_OF)
    if not checkpoints or before is None:
        return []
    reached = int(checkpoints[-1].name.removeprefix(PREFIX)) / steps_in_total(
        rows, config.recipe.batch_size * config.recipe.accumulation, config.recipe.epochs
    )
    earlier = next(other for other in search.get_trials(deepcopy=False) if other.number == before)
    seen = [
        (place, loss)
        for place, loss in sorted(earlier.intermediate_values.items())
        if place / studies.COMPARISON_POINTS <= reached
    ]
    for place, loss in seen:
        trial.report(loss, place)
    return [(place / studies.COMPARISON_POINTS, loss) for place, loss in seen]


def _run_of(client: "MlflowClient", config: Config, home: Home, name: str) -> str | None:
    """The search's run, if this MLflow store has one."""
    from finsent.registry.tracking import experiment_id

    wanted = f"tags.kind = '{KIND}' and tags.study = '{name}'"
    runs = client.search_runs([experiment_id(client, home, config.experiment)], wanted, order_by=["attributes.start_time ASC"])
    return str(runs[0].info.run_id) if runs else None


def _is_open(client: "MlflowClient", run_id: str) -> bool:
    return str(client.get_run(run_id).info.status) != "FINISHED"


@contextmanager
def _run(
    client: "MlflowClient", config: Config, home: Home, data: TrialData, name: str, space: Space, run_id: str | None
) -> Iterator[str]:
    """The search's run, opened again or new, with the splits that it works on; nested runs left open by a kill are ended."""
    from finsent.registry.tracking import log_splits, start_run
    from finsent.tuning.space import space_to_dict

    if run_id is not None:
        experiment = client.get_run(run_id).info.experiment_id
        wanted = f"tags.`mlflow.parentRunId` = '{run_id}' and attributes.status = 'RUNNING'"
        for left in client.search_runs([experiment], wanted):
            client.set_tag(left.info.run_id, "trial_state", "failed")
            client.set_terminated(left.info.run_id, status="KILLED")
    tags = {"study": name, "data_version": str(data.version), "space": json.dumps(space_to_dict(space))[:5000]}
    with start_run(config, home, kind=KIND, tags=tags, resume=run_id) as opened:
        if run_id is None:
            log_splits(client, opened, home, data.version, data.fingerprint, train=data.train, validation=data.validation)
        yield opened


def _result(search: "Study", home: Home, before: int, run_id: str) -> TuneResult:
    found = trial_records(search)
    best = studies.best_trial(search)
    if best is None:
        reasons = sorted({trial.reason for trial in found if trial.reason})
        raise FinsentError(
            f"none of the {len(found)} trials of study {search.study_name!r} was completed: " + "; ".join(reasons[:3])
        )
    return TuneResult(
        study=search.study_name,
        trials=found,
        states=studies.count_states(search),
        added=len(found) - before,
        best=next(trial for trial in found if trial.number == best.user_attrs[studies.NUMBER]),
        own=next((trial for trial in found if trial.number == 0 and trial.value is not None), None),
        config_file=studies.study_dir(home, search.study_name) / "best.yaml",
        run_id=run_id,
    )
