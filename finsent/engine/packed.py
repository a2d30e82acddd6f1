"""The packed forward pass of Llama-like decoders: transformers' and PEFT's own modules, called on rows laid end to end.

Nothing is padded; the last layer computes queries, MLP and norm for the last token of each row alone (its other tokens
only serve as keys and values), and the head sees nothing else. Logits equal the stock engine's up to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from finsent.engine.attention import packed_attention, rotary_function, split_heads, varlen_attention
from finsent.engine.packing import PackedRows

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Model types whose layers take cumulative lengths through to attention and have the parts that `_last_layer` calls."""


@dataclass(frozen=True)
class PackedModel:
    """A sequence classifier ready for packed rows."""

    classifier: Any
    """transformers' *ForSequenceClassification: with PEFT's layers in place, or merged."""
    last_layer: Callable[..., Any]
    """`_last_layer`, compiled or not."""
    fused: Any
    """`finsent.engine.fused_linear.FusedLayers`, or None: layers are called as transformers wrote them."""
    joined_layer: Callable[..., Any]
    """`finsent.engine.fused_linear.fused_layer_forward`, compiled or not."""
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
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def can_fuse(model: Any) -> bool:
    """Whether the projections of this model (transformers' or PEFT's) can be joined, see `finsent.engine.fused_linear`."""
    from finsent.engine.fused_linear import fusion_unsupported_reason

    return fusion_unsupported_reason(unwrap_peft(model)) is None


def build_packed_model(model: Any, *, compiled: bool = False, fused: bool = False) -> PackedModel:
    """Prepare a model; compiled where asked (the first pass of each kind then takes its time), and with `joined` projections.

    Joined weights replace the modules' own, which keep views of them; see `finsent.engine.fused_linear`.

    Raises:
        ValueError: these layers cannot be joined.
    """
    import torch

    classifier = unwrap_peft(model)
    together = None
    from finsent.engine.fused_linear import fuse_projections, fused_layer_forward, fusion_unsupported_reason

    layer = torch.compile(fused_layer_forward) if compiled else fused_layer_forward
    if fused:
        if reason := fusion_unsupported_reason(classifier):
            raise ValueError(f"projections cannot be joined: {reason}")
        together = fuse_projections(classifier)
    elif compiled:
        for one in classifier.model.layers[:-1]:
            one.compile(dynamic=True)
    last = torch.compile(_last_layer_forward) if compiled else _last_layer_forward
    return PackedModel(classifier, last, together, layer, compiled)


def batch_to_device(packed: PackedRows, device: str, *, max_seqlen: int | None = None) -> PackedBatch:
    """Tensors on `device`, copied without waiting where it is a GPU; `longest` is an upper bound, by default the true length."""
    import torch

    def move(array: Any) -> Any:
        tensor = torch.from_numpy(array)
        return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor

    last = packed.cu_seqlens[1:].astype("int64") - 1
    return PackedBatch(
        move(packed.input_ids)[None],
        move(packed.position_ids)[None],
        move(packed.cu_seqlens),
        move(last),
        max_seqlen or packed.max_seqlen,
    )


def packed_logits(model: PackedModel, batch: PackedBatch) -> Any:
    """Logits [N, classes] in float32."""
    decoder = model.classifier.model
    with packed_attention(decoder):
        hidden = decoder.embed_tokens(batch.input_ids)
        rotary = decoder.rotary_emb(hidden, position_ids=batch.position_ids)
        if model.fused is not None:
            hidden = _run_fused_layers(model, hidden, rotary, batch)
        else:
            hidden = _run_layers(decoder.layers[:-1], hidden, rotary, batch)
        if model.compiled:
            _mark_dynamic(hidden, *rotary, batch.cu_seqlens, batch.last_token)
        pooled = model.last_layer(decoder.layers[-1], hidden, *rotary, batch.cu_seqlens, batch.last_token, batch.max_seqlen)
        # the head's hook feeds it in its own type
        return model.classifier.score(decoder.norm(pooled)[0]).float()


def _run_fused_layers(model: PackedModel, hidden: Any, rotary: tuple[Any, Any], batch: PackedBatch) -> Any:
    import torch

    from finsent.engine.fused_linear import draw_dropout_bits

    if torch.is_grad_enabled() and not hidden.requires_grad:
        hidden.requires_grad_()  # the first layer is then compiled as the others are: its input's gradient costs less
    for layer, projections in zip(model.classifier.model.layers[:-1], model.fused.layers, strict=True):
        bits = draw_dropout_bits(projections, hidden)
        if model.compiled:
            _mark_dynamic(hidden, batch.cu_seqlens, *rotary, *([bits] if bits is not None else []))
        hidden = model.joined_layer(layer, projections, hidden, *rotary, batch.cu_seqlens, batch.max_seqlen, bits)
    return hidden


def _mark_dynamic(*tensors: Any) -> None:
    """Tell the compiler that the number of tokens or rows varies, and nothing else does: one compilation serves all sizes."""
    import torch

    for tensor in tensors:
        torch._dynamo.maybe_mark_dynamic(tensor, 1 if tensor.dim() == 3 else 0)  # noqa: SLF001 - it has no public name


def _run_layers(layers: Any, hidden: Any, rotary: tuple[Any, Any], batch: PackedBatch) -> Any:
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


def _last_layer_forward(layer: Any, hidden: Any, cosine: Any, sine: Any, starts: Any, last: Any, longest: int) -> Any:
    """The decoder layer's own parts, in its own order, for the last token of each row: [1, T, width] to [1, N, width]."""
    import torch

    attention = layer.self_attn
    normed = layer.input_layernorm(hidden)
    key = split_heads(attention, attention.k_proj(normed), getattr(attention, "k_norm", None))
    value = split_heads(attention, attention.v_proj(normed), None)
    query = split_heads(attention, attention.q_proj(normed.index_select(1, last)), getattr(attention, "q_norm", None))
    turn = rotary_function(attention)
    key = turn(key, key, cosine, sine)[1]
    query = turn(query, query, cosine.index_select(1, last), sine.index_select(1, last))[0]
    one_each = torch.arange(len(last) + 1, dtype=torch.int32, device=hidden.device)
    mixed, _ = varlen_attention(
        attention,
        query,
        key,
        value,
        None,
        scaling=attention.scaling,
        cu_seq_lens_q=one_each,
        cu_seq_lens_k=starts,
        max_length_q=1,
        max_length_k=longest,
        causal=False,
    )
    residual = hidden.index_select(1, last) + attention.o_proj(mixed.flatten(2))
    return residual + layer.mlp(layer.post_attention_layernorm(residual))
