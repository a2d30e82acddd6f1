"""One training over two GPUs, NCCL between them, against the same training on one: `pytest -m gpu` where there are two."""

from pathlib import Path

import pytest
import torch

from tests.several_processes import FLOAT32, SMALL, check_shares, distance, train_in

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")]

EAGER = ("model.quantization.kind=nf4", "recipe.mixed_precision=bf16", "engine.compile=never")
# As large bases train: no trained embedding, bf16 copies of the adapters, fused layers, a CUDA graph for each size of a step.
RECORDED = (*EAGER, "lora.modules_to_save=[]")


@pytest.mark.parametrize(
    ("settings", "losses", "weights"),
    [
        pytest.param((*FLOAT32, "engine.training=stock"), 1e-4, 1e-4, id="stock engine in float32"),
        pytest.param(EAGER, 0.05, 0.05, id="packed engine in bfloat16"),
        pytest.param(RECORDED, 0.05, 0.1, id="packed engine, fused and recorded"),
    ],
)
def test_two_gpus_train_as_one(tmp_path: Path, settings: tuple[str, ...], losses: float, weights: float) -> None:
    """In float32 up to the order of additions; in bfloat16 each pass rounds by its own shape."""
    one, two = (train_in(count, tmp_path / str(count), tmp_path / "home", (*SMALL, *settings), gpus=True) for count in (1, 2))
    apart = {
        **{name: largest(two.series(name), one.series(name)) for name in ("loss", "grad_norm", "validation_loss")},
        **{part: distance(one.weights, two.weights, part) for part in ("lora_A", "lora_B", "score")},
    }
    print(f"two GPUs against one, {len(one.series('loss'))} steps, {' '.join(settings)}: {apart}")
    check_shares(one, two)
    assert two.files[1] == []
    assert {"adapter_model.safetensors", "checkpoint-18"} <= set(two.files[0])
    assert max(apart[name] for name in ("loss", "grad_norm", "validation_loss")) < losses
    assert max(apart[name] for name in ("lora_A", "lora_B", "score")) < weights


def largest(values: list[float], reference: list[float]) -> float:
    """The largest difference of two series, by the mean of `reference`."""
    return max(abs(a - b) for a, b in zip(values, reference, strict=True)) * len(reference) / sum(reference)
