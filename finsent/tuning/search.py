"""The Optuna study of a search: identity, storage, proposals, pruning, and retries of trials that were cut off.

Optuna's heartbeat is not used: it takes a killed trial for running until a grace period has passed, while the lock on the study
shows at once that nobody works at it. The storage is SQLite, not Optuna's journal: each change is one transaction, so a process
that is killed in it leaves the state before.
"""

import hashlib
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.errors import InputError
from finsent.files import atomic_write, locked, share_with_group
from finsent.tuning.space import Space, Value, settings_key, space_to_dict
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, Trial

_DATABASE: Final = "study.db"
_IDENTITY: Final = "study.json"
_OBJECTIVE_VERSION: Final = 1
"""Raised when the objective changes: values of another version cannot be compared."""
_RANDOM_TRIALS: Final = 5
"""Trials before the sampler models the earlier ones. Optuna's default of 10 is most of a small budget."""
_MIN_COMPLETE: Final = 3
"""Complete trials that a median needs before a trial can be pruned."""
COMPARISON_POINTS: Final = 8
"""Trials are compared at each eighth of their training."""
_MAX_KILLS: Final = 3
"""A trial is given up when its process was killed this often."""
NUMBER, _KILLS, _EVALUATIONS, _RECORD = "trial", "kills", "evaluations", "record"
"""User attributes of a trial: its place in the search, kept by its retries (Optuna's own number counts attempts); how often
its process was killed; share of the training done, validation loss and pruning decision of each evaluation; its `TrialRecord`."""


@dataclass(frozen=True)
class TrialRecord:
    """A finished trial."""

    number: int
    """Its place in the search, which its retries keep."""
    state: str
    """`complete`, `pruned` or `failed`."""
    value: float | None
    """What is minimised, the validation loss in nats; None unless complete."""
    params: dict[str, Value]
    accuracy: float | None = None
    """On the validation split; None unless complete."""
    macro_f1: float | None = None
    seconds: float | None = None
    run_id: str | None = None
    """Its MLflow run."""
    reason: str | None = None
    """Why it was pruned, failed, or not trained since its settings were tried before."""


def study_identity(config: Config, space: Space, fingerprint: str, base: str | None = None) -> dict[str, str]:
    """Digest of each part that makes a study: data, settings of model, adapter and recipe, search space, objective.

    `base` is the fingerprint of a base that is not built from the settings: its name can stand for other weights by tomorrow.
    """
    settings = config.model_dump(mode="json", include={"model", "lora", "recipe"})
    digests = {"settings": _digest(settings), "space": _digest(space_to_dict(space))}
    identity = {"data": fingerprint, **digests, "objective": str(_OBJECTIVE_VERSION)}
    return identity if base is None else {**identity, "base": base}


def study_name(prefix: str, identity: Mapping[str, str]) -> str:
    """Name of the study: `prefix` and a digest of its identity.

    Raises:
        InputError: the prefix is no file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", prefix):
        raise InputError(f"study name {prefix!r} is not of letters, digits, '.', '_' and '-'. Give another with --study.")
    return f"{prefix}-{_digest(identity)[:8]}"


def study_dir(home: Workspace, name: str) -> Path:
    """Folder of the study `name`."""
    return home.studies / name


def changed_since(home: Workspace, prefix: str, name: str, identity: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The newest other study of this prefix, and the parts of the identity that differ, e.g. `data`.

    None if there is no other that can be read, or `name` exists already.
    """
    if (study_dir(home, name) / _IDENTITY).exists():
        return None
    others = [
        path
        for path in home.studies.glob(f"{prefix}-*/{_IDENTITY}")
        if re.fullmatch(r"[0-9a-f]{8}", path.parent.name.removeprefix(f"{prefix}-"))
    ]
    if not others:
        return None
    newest = max(others, key=lambda path: path.stat().st_mtime)
    try:
        before = dict(json.loads(newest.read_text(encoding="utf-8")))
    except (
        ValueError,
        TypeError,
        RecursionError,
    ):  # damaged: nothing to compare with, and no reason to stop
        return None
    return newest.parent.name, [part for part, value in identity.items() if before.get(part) != value]


@contextmanager
def open_study(home: Workspace, name: str, identity: Mapping[str, str], first: Mapping[str, Value]) -> "Iterator[Study]":
    """The study under an exclusive lock, created on first use with the settings `first` as trial 0.

    Trials that a killed process left running are marked failed and queued again with the same settings.

    Raises:
        InputError: another process holds the study, or its file of trials is damaged.
    """
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    folder = study_dir(home, name)
    with ExitStack() as stack:
        message = f"another process works at study {name!r}. Wait for it, or give another name with --study."
        stack.enter_context(locked(folder / ".lock", 0, message, InputError))
        atomic_write(folder / _IDENTITY, json.dumps(dict(identity)))
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # the step logs each trial itself
        url = URL.create("sqlite", database=str(folder / _DATABASE)).render_as_string(hide_password=False)
        pruner = optuna.pruners.MedianPruner(n_startup_trials=_MIN_COMPLETE, n_min_trials=_MIN_COMPLETE)
        try:
            storage = optuna.storages.RDBStorage(url)
            stack.callback(storage.engine.dispose)
            stack.callback(storage.remove_session)
            share_with_group(folder / _DATABASE)
            study = optuna.create_study(
                storage=storage, study_name=name, direction="minimize", load_if_exists=True, pruner=pruner
            )
        except (SQLAlchemyError, optuna.exceptions.OptunaError, RuntimeError) as error:  # the last: of a newer Optuna
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the trials of study {name!r} in {str(folder / _DATABASE)!r} cannot be read: {reason}. Restore that file, "
                "delete the folder to start anew, or give another name with --study."
            ) from error
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(dict(first))
        for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            requeue_trial(study, trial.number, killed=True)
        yield study


