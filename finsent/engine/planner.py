"""What fits: engine, residency of the base and tokens per pass, from free memory and the base's shape.

Activation sizes were fitted to measurements on an H200 (Llama-3.1-8B: 8.1 MB per token launched kernel by kernel, 6.7 MB
compiled, docs/performance.md) and scale with width and depth. The plan is an estimate with a margin; where it is wrong,
training backs off by itself and says so.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finsent.config import EngineConfig, ModelConfig

GIB = 1 << 30
_NF4 = 0.516
"""Bytes of a 4-bit weight with doubly quantised constants (arXiv:2305.14314); 0.5625 with the constants in float32."""
_NF4_UNNESTED = 0.5625
_MASTER_BYTES = 14
"""Float32 master and gradient, bfloat16 copy and its gradient, two 8-bit states: bytes of a trainable value."""
_CONTEXT = 0.6 * GIB
"""CUDA's own, outside the allocator's count."""
_WORKSPACE = 0.7 * GIB
"""Matrix products' workspaces, a dequantised layer, fragmentation."""
_MARGIN = 0.93
_FULL_PASS = 2048
_SHORTEST_PASS = 256
_LONGEST_PASS = 8192
"""More tokens in one pass gain nothing: the matrix units are busy from about 2,000 on."""


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a decoder, in values."""

    layers: int
    hidden: int
    intermediate: int
    body: int
    """Weights of the decoder's linear layers."""
    embedding: int


@dataclass(frozen=True)
class TrainingPlan:
    """How a training runs on this device."""

    engine: str
    """`packed` or `stock`."""
    residency: str
    """`nf4`, `bf16` (dequantised once) or `as loaded`."""
    tokens: int | None
    """Most tokens of a packed pass."""
    graphs: bool
    compiled: bool
    checkpointing: bool
    reason: str


@dataclass(frozen=True)
class InferencePlan:
    """How scoring runs on this device."""

    engine: str
    merged: bool
    """Adapter merged into dense weights; otherwise the base stays as loaded, with the adapter live."""
    tokens: int | None
    """Most tokens of a packed pass."""
    compiled: bool
    reason: str


