"""The optimiser and the learning-rate schedule, under the names that model cards use."""

import math
import warnings
from collections.abc import Iterable
from typing import Any

from finsent.config import Recipe


def make_optimizer(recipe: Recipe, parameters: Iterable[Any], device: str) -> Any:
    """AdamW as named in `recipe.optimizer`; betas and epsilon are the libraries' (0.9, 0.999, 1e-8)."""
    import torch

    common: dict[str, Any] = {"lr": recipe.learning_rate, "weight_decay": recipe.weight_decay}
    if recipe.optimizer == "adamw_torch":
        return torch.optim.AdamW(parameters, fused=True, **common)
    import bitsandbytes as bnb

    classes = {
        "paged_adamw_8bit": bnb.optim.PagedAdamW8bit,
        "adamw_8bit": bnb.optim.AdamW8bit,
        "paged_adamw_32bit": bnb.optim.PagedAdamW32bit,
    }
    with warnings.catch_warnings():
        if not device.startswith("cuda"):  # known and wanted: the same name works on a CPU, unpaged
            warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
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
