"""Merged weights in 8-bit floating point for scoring: e4m3, one scale per output row, activations scaled per token."""

# e4m3 has 4 exponent and 3 mantissa bits (arXiv:2209.05433): 448 is its largest value, and neighbouring values differ by a
# sixteenth to an eighth. So a matrix is stretched before it is rounded, every row by its own factor:
#
#     scale[i] = max_j |W[i, j]| / 448        W8[i, j] = round_to_e4m3(W[i, j] / scale[i])
#     out[t, i] = xscale[t] * scale[i] * sum_j X8[t, j] * W8[i, j]
#
# The scales do not depend on j, so they leave the sum, and the tensor cores multiply 8-bit values. One scale per row and per
# token, not one per matrix: an outlier then costs precision in its own row alone. On Hopper that is half as fast again as
# bfloat16, and rougher: about 4 % error per product on Gaussian data. Whether the predictions survive is measured on
# held-out rows before it is used (finsent.scoring.predictor, finsent.evaluation.engine_parity).

from dataclasses import replace
from typing import Any

import torch

from finsent.engine.fused_linear import GROUPS, FusedLayers
from finsent.engine.packed_forward import PackedModel

E4M3_MAX = 448.0


def fp8_unsupported_reason(device: str) -> str | None:
    """Why this device does not multiply row-scaled e4m3 matrices; None if it does."""
    if not device.startswith("cuda"):
        return "fp8 needs a GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability not in {(9, 0), (10, 0)}:
        return f"a GPU of compute capability {capability[0]}.{capability[1]} has no row-scaled fp8 product in PyTorch"
    return None


def convert_to_fp8(model: PackedModel) -> PackedModel:
    """Round the linear layers of a merged, fused decoder to e4m3, layer by layer; embeddings, norms and head stay.

    The bf16 weights of `model` are used up.

    Raises:
        ValueError: the model's projections are not fused, or its adapter is still live.
    """
    if model.fused is None or any(linear.lora_a for layer in model.fused.layers for linear in layer):
        raise ValueError("fp8 takes a model with merged and fused projections")
    members = [member for group in GROUPS.values() for member in group]
    layers = []
    for layer, projections in zip(model.classifier.model.layers, model.fused.layers, strict=False):
        # Freed layer by layer, so that the peak is the bf16 model plus one layer: the modules' weights are views of the fused
        # ones and would keep them alive.
        for member in members:
            linear = layer.get_submodule(member)
            linear.weight.data = linear.weight.data.new_empty(0)
        made: list[Any] = []
        for projection in projections:
            made.append(Fp8Linear(projection.weight, projection.bias, projection.sizes))
            projection.weight = None
        layers.append((made[0], made[1], made[2], made[3]))
    # The last layer is never fused (it runs for last tokens alone): its linear modules are replaced where they stand.
    last = model.classifier.model.layers[-1]
    for member in members:
        linear = last.get_submodule(member)
        last.set_submodule(member, Fp8Linear(linear.weight, linear.bias, None))
    return replace(model, fused=FusedLayers(layers, []))


def quantize_rows(matrix: Any) -> tuple[Any, Any]:
    """A matrix [rows, columns] as e4m3 and its scales [rows, 1] in float32: the largest value of a row becomes `E4M3_MAX`."""
    # The clamp keeps a row of zeros from dividing by zero. The division is in float32: only the cast rounds.
    scale = matrix.abs().amax(-1, keepdim=True).float().clamp(min=1e-12) / E4M3_MAX
    return (matrix.float() / scale).to(torch.float8_e4m3fn), scale


class Fp8Linear(torch.nn.Module):
    """x [..., in] to [..., out] in bfloat16, or to a tuple of `sizes` of it; stands in for a `FusedLinear` without adapters."""

    weight: Any
    scale: Any
    random_width = 0  # no dropout

    def __init__(self, weight: Any, bias: Any, sizes: tuple[int, ...] | None) -> None:
        super().__init__()
        rounded, scale = quantize_rows(weight.detach())
        self.register_buffer("weight", rounded)  # [out, in]
        self.register_buffer("scale", scale.t().contiguous())  # [1, out]
        self.bias, self.sizes = bias, sizes

    def forward(self, x: Any, _bits: Any = None) -> Any:
        """`_bits` is ignored: there is no dropout."""
        # Activations are scaled as they come: one pass to find each token's largest value, one to divide and cast. Compiled,
        # both melt into the kernel before; launched singly they eat up what the product saves, so fp8 is compiled only.
        rows, scale = quantize_rows(x.reshape(-1, x.shape[-1]))
        out = torch._scaled_mm(  # noqa: SLF001 - torch.nn.functional.scaled_mm cannot be compiled (PyTorch 2.11, seen on an H200)
            rows,
            self.weight.t(),
            scale_a=scale,
            scale_b=self.scale,
            bias=self.bias,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,  # slow accumulation costs a tenth on Hopper, with no measurable gain in precision
        )
        out = out.reshape(*x.shape[:-1], -1)
        return out if self.sizes is None else tuple(out.split(self.sizes, -1))
