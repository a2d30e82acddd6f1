"""The pre-flight check before a long training: two steps, two evaluations, save, reload, compare, then undo all of it."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from finsent.engine.flat_params import refresh_copies, using_master_weights
from finsent.errors import FinsentError
from finsent.training.setup import TrainingRun


def run_preflight(
    run: TrainingRun, rows: Sequence[Sequence[int]], labels: Sequence[int], learning_rate: float, folder: Path
) -> None:
    """Train two steps with a temporary optimiser, evaluate twice, save, zero the weights, reload, compare; then undo it all.

    `rows` are the token rows of the largest micro-batch of the training, so that memory runs out here or never.

    Raises:
        torch.OutOfMemoryError: memory does not hold these rows; everything is undone then, too.
        FinsentError: a loss that is not finite, a trainable parameter without a gradient, or logits that a saved and
            loaded adapter does not reproduce (a head that was not saved shows here, not after the training).
    """
    flat_params = run.flat_params
    before = flat_params.master.clone()
    state = torch.get_rng_state()
    try:
        expected, again, found = _train_save_reload(run, rows, labels, learning_rate, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        flat_params.master.copy_(before)
        flat_params.gradient.zero_()
        refresh_copies(flat_params)
        torch.set_rng_state(state)
        if run.device != "cpu":
            torch.cuda.empty_cache()  # eager passes leave cached blocks that CUDA graphs cannot use
    if not torch.isfinite(expected).all():
        raise FinsentError(f"pre-flight: logits not finite after two steps. Lower recipe.learning_rate ({learning_rate}).")
    if not torch.equal(expected, again):
        raise FinsentError("pre-flight check: two evaluations of the same rows differ, so no result would mean anything.")
    if not torch.allclose(expected, found, atol=1e-5):
        difference = float((expected - found).abs().max())
        raise FinsentError(
            f"pre-flight: a saved and loaded adapter gives other logits (by {difference:.2g}): part of it is not saved."
        )


def _train_save_reload(
    run: TrainingRun, rows: Sequence[Sequence[int]], labels: Sequence[int], learning_rate: float, folder: Path
) -> tuple[Any, Any, Any]:
    """Train two steps; logits of the model twice, and those of the saved and reloaded one."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    flat_params, model = run.flat_params, run.model
    model.train()
    optimizer = torch.optim.AdamW(flat_params.optimizer_params, lr=learning_rate)
    for _ in range(2):
        value = float(run.backward(rows, labels, len(rows)))
        if not math.isfinite(value):
            raise FinsentError(f"pre-flight: loss is {value!r} in the first steps. Lower recipe.learning_rate ({learning_rate}).")
        if run.accelerator.scaler is not None:  # fp16: the first loss scale may overflow, whatever the settings
            flat_params.gradient.div_(run.accelerator.scaler.get_scale()).nan_to_num_(0.0, 0.0, 0.0)
        optimizer.step()
        flat_params.gradient.zero_()
        refresh_copies(flat_params)
    model.eval()
    with torch.no_grad(), run.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
        expected = [run.logits(rows).float() for _ in range(2)]
        with using_master_weights(flat_params):
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            flat_params.master.zero_()
            try:
                saved = load_file(folder / "adapter_model.safetensors", device=run.device)
                set_peft_model_state_dict(model, saved)
            except KeyError as error:
                raise FinsentError(f"pre-flight: the saved adapter lacks {error}: part of it is not saved.") from error
        found = run.logits(rows).float()
    return expected[0], expected[1], found
