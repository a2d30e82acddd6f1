"""The packed forward pass: token rows end to end through transformers' own decoder, to one row of logits per text."""

# There is no rewritten Llama here: embedding, norms, rotary embedding, MLP and PEFT's LoRA layers are the modules that
# transformers and PEFT built. Measured, that is at least as fast as a hand-written forward pass (docs/adr/0009-*), and
# the adapter stays an ordinary one. What differs from calling the model:
#
#   1. Rows lie end to end (finsent.engine.packing) and attention keeps them apart (finsent.engine.attention).
#   2. The last layer runs for the last token of each row alone, and so does the head (`_last_layer_forward`).
#   3. With dense weights, projections of one input are one product (finsent.engine.fused_linear).
#   4. Layers are compiled one by one, with the number of tokens left open.
#
# Logits equal the padded reference's up to rounding; tests/engine/test_packed.py holds that for each family.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from finsent.engine.attention import packed_attention, rotary_function, split_heads, varlen_attention
from finsent.engine.fused_linear import (
    FusedLayers,
    draw_dropout_bits,
    fuse_projections,
    fused_layer_forward,
    fusion_unsupported_reason,
)
from finsent.engine.packing import PackedRows

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers pass cumulative lengths through to attention and have the parts that `_last_layer_forward` calls."""


@dataclass(frozen=True)
class PackedModel:
    """A sequence classifier ready for packed rows."""

    classifier: Any
    """transformers' *ForSequenceClassification: with PEFT's layers in place, or merged."""
    last_layer: Callable[..., Any]
    """`_last_layer_forward`, compiled or not."""
    fused: FusedLayers | None
    """None: layers are called as transformers wrote them."""
    fused_layer: Callable[..., Any]
    """`fused_layer_forward`, compiled or not."""
    compiled: bool


@dataclass(frozen=True)
class PackedBatch:
    """Packed rows on a device."""

    input_ids: Any
    """int64 [1, T]"""
    position_ids: Any
    """int64 [1, T]"""
    cu_seqlens: Any
    """int32 [N + 1]"""
    last_token: Any
    """int64 [N]: index of each row's last token."""
    max_seqlen: int
    """Tokens of the longest row, or an upper bound of it."""


def packing_unsupported_reason(config: Any, max_length: int) -> str | None:
    """Why a model of this transformers configuration cannot run packed rows of up to `max_length` tokens; None if it can."""
    if config.model_type not in FAMILIES:
        return f"{config.model_type!r} is no decoder of the kinds {', '.join(FAMILIES)}"
    window = getattr(config, "sliding_window", None)
    if window and getattr(config, "use_sliding_window", True) and window < max_length:
        return f"its attention window of {window} tokens is shorter than texts of {max_length}"
    if getattr(config, "attention_dropout", 0.0):
        return "it has dropout on attention weights"
    return None


def unwrap_peft(model: Any) -> Any:
    """The transformers model inside PEFT's, which has the adapters in place; itself where there is no PEFT."""
    # PEFT replaces linear layers inside the base model, so calling that one computes the adapters too; going past
    # PeftModel.forward only skips hooks of prompt tuning and of several adapters, which we do not have.
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def can_fuse(model: Any) -> bool:
    """Whether the projections of this model (transformers' or PEFT's) can be fused, see `finsent.engine.fused_linear`."""
    return fusion_unsupported_reason(unwrap_peft(model)) is None


def build_packed_model(model: Any, *, compiled: bool = False, fused: bool = False) -> PackedModel:
    """Prepare a model: compiled where asked (at the first pass of each kind), and with `fused` projections.

    Fused weights replace the modules' own, which keep views of them.

    Raises:
        ValueError: these layers cannot be fused.
    """
    classifier = unwrap_peft(model)
    layers = None
    # Compiling per layer and not the whole model: the layers are alike, so one compilation serves them all, and it does not
    # fall apart where embedding, hooks or PEFT's head would break the graph.
    fused_layer = torch.compile(fused_layer_forward) if compiled else fused_layer_forward
    if fused:
        if reason := fusion_unsupported_reason(classifier):
            raise ValueError(f"projections cannot be fused: {reason}")
        layers = fuse_projections(classifier)
    elif compiled:
        for layer in classifier.model.layers[:-1]:
            layer.compile(dynamic=True)
    last_layer = torch.compile(_last_layer_forward) if compiled else _last_layer_forward
    return PackedModel(classifier, last_layer, layers, fused_layer, compiled)


def batch_to_device(packed: PackedRows, device: str, *, max_seqlen: int | None = None) -> PackedBatch:
    """Tensors on `device`; `max_seqlen` is an upper bound, by default the true length."""

    # From pinned memory a copy to the GPU runs beside what it computes, and the host does not wait for either.
    def move(array: Any) -> Any:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor

    last_token = packed.cu_seqlens[1:].astype("int64") - 1
    return PackedBatch(
        move(packed.input_ids)[None],
        move(packed.position_ids)[None],
        move(packed.cu_seqlens),
        move(last_token),
        max_seqlen or packed.max_seqlen,
    )


