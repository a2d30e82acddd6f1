"""Memory planning: which engine runs, in which form the base stays in memory, and how many tokens go into one pass."""

# The largest terms of a training pass, in bytes: the base's weights (2 per weight in bfloat16, about half a byte in NF4),
# the trainable values with all their states, and the activations kept for the backward pass, which grow with the tokens.
# Weights and states are exact. Activations were fitted to measurements on an H200 with Llama-3.1-8B (8.1 MB per token
# launched kernel by kernel, 6.7 MB compiled, docs/performance.md) and scale with width and depth. So the plan is an
# estimate with a margin. Where it is wrong, training halves its passes and logs that.

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finsent.config import EngineConfig, ModelConfig

GIB = 1 << 30
# Bytes per weight in NF4: 4 bits, plus one constant per 64 weights, in 8 bits (nested, arXiv:2305.14314) or in float32.
NF4_BYTES = 0.516
_NF4_UNNESTED = 0.5625
# Bytes per trainable value: float32 master and gradient, bfloat16 copy and its gradient, two 8-bit optimiser states.
_TRAINABLE_BYTES = 14
_CUDA_CONTEXT = 0.6 * GIB  # outside of what the allocator counts
_WORKSPACE = 0.7 * GIB  # workspaces of matrix products, a dequantised layer, fragmentation
_MARGIN = 0.93
# Tokens of one pass. An H200's matrix units are busy from about 2,000 on, and beyond 8,192 nothing is gained.
_FULL_PASS = 2048
_MIN_PASS = 256
_MAX_PASS = 8192


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
    """Sizes from a base's `config.json`, see `shape_from_config`."""
    return shape_from_config(json.loads((folder / "config.json").read_text(encoding="utf-8")))


