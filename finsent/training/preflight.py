"""Two steps of everything before hours are spent on it: train, evaluate, save, load, compare."""

import math
import shutil
from pathlib import Path
from typing import Any

from finsent.errors import FinsentError


def verify_settings(
    model: Any, batch: tuple[Any, Any, Any], learning_rate: float, precision: str, folder: Path, device: str
) -> None:
    """Run two training steps with a throw-away optimiser and two evaluation steps, save, wipe, load, compare; then undo it all.

    `batch` is input_ids, attention_mask [rows, length] and labels [rows]: the largest that training will see, so that
    memory runs out here or never.

    Raises:
        FinsentError: a loss that is not finite, a trainable parameter without a gradient, or logits that a saved and
            loaded adapter does not reproduce (a head that was not saved shows here, not after the training).
    """
    import torch
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    before = {name: parameter.detach().clone() for name, parameter in trainable.items()}
    ids, mask, labels = batch
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    with torch.autocast(torch.device(device).type, half, enabled=precision != "none"):
        model.train()
        optimizer = torch.optim.AdamW(trainable.values(), lr=learning_rate)
        for _ in range(2):
            loss = torch.nn.functional.cross_entropy(model(input_ids=ids, attention_mask=mask).logits.float(), labels)
            loss.backward()
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FinsentError(
                    f"pre-flight: loss is {value!r} in the first steps. Lower recipe.learning_rate ({learning_rate})."
                )
            if idle := [name for name, parameter in trainable.items() if parameter.grad is None]:
                raise FinsentError(
                    f"{idle[0]!r} gets no gradient, it would never train. Check lora.targets and lora.modules_to_save."
                )
            optimizer.step()
            optimizer.zero_grad()
        model.eval()
        with torch.no_grad():
            expected = [model(input_ids=ids, attention_mask=mask).logits.float() for _ in range(2)]
            model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
            for parameter in trainable.values():
                parameter.zero_()
            try:
                set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors", device=device))
            except KeyError as error:
                raise FinsentError(f"pre-flight: the saved adapter lacks {error}: part of it is not saved.") from error
            found = model(input_ids=ids, attention_mask=mask).logits.float()
    shutil.rmtree(folder)
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(before[name])
            parameter.grad = None
    if not torch.isfinite(expected[0]).all():
        raise FinsentError(f"pre-flight: logits not finite after two steps. Lower recipe.learning_rate ({learning_rate}).")
    if not torch.equal(expected[0], expected[1]):
        raise FinsentError("pre-flight check: two evaluations of the same rows differ, so no result would mean anything.")
    if not torch.allclose(expected[0], found, atol=1e-5):
        difference = float((expected[0] - found).abs().max())
        raise FinsentError(
            f"pre-flight: a saved and loaded adapter gives other logits (by {difference:.2g}): part of it is not saved."
        )