def packed_logits(model: PackedModel, batch: PackedBatch) -> Any:
    """Logits [N, classes] in float32."""
    decoder = model.classifier.model
    with packed_attention(decoder):
        hidden = decoder.embed_tokens(batch.input_ids)  # [1, T, hidden]
        # Cosine and sine [1, T, head size] by each token's position within its own row: computed once for all layers.
        rotary = decoder.rotary_emb(hidden, position_ids=batch.position_ids)
        if model.fused is not None:
            hidden = _run_fused_layers(model, model.fused, hidden, rotary, batch)
        else:
            hidden = _run_layers(decoder.layers[:-1], hidden, rotary, batch)
        if model.compiled:
            _mark_dynamic(hidden, *rotary, batch.cu_seqlens, batch.last_token)
        pooled = model.last_layer(decoder.layers[-1], hidden, *rotary, batch.cu_seqlens, batch.last_token, batch.max_seqlen)
        # [1, N, hidden] to [N, classes]. The head is in float32; a hook on it casts its input (models/adapter.py).
        return model.classifier.score(decoder.norm(pooled)[0]).float()


def _run_fused_layers(model: PackedModel, fused: FusedLayers, hidden: Any, rotary: tuple[Any, Any], batch: PackedBatch) -> Any:
    # The first layer's input comes from a frozen embedding and needs no gradient, which Dynamo would take for another kind of
    # call and compile again. Asking for that gradient costs less than a second compilation.
    if torch.is_grad_enabled() and not hidden.requires_grad:
        hidden.requires_grad_()
    for layer, projections in zip(model.classifier.model.layers[:-1], fused.layers, strict=True):
        bits = draw_dropout_bits(projections, hidden)
        if model.compiled:
            _mark_dynamic(hidden, batch.cu_seqlens, *rotary, *([bits] if bits is not None else []))
        hidden = model.fused_layer(layer, projections, hidden, *rotary, batch.cu_seqlens, batch.max_seqlen, bits)
    return hidden


def _mark_dynamic(*tensors: Any) -> None:
    # T and N differ from batch to batch, everything else is fixed. Said so beforehand, one compilation serves all sizes;
    # otherwise Dynamo compiles for the first size, meets a second, and compiles again. T is dimension 1 of [1, T, hidden]
    # and dimension 0 of dropout bits [T, width]; vectors have only the one.
    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 1 if tensor.dim() == 3 else 0)  # noqa: SLF001 - it has no public name


def _run_layers(layers: Any, hidden: Any, rotary: tuple[Any, Any], batch: PackedBatch) -> Any:
    # Two silent traps of transformers: any attention_mask, even all ones, and any cache (use_cache is True by default) switch
    # its handling of packed rows off, and rows would attend to each other. The lengths travel through the layer to our
    # attention under the keywords that transformers has for FlashAttention.
    for layer in layers:
        hidden = layer(
            hidden,
            attention_mask=None,
            position_ids=batch.position_ids,
            position_embeddings=rotary,
            use_cache=False,
            cu_seq_lens_q=batch.cu_seqlens,
            cu_seq_lens_k=batch.cu_seqlens,
            max_length_q=batch.max_seqlen,
            max_length_k=batch.max_seqlen,
        )
    return hidden


def _last_layer_forward(
    layer: Any, hidden: Any, cosine: Any, sine: Any, cu_seqlens: Any, last_token: Any, max_seqlen: int
) -> Any:
    """The decoder layer's own parts, in its own order, for the last token of each row: [1, T, hidden] to [1, N, hidden]."""
    # The classifier reads the last token of each row and nothing else. In the last layer all other tokens serve only as keys
    # and values: query, output projection and MLP need N tokens and not T. For tweets that saves 96 % of the layer, 3 % of an
    # 8B model, exactly, since no token's output depends on another token's query or MLP.
    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    key = split_heads(attention, attention.k_proj(normed), getattr(attention, "k_norm", None))
    value = split_heads(attention, attention.v_proj(normed), None)
    last_normed = normed.index_select(1, last_token)
    query = split_heads(attention, attention.q_proj(last_normed), getattr(attention, "q_norm", None))
    # The rotary function turns a query and a key of the same positions. Here the positions differ, so it is called for each,
    # with the other argument thrown away (compiled, it is never computed).
    rotate = rotary_function(attention)
    key = rotate(key, key, cosine, sine)[1]
    query = rotate(query, query, cosine.index_select(1, last_token), sine.index_select(1, last_token))[0]
    # One query per row: cu_seqlens of the queries is 0, 1, 2, ..., N. The last token sees its whole row, so causal is off.
    one_each = torch.arange(len(last_token) + 1, dtype=torch.int32, device=hidden.device)
    mixed, _ = varlen_attention(
        attention,
        query,
        key,
        value,
        None,
        scaling=attention.scaling,
        cu_seq_lens_q=one_each,
        cu_seq_lens_k=cu_seqlens,
        max_length_q=1,
        max_length_k=max_seqlen,
        causal=False,
    )
    residual = hidden.index_select(1, last_token) + attention.o_proj(mixed.flatten(2))
    return residual + layer.mlp(layer.post_attention_layernorm(residual))
