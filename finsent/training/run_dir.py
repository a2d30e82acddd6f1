"""Run directories of trainings: exclusive use, and finding an interrupted run that can be resumed."""

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finsent.config import Config, ModelConfig
from finsent.environ import is_too_long
from finsent.errors import CheckFailed, InputError, shorten
from finsent.files import atomic_write, locked
from finsent.models.manifest import file_sha256
from finsent.training.checkpoint import complete_checkpoints
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.training.trainer import TrainingResult

_log = logging.getLogger(__name__)

STATE = "training.json"
RESULT = "result.json"
"""Written when the training loop is through; the adapter is not registered yet while `STATE` says that the run is unfinished."""
_CHECKPOINT_FORMAT = 2
"""Checkpoints of another format are not resumed."""


def settings_digest(config: Config, data_fingerprint: str) -> str:
    """Identity of a training: everything that decides its result. Only a run of equal digest is resumed."""
    deciding = config.model_dump(mode="json", include={"model", "lora", "recipe"})
    return hashlib.sha256(json.dumps([deciding, data_fingerprint, _CHECKPOINT_FORMAT], sort_keys=True).encode()).hexdigest()


def find_resumable(runs: Path, digest: str, has_run: Callable[[str], bool], finished_since: float = math.inf) -> str | None:
    """The newest run of equal settings and data that has a checkpoint or a result, was not registered and is not in use.

    One that MLflow has lost (`has_run`) could never be registered, and would be in the way for good. One that was registered
    after the time `finished_since` counts: that is the job which this process waited for, and is not to be done twice.
    """
    found = []
    for state in runs.glob(f"*/{STATE}"):
        recorded = _read(state)
        if (
            recorded is not None
            and recorded.get("digest") == digest
            and (not recorded.get("finished") or state.stat().st_mtime > finished_since)
            and (complete_checkpoints(state.parent) or load_result(state.parent) is not None)
            and _is_free(state.parent)
        ):
            found.append((state.stat().st_mtime, state.parent.name))
    for _, name in sorted(found, reverse=True):
        if has_run(name):
            return name
        _log.warning(
            "the unfinished training in %s is not resumed: MLflow has no run of that id, or it was deleted there. Restore "
            "the run (`mlflow runs restore --run-id %s`), or remove the folder",
            runs / name,
            name,
        )
    return None


def require_resumable(runs: Path, run_id: str, digest: str, has_run: Callable[[str], bool]) -> None:
    """Check that a run named by the user can be resumed.

    Raises:
        InputError: unknown here or in MLflow, finished, without a checkpoint, or of other settings or data.
    """
    state = runs / run_id / STATE
    recorded = _read(state) if not is_too_long(run_id) else None
    if recorded is None:
        raise InputError(f"no training {shorten(run_id)!r} was started in this home. Interrupted ones are under {str(runs)!r}.")
    if recorded.get("finished"):
        raise InputError(f"training {run_id!r} is finished. Leave --resume out to train anew.")
    if recorded.get("digest") != digest:
        raise InputError(
            f"training {run_id!r} had other settings or other data: its checkpoint does not fit. Leave --resume out."
        )
    if not complete_checkpoints(state.parent) and load_result(state.parent) is None:
        raise InputError(f"training {run_id!r} was cut off before its first checkpoint. Leave --resume out to train anew.")
    if not has_run(run_id):
        raise InputError(
            f"MLflow has no run {run_id!r}, or it was deleted there. Restore it (`mlflow runs restore --run-id {run_id}`), "
            "or leave --resume out to train anew."
        )


@contextmanager
def hold_run_dir(folder: Path, digest: str, *, timeout: float = 0) -> Iterator[None]:
    """Hold the folder's lock while working in it, waiting `timeout` seconds; a new folder is recorded as unfinished.

    Raises:
        InputError: another process holds it.
    """
    message = f"another process is training in {str(folder)!r}. Wait for it, or start a training of its own."
    with locked(folder / ".lock", timeout, message, InputError):
        if (folder / STATE).is_file():
            (folder / STATE).touch()  # the newest one worked on is resumed first
        else:
            _write(folder, digest, finished=False)
        yield


def mark_finished(folder: Path, digest: str) -> None:
    """Record that the adapter is registered: the run is not resumed any more."""
    _write(folder, digest, finished=True)


def is_finished(folder: Path) -> bool | None:
    """Whether the training in the folder is registered; None where its state is absent or cannot be read."""
    recorded = _read(folder / STATE)
    return None if recorded is None else bool(recorded.get("finished"))


def save_result(folder: Path, result: "TrainingResult") -> None:
    """Record that the training loop is through, with digests of the adapter, so that nothing after it has to train again."""
    recorded = {**asdict(result), "files": _adapter_files(folder / "adapter")}
    atomic_write(folder / RESULT, json.dumps(recorded, default=str))


def load_result(folder: Path) -> "TrainingResult | None":
    """What a training loop that is through left in the folder; None where it is not, or its adapter is gone or changed.

    A file that is empty, cut off or of another release counts as absent: the training is resumed from its checkpoint.
    """
    from finsent.models.base_model import BaseFolder
    from finsent.training.trainer import TrainingResult

    recorded = _read(folder / RESULT)
    if recorded is None or not recorded.get("files") or recorded.pop("files") != _adapter_files(folder / "adapter"):
        return None
    try:
        base = BaseFolder(**{**recorded["base"], "folder": Path(recorded["base"]["folder"])})
        return TrainingResult(**{**recorded, "adapter": folder / "adapter", "base": base})
    except (KeyError, TypeError):
        return None


def load_result_of_base(folder: Path, model: ModelConfig, home: Workspace) -> "TrainingResult | None":
    """The same, if the base is still the one of that training: its adapter fits no other.

    Raises:
        InputError: it is another.
    """
    from finsent.models.base_model import locate_base

    result = load_result(folder)
    if result is not None and result.base.fingerprint != locate_base(model, home).fingerprint:
        raise InputError(
            f"the training in {str(folder)!r} is complete but not registered, and was done on another base than the one that "
            "model.name finds now. Restore that base, or delete that folder to train anew."
        )
    return result


def _adapter_files(adapter: Path) -> dict[str, str]:
    """SHA-256 of weights, configuration and tokenizer; card, probe and manifest are written by the calibration."""
    names = ("*.safetensors", "adapter_config.json", "tokenizer*", "special_tokens_map.json")
    return {file.name: file_sha256(file) for pattern in names for file in adapter.glob(pattern)}


def _read(file: Path) -> dict[str, Any] | None:
    """A JSON object; None where the file is absent, empty or cut off."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _write(folder: Path, digest: str, *, finished: bool) -> None:
    atomic_write(folder / STATE, json.dumps({"digest": digest, "finished": finished}))


def _is_free(folder: Path) -> bool:
    try:
        with locked(folder / ".lock", 0, f"{str(folder)!r} is in use"):
            return True
    except CheckFailed:
        return False