def next_trial(study: "Study", space: Space, seed: int) -> "Trial":
    """The next trial: a queued one, or what the sampler proposes after those that are finished.

    The sampler is seeded with the number of finished trials, so that an interrupted search proposes what it would have
    proposed without the interruption.
    """
    from optuna.samplers import TPESampler

    finished = len(finished_trials(study))
    study.sampler = TPESampler(seed=(seed * 1_000_003 + finished) % 2**32, n_startup_trials=_RANDOM_TRIALS)
    trial = study.ask(dict(space))
    if NUMBER not in trial.user_attrs:
        trial.set_user_attr(NUMBER, finished)
    return trial


def should_prune(trial: "Trial", share: float, loss: float) -> bool:
    """Report the validation loss after `share` of the training, and whether it is behind the median of the complete trials.

    Trials of different lengths are compared at equal shares of their training, in eighths, since the low learning rate at the
    end flatters a short one; between two evaluations the loss is interpolated. The best loss so far counts (Optuna's median
    pruner), so a trial that becomes over-confident late is not pruned for it.
    """
    evaluations = trial.user_attrs.get(_EVALUATIONS, [])
    for known in evaluations:
        if known[0] == share:  # evaluated again, by a retry that resumed from a checkpoint before it
            return bool(known[2])
    before = evaluations[-1] if evaluations else None
    behind = False
    for point in range(1, COMPARISON_POINTS):
        at = point / COMPARISON_POINTS
        if before[0] < at <= share if before else at == share:
            weight = (at - before[0]) / (share - before[0]) if before else 1.0
            trial.report(loss * weight + (before[1] * (1 - weight) if before else 0.0), point)
            behind = behind or trial.should_prune()  # asked at each point: the pruner goes by the latest report
    behind = behind and share < 1.0
    trial.set_user_attr(_EVALUATIONS, [*evaluations, (share, loss, behind)])
    return behind


def finish_trial(study: "Study", trial: "Trial", record: TrialRecord) -> None:
    """Record how a trial ended."""
    from optuna.trial import TrialState

    trial.set_user_attr(_RECORD, asdict(record))
    if record.state == "complete":
        study.tell(trial, record.value)
    else:
        study.tell(trial, state=TrialState.PRUNED if record.state == "pruned" else TrialState.FAIL)


def requeue_trial(study: "Study", number: int, *, killed: bool) -> None:
    """Mark a running trial failed and queue its settings again, unless its process was killed for the third time.

    Args:
        study: The study.
        number: Optuna's number of the trial.
        killed: Whether its process was killed; interrupts and errors are not counted.
    """
    from optuna.storages import RetryHeartbeatStaleTrialCallback
    from optuna.trial import TrialState

    trials = study.get_trials()  # copies, to be changed before the callback takes their attributes over
    trial = next(trial for trial in trials if trial.number == number)
    trial.user_attrs.pop(_RECORD, None)
    trial.user_attrs.setdefault(NUMBER, len(finished_trials(study)))
    trial.user_attrs[_KILLS] = trial.user_attrs.get(_KILLS, 0) + killed
    # queued before it is marked failed: a process killed in between leaves it running, and the retry history shows the retry
    if trial.user_attrs[_KILLS] < _MAX_KILLS and number not in _retried(trials):
        with _experimental():
            retry = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
        retry(study, trial)
    study.tell(number, state=TrialState.FAIL)


def finished_trials(study: "Study") -> tuple[TrialRecord, ...]:
    """Trials that are complete, pruned, or failed for good, in order; an attempt that was queued again does not count."""
    trials = study.get_trials(deepcopy=False)
    retried = _retried(trials)
    found = [_record(trial) for trial in trials if trial.state.is_finished() and trial.number not in retried]
    return tuple(sorted(found, key=lambda trial: trial.number))


def tried(study: "Study", space: Space) -> dict[tuple[Value, ...], TrialRecord]:
    """The first finished trial of each setting, by `settings_key`."""
    found: dict[tuple[Value, ...], TrialRecord] = {}
    for trial in finished_trials(study):
        found.setdefault(settings_key(space, trial.params), trial)
    return found


def best_trial(study: "Study") -> TrialRecord | None:
    """The complete trial with the lowest value, the earliest of equals; None if none is complete."""
    complete = [trial for trial in finished_trials(study) if trial.value is not None]
    return min(complete, key=lambda trial: (trial.value, trial.number), default=None)


def count_states(trials: Iterable[TrialRecord]) -> dict[str, int]:
    """Number of trials by state."""
    found = Counter(trial.state for trial in trials)
    return {state: found[state] for state in ("complete", "pruned", "failed")}


def _record(trial: "FrozenTrial") -> TrialRecord:
    attrs = trial.user_attrs
    if trial.state.name == "FAIL" and attrs.get(_RECORD, {}).get("state") != "failed":  # given up by `requeue_trial`
        reason = f"its process was killed {attrs.get(_KILLS, 0) + 1} times"
        return TrialRecord(int(attrs[NUMBER]), "failed", None, dict(trial.params), reason=reason)
    return TrialRecord(**attrs[_RECORD])


def _retried(trials: "Iterable[FrozenTrial]") -> set[int]:
    """Optuna's numbers of the attempts that were queued again."""
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    with _experimental():
        return {number for trial in trials for number in RetryHeartbeatStaleTrialCallback.retry_history(trial)}


@contextmanager
def _experimental() -> Iterator[None]:
    """Hush Optuna's warning that its retries may change."""
    from optuna.exceptions import ExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