def shape_from_config(written: Mapping[str, Any]) -> ModelShape | None:
    """Sizes from a transformers configuration; None where it is not written as Llama-like decoders do."""
    try:
        hidden, layers, wide = (int(written[key]) for key in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        heads = int(written["num_attention_heads"])
        key_heads = int(written.get("num_key_value_heads") or heads)
        vocabulary = int(written["vocab_size"])
    except (KeyError, TypeError, ValueError):
        return None
    # Per layer: query and output projections [hidden, heads * head], key and value [hidden, key_heads * head], and three MLP
    # matrices [hidden, intermediate]. Llama-3.1-8B: 32 * 4096 * (2*4096 + 2*1024 + 3*14336) = 6.98e9.
    head = int(written.get("head_dim") or hidden // heads)
    body = layers * hidden * (2 * heads * head + 2 * key_heads * head + 3 * wide)
    return ModelShape(layers, hidden, wide, body, vocabulary * hidden)


def usable_bytes(device: str, engine: EngineConfig) -> float:
    """Memory of a GPU that may still be taken: what is free, or left under the configured cap, which is enforced from now on."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    # Blocks that PyTorch's allocator holds in reserve are missing from `free`, yet available to us.
    left = float(free + torch.cuda.memory_reserved(device) - held)
    if engine.memory_gib is None:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
        return left
    cap = max(engine.memory_gib * GIB - _CUDA_CONTEXT, 0.1 * GIB)
    torch.cuda.set_per_process_memory_fraction(min(cap / total, 1.0), device)
    return min(left, cap - held)


def activation_bytes(shape: ModelShape, *, compiled: bool, checkpointing: bool = False) -> int:
    """Bytes that a training pass keeps per token for its backward pass; bfloat16, LoRA on all seven projections."""
    # The fit: eager, as if a layer kept 10 tensors [T, hidden] (inputs of norms and projections, query, key, value, attention's
    # output) and 6 [T, intermediate] (gate, up, activation, product, LoRA's casts); compiled, fusion saves a few of them.
    # Checkpointing keeps the input of every layer, and what one layer at a time computes again.
    if checkpointing:
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
    max_seqlen: int,
    total_tokens: int,
    unsupported_reason: str | None,
) -> TrainingPlan:
    """Choose for a GPU with `usable` bytes, or for a CPU (None); `unsupported_reason` tells why rows cannot be packed."""
    if engine.training == "stock" or unsupported_reason or (usable is not None and shape is None):
        why = "engine.training is stock" if engine.training == "stock" else unsupported_reason or "the base's sizes are unknown"
        return TrainingPlan("stock", "as loaded", None, graphs=False, compiled=False, checkpointing=False, reason=why)
    if usable is None or shape is None:
        tokens = engine.micro_batch_tokens or _MAX_PASS
        return TrainingPlan(
            "packed", "as loaded", tokens, graphs=False, compiled=False, checkpointing=False, reason="rows without padding"
        )
    compiled = engine.compile == "always" or (engine.compile == "auto" and _worth_compiling(shape, total_tokens))
    room = usable * _MARGIN - _WORKSPACE - trainable * _TRAINABLE_BYTES - 2 * shape.embedding
    # Twice: a recorded step keeps its activations for good, and before another size is recorded, the same work runs outside of
    # the recording, in memory of its own.
    per_token = 2 * activation_bytes(shape, compiled=compiled)
    quantised = model.quantization.kind == "nf4"
    stored = _NF4_UNNESTED if quantised else 2.0
    residency = "nf4" if quantised else "as loaded"
    # Dequantising pays (weights are read once and not dequantised in every pass), provided that there is room left for a full
    # pass and for fusing projections, which holds the largest group, gate and up of all layers, twice for a moment.
    needed = max(per_token * min(step_tokens, _FULL_PASS), 4 * shape.layers * shape.hidden * shape.intermediate)
    fits_dense = room - 2 * shape.body >= needed
    if quantised and engine.residency != "nf4" and (engine.residency == "bf16" or fits_dense):
        residency, stored = "bf16", 2.0
    left = room - stored * shape.body
    checkpointing = left < per_token * max_seqlen
    if checkpointing:
        per_token = activation_bytes(shape, compiled=compiled, checkpointing=True)
    fits = max(max_seqlen, int(left / per_token))
    tokens = min(engine.micro_batch_tokens or fits, fits, max(step_tokens, max_seqlen), _MAX_PASS)
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
    unsupported_reason: str | None,
    unmergeable_reason: str | None = None,
) -> InferencePlan:
    """Choose for about `rows` texts, with `usable` bytes of memory beside the base as it is loaded.

    `unsupported_reason` tells why rows cannot be packed, `unmergeable_reason` why the adapter cannot be merged: the reference
    engine is taken then, unless `packed` is demanded, with the adapter live.
    """
    if engine.inference == "stock" or shape is None:
        why = "engine.inference is stock" if engine.inference == "stock" else "the base's sizes are unknown"
        return InferencePlan("stock", merged=False, tokens=None, compiled=False, reason=why)
    if unmergeable_reason and engine.inference == "auto":
        why = f"adapter live on the base; padded, since it cannot be merged: {unmergeable_reason}"
        return InferencePlan("stock", merged=False, tokens=None, compiled=False, reason=why)
    # Nothing is kept for a backward pass: only one layer's widest tensors, several at once (hidden states, gate, up, their
    # product). PEFT computes a live adapter's products in float32, which adds its share.
    per_token = 2 * (6 * shape.hidden + 4 * shape.intermediate)
    live = per_token + 12 * shape.intermediate
    stored = NF4_BYTES if quantization == "nf4" else 2.0
    dense = 2.0 * shape.body
    beside = usable * _MARGIN - _WORKSPACE if on_gpu else usable * 0.5  # other processes use a CPU's memory, too
    # Merging replaces the stored weights by dense ones, layer by layer. Whether it happens must not depend on `rows`: a run
    # that continues where a killed one ended has fewer rows, and the weights would differ by a rounding. (Compiling moves single
    # operations by less, and does go by the rows: 40 s of it do not pay for a few.)
    fits = beside + stored * shape.body >= dense + per_token * 4096 + (0.2 * GIB if on_gpu else 0)
    merged = fits and unmergeable_reason is None
    how = "adapter merged into dense weights" if merged else "adapter live on the base"
    if unsupported_reason:
        return InferencePlan("stock", merged, None, compiled=False, reason=f"{how}; padded, since {unsupported_reason}")
    if not on_gpu:
        return InferencePlan("packed", merged, engine.batch_tokens, compiled=False, reason=f"{how}; rows without padding")
    # fp8 pays only when compiled, and whether it is used must not depend on the rows, either.
    long_enough = engine.precision == "fp8" or _worth_compiling(shape, 40 * rows, passes=1)
    compiled = engine.compile == "always" or (engine.compile == "auto" and long_enough)
    left = beside - (dense - stored * shape.body if merged else 0)
    tokens = max(_MIN_PASS, min(engine.batch_tokens or _MAX_PASS, int(left / (per_token if merged else live))))
    reason = (
        f"{usable / GIB:.1f} GiB free beside the base: {how}, "
        f"{'compiled, ' if compiled else ''}passes of {tokens:,} tokens without padding"
    )
    return InferencePlan("packed", merged, tokens, compiled, reason)


def _worth_compiling(shape: ModelShape, tokens: int, passes: int = 2) -> bool:
    """Whether the work takes minutes, of which compiling (about 40 s, 100 s with a cold cache) saves a fifth or more."""
    # A forward pass is 2 operations per weight and token; backward through a frozen base, for the inputs' gradients alone, is
    # as much again (`passes`). 300 TFLOP/s is about what eager training reaches on an H200.
    seconds = passes * 2 * shape.body * tokens / 300e12
    return seconds > 240
