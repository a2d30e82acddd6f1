"""A search's memory: an Optuna study in a SQLite file of the home, taken up where a killed process left it.

SQLite, not Optuna's journal: each change is one transaction, so a process that dies in it leaves the one before.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from finsent.config import Config
from finsent.errors import InputError
from finsent.home import Home
from finsent.tuning.space import Space, Value, space_to_dict

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

DATABASE: Final = "study.db"
_IDENTITY: Final = "study.json"
_FORMAT: Final = 1
"""Of the objective; studies of another are not gone on with."""
_RANDOM: Final = 5
"""Trials before the sampler models what it saw. Optuna's default of 10 is most of a small budget."""
_UNPRUNED: Final = 3
"""Complete trials that one must be behind the median of to be pruned."""
COMPARISON_POINTS: Final = 8
"""Places in a training at which trials are compared."""
_KILLS: Final = 3
"""Deaths of the process in the same trial after which it is given up."""
NUMBER, RETRY_OF, KILLS, RETRIED, REASON = "trial", "retry_of", "kills", "retried", "reason"
"""What is kept with a trial besides its settings and values. NUMBER: its place in the search, which it keeps when tried again."""


def study_identity(config: Config, space: Space, fingerprint: str) -> dict[str, str]:
    """What makes a study this one: data, settings and space; each as a digest, so that a change can be named."""
    settings = config.model_dump(mode="json", include={"model", "lora", "recipe"})
    return {"data": fingerprint, "settings": _digest(settings), "space": _digest(space_to_dict(space)), "format": str(_FORMAT)}


