"""Run directories of trainings: exclusive use, and finding an interrupted run that can be resumed."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from finsent.config import Config
from finsent.errors import InputError
from finsent.training.checkpoint import complete_checkpoints

STATE = "training.json"
_CHECKPOINT_FORMAT = 2
"""Checkpoints of another format are not resumed."""


def settings_digest(config: Config, data_fingerprint: str) -> str:
    """Identity of a training: everything that decides its result. Only a run of equal digest is resumed."""
    deciding = config.model_dump(mode="json", include={"model", "lora", "recipe"})
    return hashlib.sha256(json.dumps([deciding, data_fingerprint, _CHECKPOINT_FORMAT], sort_keys=True).encode()).hexdigest()


def find_resumable(runs: Path, digest: str) -> str | None:
    """The newest run of equal settings and data that was interrupted after a checkpoint and is not in use."""
    found = []
    for state in runs.glob(f"*/{STATE}"):
        recorded = json.loads(state.read_text(encoding="utf-8"))
        if (
            recorded["digest"] == digest
            and not recorded["finished"]
            and complete_checkpoints(state.parent)
            and _is_free(state.parent)
        ):
            found.append((state.stat().st_mtime, state.parent.name))
    return max(found)[1] if found else None


def require_resumable(runs: Path, run_id: str, digest: str) -> None:
    """Check that a run named by the user can be resumed.

    Raises:
        InputError: unknown here, finished, without a checkpoint, or of other settings or data.
    """
    state = runs / run_id / STATE
    if not state.is_file():
        raise InputError(f"no training {run_id!r} was started in this home. Interrupted ones are under {str(runs)!r}.")
    recorded = json.loads(state.read_text(encoding="utf-8"))
    if recorded["finished"]:
        raise InputError(f"training {run_id!r} is finished. Leave --resume out to train anew.")
    if recorded["digest"] != digest:
        raise InputError(
            f"training {run_id!r} had other settings or other data: its checkpoint does not fit. Leave --resume out."
        )
    if not complete_checkpoints(state.parent):
        raise InputError(f"training {run_id!r} was cut off before its first checkpoint. Leave --resume out to train anew.")


@contextmanager
def hold_run_dir(folder: Path, digest: str) -> Iterator[None]:
    """Hold the folder's lock while training in it; it counts as finished when the block ends without an exception."""
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            _write(folder, digest, finished=False)
            yield
            _write(folder, digest, finished=True)
    except Timeout as error:
        raise InputError(
            f"another process is training in {str(folder)!r}. Wait for it, or start a training of its own."
        ) from error


def _write(folder: Path, digest: str, *, finished: bool) -> None:
    partial = folder / f"{STATE}.partial"
    partial.write_text(json.dumps({"digest": digest, "finished": finished}), encoding="utf-8")
    partial.replace(folder / STATE)


def _is_free(folder: Path) -> bool:
    from filelock import FileLock, Timeout

    try:
        with FileLock(folder / ".lock", timeout=0):
            return True
    except Timeout:
        return False