def read_shape(folder: Path) -> ModelShape | None:
    """Sizes from a base's `config.json`, see `shape_of`."""
    return shape_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_from_config(written: Mapping[str, Any]) -> ModelShape | None:
    """Sizes from a transformers configuration; None where it is not written as Llama-like decoders do."""
    try:
        hidden, layers, wide = (int(written[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads = int(written["num_attention_heads"])
        key_heads = int(written.get("num_key_value_heads") or heads)
        vocabulary = int(written["vocab_size"])
    except KeyError:
        return None
    head = int(written.get("head_dim") or hidden // heads)
    body = layers * hidden * (2 * heads * head + 2 * key_heads * head + 3 * wide)
    return ModelShape(layers, hidden, wide, body, vocabulary * hidden)


def usable_bytes(device: str, engine: EngineConfig) -> float:
    """Memory of a GPU that may still be taken: what is free, or left under the configured cap, which is enforced from now on."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    left = float(free + torch.cuda.memory_reserved(device) - held)  # blocks that the allocator keeps are as good as free
    if engine.memory_gib is None:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        return left
    cap = max(engine.memory_gib * GIB - _CONTEXT, 0.1 * GIB)
    torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0), device)
    return min(left, cap - held)


def activation_bytes(shape: ModelShape, *, compiled: bool, checkpointing: bool = False) -> int:
    """Bytes that a training pass keeps per token for its backward pass; bfloat16, LoRA on all seven projections."""
    if checkpointing:  # the input of every layer, and one layer's own
        return 2 * shape.layers * shape.hidden + 2 * (10 * shape.hidden + 6 * shape.intermediate)
    per_layer = 8 * shape.hidden + 5 * shape.intermediate if compiled else 10 * shape.hidden + 6 * shape.intermediate
    return 2 * shape.layers * per_layer


def plan_training(
    engine: EngineConfig,
    model: ModelConfig,
    shape: ModelShape | None,
    *,
    usable: float | None,
    trainable: int,
    step_tokens: int,
    longest: int,
    total_tokens: int,
    unpackable: str | None,
) -> TrainingPlan:
    """Choose for a GPU with `usable` bytes, or for a CPU (None). `unpackable` says why the base cannot run packed rows."""
    if engine.training == "stock" or unpackable or (usable is not None and shape is None):
        why = "engine.training is stock" if engine.training == "stock" else unpackable or "the base's sizes are unknown"
        return TrainingPlan("stock", "as loaded", None, graphs=False, compiled=False, checkpointing=False, reason=why)
    if usable is None or shape is None:
        tokens = engine.micro_batch_tokens or _LONGEST_PASS
        return TrainingPlan(
            "packed", "as loaded", tokens, graphs=False, compiled=False, checkpointing=False, reason="rows without padding"
        )
    compiled = engine.compile == "always" or (engine.compile == "auto" and _worth_compiling(shape, total_tokens))
    room = usable * _MARGIN - _WORKSPACE - trainable * _MASTER_BYTES - 2 * shape.embedding
    # a recorded step holds its own, and before the next size is recorded the same work runs once outside the recording
    per_token = 2 * activation_bytes(shape, compiled=compiled)
    quantised = model.quantization.kind == "nf4"
    stored = _NF4_UNNESTED if quantised else 2.0
    residency = "nf4" if quantised else "as loaded"
    # joining the projections holds the largest group, gate and up, twice for a moment
    needed = max(per_token * min(step_tokens, _FULL_PASS), 4 * shape.layers * shape.hidden * shape.intermediate)
    fits_dense = room - 2 * shape.body >= needed
    if quantised and engine.residency != "nf4" and (engine.residency == "bf16" or fits_dense):
        residency, stored = "bf16", 2.0
    left = room - stored * shape.body
    checkpointing = left < per_token * longest
    if checkpointing:
        per_token = activation_bytes(shape, compiled=compiled, checkpointing=True)
    fits = max(longest, int(left / per_token))
    tokens = min(engine.micro_batch_tokens or fits, fits, max(step_tokens, longest), _LONGEST_PASS)
    reason = (
        f"{usable / GIB:.1f} GiB usable; base {residency} {stored * shape.body / GIB:.1f} GiB, "
        f"{per_token / 1e6:.1f} MB a token, passes of up to {tokens:,} tokens"
    )
    return TrainingPlan(
        "packed", residency, tokens, graphs=not checkpointing, compiled=compiled, checkpointing=checkpointing, reason=reason
    )


def plan_inference(
    engine: EngineConfig,
    quantization: str,
    shape: ModelShape | None,
    *,
    usable: float,
    on_gpu: bool,
    rows: int,
    unpackable: str | None,
) -> InferencePlan:
    """Choose for about `rows` texts, with `usable` bytes of memory beside the base as it is loaded.

    Whether the adapter is merged does not depend on `rows`: a run that takes up where a killed one ended must compute alike.
    """
    if engine.inference == "stock" or shape is None:
        why = "engine.inference is stock" if engine.inference == "stock" else "the base's sizes are unknown"
        return InferencePlan("stock", merged=False, tokens=None, compiled=False, reason=why)
    # a layer's widest tensors, several at once: hidden states, gate, up, their product
    per_token = 2 * (6 * shape.hidden + 4 * shape.intermediate)
    live = per_token + 12 * shape.intermediate  # PEFT computes a live adapter's products in float32
    stored = _NF4 if quantization == "nf4" else 2.0
    dense = 2.0 * shape.body
    beside = usable * _MARGIN - _WORKSPACE if on_gpu else usable * 0.5  # a CPU's memory is everybody's
    merged = beside + stored * shape.body >= dense + per_token * 4096 + (0.2 * GIB if on_gpu else 0)
    how = "adapter merged into dense weights" if merged else "adapter live on the base"
    if unpackable:
        return InferencePlan("stock", merged, None, compiled=False, reason=f"{how}; padded, since {unpackable}")
    if not on_gpu:
        return InferencePlan("packed", merged, engine.batch_tokens, compiled=False, reason=f"{how}; rows without padding")
    # fp8 only pays when compiled; and what it computes must not depend on how many rows there are
    long_enough = engine.precision == "fp8" or _worth_compiling(shape, 40 * rows, passes=1)
    compiled = engine.compile == "always" or (engine.compile == "auto" and long_enough)
    left = beside - (dense - stored * shape.body if merged else 0)
    tokens = max(_SHORTEST_PASS, min(engine.batch_tokens or _LONGEST_PASS, int(left / (per_token if merged else live))))
    reason = (
        f"{usable / GIB:.1f} GiB free beside the base: {how}, "
        f"{'compiled, ' if compiled else ''}passes of {tokens:,} tokens without padding"
    )
    return InferencePlan("packed", merged, tokens, compiled, reason)


def _worth_compiling(shape: ModelShape, tokens: int, passes: int = 2) -> bool:
    """Whether the work takes minutes, of which compiling (about 40 s, 100 s with a cold cache) saves a fifth or more."""
    seconds = passes * 2 * shape.body * tokens / 300e12
    return seconds > 240
