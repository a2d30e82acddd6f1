"""4-bit storage of the frozen base (QLoRA, arXiv:2305.14314): NF4 with double quantisation through bitsandbytes."""

from typing import Any

import torch

from finsent.config import Quantization


def quantization_config(settings: Quantization) -> Any:
    """Transformers' `BitsAndBytesConfig` for the configured quantisation; None where weights are stored plainly.

    The compute type is stated, since bitsandbytes' default is float32, which is slow.
    """
    if settings.kind != "nf4":
        return None
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=getattr(torch, settings.compute_dtype),
        # transformers' own default misses a head with a bias and would quantise it
        llm_int8_skip_modules=list(settings.skip_modules),
    )


def disable_cpu_repacking(model: Any) -> None:
    """Switch off bitsandbytes' CPU repacking of 4-bit weights (AVX-512), which makes later gradients silently wrong."""
    # The first eval forward would rewrite the weights for a kernel that has no backward; a training pass after it would run
    # with wrong gradients, and dequantising would give garbage. Measured with bitsandbytes 0.50.
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
