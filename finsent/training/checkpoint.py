"""Checkpoints: trainable weights and optimiser state as safetensors and JSON; the two newest complete ones are kept."""

import json
import logging
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finsent.errors import DeviceError, FinsentError, InputError, one_line
from finsent.files import sync
from finsent.models.manifest import file_sha256

PREFIX = "checkpoint-"
_WEIGHTS, _OPTIMIZER, _STATE = "trainable.safetensors", "optimizer.safetensors", "state.json"
_KEPT = 2
"""The newest one, and the one to fall back to where a disk lost part of that."""
_BYTES_WRITTEN = 44
"""Bytes per trainable value: float32 weights and two states in each of three checkpoints, one of them half-written; the adapter,
and its copy in MLflow."""
_log = logging.getLogger(__name__)


def save_checkpoint(
    folder: Path, step: int, model: Any, optimizer: Any, scaler: Any = None, layout: str = "", base: str = ""
) -> None:
    """Write `checkpoint-<step>` to the disk in one rename, then delete all but the newest two.

    `scaler` is the loss scaler of fp16, if there is one; `layout` is `FlatParams.layout`, `base` the base's fingerprint.

    Raises:
        FinsentError: a weight is infinite or NaN; nothing is written.
        DeviceError: the disk is full or fails; the checkpoints before stay.
    """
    from safetensors.torch import save_file

    trainable = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    require_finite(trainable, f"step {step}")
    tensors, scalars = _flatten(optimizer.state_dict())
    target, partial = folder / f"{PREFIX}{step}", folder / f".{PREFIX}{step}"
    with explain_disk_errors(f"checkpoint of step {step}", folder):
        for left in folder.glob(f".{PREFIX}*"):  # of a process that was killed while it wrote; the run folder is locked
            shutil.rmtree(left)
        partial.mkdir(parents=True)
        save_file(trainable, partial / _WEIGHTS)
        save_file(tensors, partial / _OPTIMIZER)
        state = {
            "step": step,
            "layout": layout,
            "base": base,
            "optimizer": scalars,
            "scaler": scaler.state_dict() if scaler else None,
            "files": {name: file_sha256(partial / name) for name in (_WEIGHTS, _OPTIMIZER)},
        }
        (partial / _STATE).write_text(json.dumps(state), encoding="utf-8")
        for file in partial.iterdir():
            sync(file)
        sync(partial)
        if target.exists():  # damaged: the training fell back to the one before, and is here again
            shutil.rmtree(target)
        partial.rename(target)
        sync(folder)
        for old in complete_checkpoints(folder)[:-_KEPT]:
            shutil.rmtree(old)


def require_disk_space(folder: Path, trainable: int) -> None:
    """Check that a training of so many values can write its checkpoints and its adapter.

    Raises:
        DeviceError: too little is free.
    """
    needed = trainable * _BYTES_WRITTEN
    free = shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free
    if free < needed:
        raise DeviceError(
            f"checkpoints and adapter of {trainable:,} trainable values take up to {needed / 1e9:.1f} GB, and "
            f"{free / 1e9:.1f} GB are free at {str(folder)!r}. Free space there, or set another home."
        )


@contextmanager
def explain_disk_errors(what: str, folder: Path) -> Iterator[None]:
    """Raise what a full or failing disk makes of writing `what` to `folder` as a DeviceError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DeviceError(
            f"{what} cannot be written to {str(folder)!r}: {one_line(error)}. Free space there; the same command resumes the "
            "training."
        ) from error


def require_finite(weights: Mapping[str, Any], where: str) -> None:
    """Refuse weights that are no numbers: no later step would mend them, and nothing trained with them is of use.

    Raises:
        FinsentError: one is infinite or NaN.
    """
    if wrong := next((name for name, values in weights.items() if not values.isfinite().all()), None):
        raise FinsentError(f"{wrong!r} is not finite at {where}: the training diverged. Lower recipe.learning_rate.")


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first; half-written ones have another name."""
    numbers = {path: path.name.removeprefix(PREFIX) for path in folder.glob(f"{PREFIX}*") if (path / _STATE).is_file()}
    return sorted((path for path, number in numbers.items() if number.isdecimal()), key=lambda path: int(numbers[path]))


def resume_from_newest(folder: Path, model: Any, optimizer: Any, scaler: Any = None, layout: str = "", base: str = "") -> int:
    """Restore weights and optimiser state from the newest checkpoint that is whole; its step, 0 where there is none.

    Raises:
        InputError: the optimiser that wrote it held its values in another order, or the base is another by now.
    """
    import torch

    for checkpoint in reversed(complete_checkpoints(folder)):
        try:
            state, weights, tensors = _read_checkpoint(checkpoint)
        except (OSError, ValueError, AttributeError, RecursionError) as error:  # JSON, but no object or too deep
            _log.warning("checkpoint %s is damaged (%s): falling back to the one before it, if any", str(checkpoint), error)
            continue
        if state.get("layout", "") != layout:
            raise InputError(
                f"checkpoint {checkpoint.name!r} was written by another engine or version: its optimiser's state does not fit. "
                f"Set engine.training as it was, or delete {str(folder)!r} to train anew."
            )
        if state.get("base", base) != base:  # the same name, and other weights under it
            raise InputError(
                f"checkpoint {checkpoint.name!r} was trained on another base than the one that model.name finds now. "
                f"Restore that base, or delete {str(folder)!r} to train anew."
            )
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(weights[name].to(parameter.device))
        optimizer.load_state_dict(_unflatten(tensors, state["optimizer"], optimizer.state_dict()))
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        return int(state["step"])
    return 0


def _read_checkpoint(checkpoint: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """State, weights and optimiser tensors; OSError, ValueError or AttributeError where they are not what was written."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    state = json.loads((checkpoint / _STATE).read_text(encoding="utf-8"))
    for name, digest in state.get("files", {}).items():  # releases up to 0.1 wrote none
        if file_sha256(checkpoint / name) != digest:
            raise ValueError(f"{name} is not as it was written")
    if missing := {"step", "optimizer", "scaler"} - state.keys():
        raise ValueError(f"{_STATE} lacks {', '.join(sorted(missing))}")
    try:
        return state, load_file(checkpoint / _WEIGHTS), load_file(checkpoint / _OPTIMIZER)
    except SafetensorError as error:
        raise ValueError(str(error)) from error


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Optimiser state as tensors by path, and numbers by path; parameter groups come from the configuration.

    bitsandbytes nests its quantised state one level deeper than torch does.
    """
    import torch

    tensors: dict[str, Any] = {}
    scalars: dict[str, Any] = {}

    def visit(path: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                visit(f"{path}/{key}" if path else str(key), inner)
        elif torch.is_tensor(value):
            tensors[path] = value.detach().cpu().contiguous().clone()
        else:
            scalars[path] = value

    visit("", state["state"])
    return tensors, scalars


def _unflatten(tensors: dict[str, Any], scalars: dict[str, Any], fresh: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for path, value in [*tensors.items(), *scalars.items()]:
        index, *inner, key = path.split("/")
        place = state.setdefault(int(index), {})
        for name in inner:
            place = place.setdefault(name, {})
        place[key] = value
    return {"state": state, "param_groups": fresh["param_groups"]}