def study_name(prefix: str, identity: Mapping[str, str]) -> str:
    """Name of the study: `prefix` and a digest of its identity.

    Raises:
        InputError: the prefix is no file name.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", prefix):
        raise InputError(f"study name {prefix!r} is not of letters, digits, '.', '_' and '-'. Give another with --study.")
    return f"{prefix}-{_digest(identity)[:8]}"


def study_dir(home: Home, name: str) -> Path:
    """Where a study lives."""
    return home.root / "tune" / name


def changed_since(home: Home, prefix: str, name: str, identity: Mapping[str, str]) -> tuple[str, list[str]] | None:
    """The newest other study of this prefix and what differs (`data`, `settings`, `space`).

    None where there is no other, or `name` is there already.
    """
    if (study_dir(home, name) / _IDENTITY).exists():
        return None
    found = [
        path
        for path in (home.root / "tune").glob(f"{prefix}-*/{_IDENTITY}")
        if re.fullmatch(r"[0-9a-f]{8}", path.parent.name.removeprefix(f"{prefix}-"))
    ]
    if not found:
        return None
    newest = max(found, key=lambda path: path.stat().st_mtime)
    before = json.loads(newest.read_text(encoding="utf-8"))
    return newest.parent.name, [part for part, value in identity.items() if before.get(part) != value]


@contextmanager
def open_study(home: Home, name: str, identity: Mapping[str, str], first: Mapping[str, Value]) -> "Iterator[Study]":
    """The study, made on first use with the settings `first` as its trial 0; held, so that nobody else works at it.

    Trials that a killed process left running are marked failed and queued again with the same settings.

    Raises:
        InputError: another process is at work in it.
    """
    import optuna
    from filelock import FileLock, Timeout
    from sqlalchemy import URL

    folder = study_dir(home, name)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"another process works at study {name!r}. Wait for it, or give another name with --study.") from error
    try:
        partial = folder / f"{_IDENTITY}.partial"
        partial.write_text(json.dumps(dict(identity)), encoding="utf-8")
        partial.replace(folder / _IDENTITY)
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # our own lines say more
        url = URL.create("sqlite", database=str(folder / DATABASE)).render_as_string(hide_password=False)
        storage = optuna.storages.RDBStorage(url)
        try:
            study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
            study.pruner = optuna.pruners.MedianPruner(n_startup_trials=_UNPRUNED, n_min_trials=_UNPRUNED)
            if not study.get_trials(deepcopy=False):
                study.enqueue_trial(dict(first))
            for trial in _of(study, "RUNNING"):
                requeue_trial(study, trial.number, "its process was killed", killed=True)
            yield study
        finally:
            storage.remove_session()
            storage.engine.dispose()
    finally:
        lock.release()


def next_trial(study: "Study", space: "Mapping[str, BaseDistribution]", seed: int) -> "Trial":
    """The next trial: one that waits, or what the sampler proposes after those that ended.

    The sampler is seeded by how many ended, so that a search that was cut off proposes what it would have proposed.
    """
    from optuna.samplers import TPESampler

    study.sampler = TPESampler(seed=seed * 1_000_003 + len(finished_trials(study)), n_startup_trials=_RANDOM)
    trial = study.ask(dict(space))
    if NUMBER not in trial.user_attrs:
        trial.set_user_attr(NUMBER, len(finished_trials(study)))
    return trial


def should_prune(trial: "Trial", looks: list[tuple[float, float]], share: float, loss: float) -> bool:
    """Record a look at a training of which `share` is done, and say whether it fell behind the median of the others.

    Trials of different lengths are compared at equal shares of their training, in eighths, since a learning rate that is nearly
    down flatters a short one; between two looks the loss is interpolated. The best look so far counts (Optuna's median
    pruner), so one that grows over-confident late is not ended for it. `looks` holds those before as (share, loss).
    """
    before = looks[-1] if looks else None
    looks.append((share, loss))
    fell = False
    for eighth in range(1, COMPARISON_POINTS):
        at = eighth / COMPARISON_POINTS
        if before[0] < at <= share if before else at == share:
            weight = (at - before[0]) / (share - before[0]) if before else 1.0
            trial.report(loss * weight + (before[1] * (1 - weight) if before else 0.0), eighth)
            fell = fell or trial.should_prune()  # the pruner goes by the latest report alone
    return fell and share < 1.0


def requeue_trial(study: "Study", number: int, reason: str, *, killed: bool = False) -> None:
    """Mark a running trial failed and queue its settings again; given up after the third death of the process in it."""
    trial = next(trial for trial in _of(study, "RUNNING") if trial.number == number)
    kills = int(trial.user_attrs.get(KILLS, 0)) + killed
    given_up = killed and kills >= _KILLS
    # queued before it is marked: a kill in between leaves it running, and the queue is looked at then
    settings = {**trial.system_attrs.get("fixed_params", {}), **trial.params}  # it may have died while they were drawn
    queued = any(other.user_attrs.get(RETRY_OF) == number for other in study.get_trials(deepcopy=False))
    if settings and not queued and not given_up:
        place = trial.user_attrs.get(NUMBER, len(finished_trials(study)))
        study.enqueue_trial(settings, user_attrs={RETRY_OF: number, KILLS: kills, NUMBER: place})
    storage, key = study._storage, trial._trial_id  # noqa: SLF001 - Optuna has no public way to annotate another's trial
    storage.set_trial_user_attr(key, RETRIED, not given_up)
    storage.set_trial_user_attr(key, REASON, f"{reason} {kills} times" if given_up else reason)
    study.tell(number, state=_state("FAIL"))


def finished_trials(study: "Study") -> "list[FrozenTrial]":
    """Trials that are over: complete, pruned, or failed for a reason of their own. Those queued again do not count."""
    return [
        trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished() and not trial.user_attrs.get(RETRIED)
    ]


def complete(study: "Study") -> "list[FrozenTrial]":
    """Trials with a value."""
    return _of(study, "COMPLETE")


def best_trial(study: "Study") -> "FrozenTrial | None":
    """The trial with the lowest value, the earliest of equals; None while none is complete."""
    return min(complete(study), key=lambda trial: (trial.value, trial.number), default=None)


def count_states(study: "Study") -> dict[str, int]:
    """Trials that are over, by state."""
    found = Counter(state_name(trial) for trial in finished_trials(study))
    return {name: found[name] for name in ("complete", "pruned", "failed")}


def state_name(trial: "FrozenTrial") -> str:
    """`complete`, `pruned` or `failed`."""
    return {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name]


def state_of(name: str) -> Any:
    """Optuna's state for `complete`, `pruned` or `failed`."""
    return _state({"complete": "COMPLETE", "pruned": "PRUNED", "failed": "FAIL"}[name])


def _of(study: "Study", state: str) -> "list[FrozenTrial]":
    return study.get_trials(deepcopy=False, states=(_state(state),))


def _state(name: str) -> Any:
    from optuna.trial import TrialState

    return TrialState[name]


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
