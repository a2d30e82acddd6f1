"""The optimiser by its name on model cards, its step, and the learning-rate schedule."""

import math
from collections.abc import Iterable
from typing import Any

import torch

from finsent.config import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[Any]) -> Any:
    """AdamW as named in `recipe.optimizer`; betas and epsilon are the libraries' (0.9, 0.999, 1e-8)."""
    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw_torch":
        return torch.optim.AdamW(parameters, fused=True, **common)
    import bitsandbytes as bnb

    # "Paged" says where the states lie when memory is short, not how they are computed. Those of an adapter are small (84 MB
    # for 42 million parameters), so they stay on the device.
    classes = {
        "paged_adamw_8bit": bnb.optim.AdamW8bit,
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_32bit": bnb.optim.AdamW32bit,
    }
    return classes[recipe.optimizer](parameters, **common)


def learning_rate(recipe: Recipe, step: int, total: int) -> float:
    """Learning rate of optimiser step `step` (from 0) of `total`: linear warm-up, then the schedule down to zero."""
    warmup = math.ceil(recipe.warmup_ratio * total)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if recipe.schedule == "cosine":
        return recipe.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return recipe.learning_rate * (1.0 - progress if recipe.schedule == "linear" else 1.0)


def optimizer_step(optimizer: Any, *, in_flight: bool) -> None:
    """One optimiser step; with `in_flight`, on a GPU and without waiting for it."""
    # bitsandbytes' own `step` synchronises after every tensor, and the device then idles while the host prepares the next
    # batch. This is the same arithmetic without those waits. Accelerate's wrapper adds nothing without loss scaling.
    plain = getattr(optimizer, "optimizer", optimizer)
    if not (in_flight and hasattr(plain, "update_step")):
        optimizer.step()
        return
    if not plain.initialized:
        plain.check_overrides()
        plain.to_gpu()
        plain.initialized = True
    with torch.no_grad():
        for group_index, group in enumerate(plain.param_groups):
            for index, parameter in enumerate(group["params"]):
                if not plain.state[parameter]:
                    plain.init_state(group, parameter, group_index, index)
                plain.update_step(group, parameter, group_index, index)
