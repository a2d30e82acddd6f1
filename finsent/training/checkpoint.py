"""Checkpoints: trainable weights and optimiser state as safetensors and JSON; the newest complete one is kept."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from finsent.errors import InputError

PREFIX = "checkpoint-"


def save_checkpoint(folder: Path, step: int, model: Any, optimizer: Any, scaler: Any = None, layout: str = "") -> None:
    """Write `checkpoint-<step>` in one rename, then delete the older ones.

    `scaler` is the loss scaler of fp16, if there is one; `layout` is `FlatParams.layout`.
    """
    from safetensors.torch import save_file

    target = folder / f"{PREFIX}{step}"
    partial = folder / f".{target.name}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    trainable = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}
    save_file(trainable, partial / "trainable.safetensors")
    tensors, scalars = _flatten(optimizer.state_dict())
    save_file(tensors, partial / "optimizer.safetensors")
    (partial / "state.json").write_text(
        json.dumps({"step": step, "layout": layout, "optimizer": scalars, "scaler": scaler.state_dict() if scaler else None}),
        encoding="utf-8",
    )
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)
    for old in complete_checkpoints(folder)[:-1]:
        shutil.rmtree(old)


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, oldest first; half-written ones have another name."""
    found = [path for path in folder.glob(f"{PREFIX}*") if (path / "state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(PREFIX)))


def load_checkpoint(checkpoint: Path, model: Any, optimizer: Any, scaler: Any = None, layout: str = "") -> int:
    """Restore weights and optimiser state; returns their step.

    Raises:
        InputError: the optimiser that wrote it held its values in another order.
    """
    import torch
    from safetensors.torch import load_file

    state = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    if state.get("layout", "") != layout:
        raise InputError(
            f"checkpoint {checkpoint.name!r} was written by another engine or version: its optimiser's state does not fit. "
            f"Set engine.training as it was, or delete {str(checkpoint.parent)!r} to train anew."
        )
    saved = load_file(checkpoint / "trainable.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(saved[name].to(parameter.device))
    optimizer.load_state_dict(
        _unflatten(load_file(checkpoint / "optimizer.safetensors"), state["optimizer"], optimizer.state_dict())
    )
    if scaler is not None and state["scaler"]:
        scaler.load_state_dict(state["scaler"])
    return int(state["step"])


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
