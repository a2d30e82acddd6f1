"""Projections that read the same input as one matrix product, with LoRA inside it, and a decoder layer built from them."""

# A LoRA projection computes W x + s B A x: the frozen W [out, in], the trainable A [r, in] and B [out, r], and the scale
# s = alpha / r (arXiv:2106.09685). Written out, that is one large product, two thin ones, and an addition of the full size
# [tokens, out]; seven times a layer. Query, key and value read the same x, and so do gate and up. Put side by side:
#
#     [x | s A1 x | s A2 x]  @  [ W1 | B1 |  0 ]^T   =   [ W1 x + s B1 A1 x | W2 x + s B2 A2 x ]
#       [T, in + r1 + r2]       [ W2 |  0 | B2 ]           [T, out1 + out2]
#
# One product reads x and the weights once, and does the additions in its own accumulator, so that the sum is rounded once
# and not three times. With r = 16 it is about 1 % more arithmetic. Backward, grad @ weight likewise gives the gradients of x and
# of every A x at once. The parameters A and B stay PEFT's: what is saved is an ordinary adapter.
#
# Dense weights only: a 4-bit weight would have to be dequantised into the joint tensor in every pass.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

from finsent.engine.attention import rotary_function, split_heads, varlen_attention

GROUPS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


class FusedLinear(torch.nn.Module):
    """x [..., in] to a tuple of [..., out_i], by one product."""

    weight: Any

    def __init__(self, weight: Any, bias: Any, in_features: int, sizes: Sequence[int], adapters: Sequence[Any]) -> None:
        """`weight` [sum of out_i, in + sum of ranks]; `adapters` are PEFT's modules, none for merged weights."""
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.bias = bias
        self.in_features, self.sizes = in_features, tuple(sizes)
        self.adapters = list(adapters)  # a plain list, so that PEFT's modules are not registered a second time
        self.lora_a = [module.lora_A["default"] for module in self.adapters]
        self.lora_b = [module.lora_B["default"] for module in self.adapters]
        self.dropout = float(getattr(self.adapters[0].lora_dropout["default"], "p", 0.0)) if self.adapters else 0.0
        self.scales = tuple(float(module.scaling["default"]) for module in self.adapters)

    @property
    def random_width(self) -> int:
        """Random values that dropout takes per token; 0 where nothing is dropped."""
        return self.in_features * len(self.lora_a) if self.dropout and self.adapters[0].training else 0

    def forward(self, x: Any, bits: Any = None) -> tuple[Any, ...]:
        """`bits` int16 [T, random_width], uniform over all values, decides what dropout leaves out."""
        if not self.lora_a:
            return tuple(F.linear(x, self.weight, self.bias).split(self.sizes, -1))
        wide = torch.cat([x, *self._lora_down(x, bits)], -1)  # [T, in + sum of ranks]
        out = _FusedProduct.apply(wide, self.weight, self.in_features, self.sizes, *[second.weight for second in self.lora_b])
        if self.bias is not None:
            out = out + self.bias
        return tuple(out.split(self.sizes, -1))

    def _lora_down(self, x: Any, bits: Any) -> list[Any]:
        """S A dropout(x) [T, r] of each adapter."""
        if not self.random_width:
            return [scale * first(x) for first, scale in zip(self.lora_a, self.scales, strict=True)]
        # PEFT drops values of x separately for each projection, before A, and so do we. A value stays where its 16 random
        # bits, a number from -32768 to 32767, reach the threshold: probability 1 - p to within 2^-17. The factor 1 / (1 - p),
        # by which dropout keeps the mean, moves behind A, where it multiplies [T, r] in place of [T, in].
        keep = bits >= round(self.dropout * 65536) - 32768
        return [
            scale / (1 - self.dropout) * first(x * kept)
            for first, kept, scale in zip(self.lora_a, keep.split(self.in_features, -1), self.scales, strict=True)
        ]


class _FusedProduct(torch.autograd.Function):
    """wide @ weight^T, where blocks of `weight` are copies of the trainable B, which get the gradients."""

    # The joint weight is a buffer: frozen W and copies of B. Autograd would either give no gradient for it or one for all of
    # it, [out, in + ranks], nearly all of which belongs to the frozen W. Only B's blocks are computed here.

    @staticmethod
    def forward(ctx: Any, wide: Any, weight: Any, in_features: int, sizes: tuple[int, ...], *lora_b: Any) -> Any:
        ctx.save_for_backward(wide, weight)
        ctx.in_features, ctx.sizes, ctx.ranks = in_features, sizes, tuple(second.shape[1] for second in lora_b)
        return F.linear(wide, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        wide, weight = ctx.saved_tensors
        (grad,) = grads  # [..., sum of out]
        flat, thin = grad.flatten(0, -2), wide.flatten(0, -2)
        # dB_i = grad_i^T (s A_i x): the rows of grad that belong to projection i, the columns of wide that hold its A x
        lora_b_grads = []
        row, column = 0, ctx.in_features
        for size, rank in zip(ctx.sizes, ctx.ranks, strict=True):
            lora_b_grads.append(flat[:, row : row + size].t() @ thin[:, column : column + rank])
            row, column = row + size, column + rank
        # d wide = grad @ weight [..., in + ranks]: the gradients of x and of every A x in one product; autograd splits it
        # along torch.cat and goes on into A and, through dropout, into x.
        return grad @ weight, None, None, None, *lora_b_grads


@dataclass(frozen=True)
class FusedLayers:
    """The fused projections of all layers but the last, and the copies of LoRA's B inside them."""

    layers: list[tuple[FusedLinear, FusedLinear, FusedLinear, FusedLinear]]
    """Of each layer: query, key, value; output; gate, up; down."""
    copies: list[tuple[Any, Any]]
    """Where a B lies in a fused weight, and the parameter that it copies."""

    def refresh(self) -> None:
        """Copy LoRA's B into the fused weights: after every optimiser step."""
        with torch.no_grad():
            for block, parameter in self.copies:
                block.copy_(parameter)


def fusion_unsupported_reason(classifier: Any) -> str | None:
    """Why these layers cannot be fused; None if they can: dense weights of one type, plain LoRA on all or none of a group."""
    layers = list(classifier.model.layers[:-1])
    if not layers:
        return "the last layer is never fused, and it is the only one"
    for name, members in GROUPS.items():
        # One compiled function serves all layers, and one tensor holds a group over all layers: they must look the same.
        alike = {tuple(_layer_signature(layer.get_submodule(member)) for member in members) for layer in layers}
        if len(alike) > 1:
            return f"{name} is not alike in all layers"
        if len({adapted for adapted, *_ in next(iter(alike))}) > 1:
            return f"only some of {name} have adapters"
        for layer in layers:
            for member in members:
                if reason := _layer_unsupported_reason(layer.get_submodule(member)):
                    return f"{name}: {reason}"
    return None


def _layer_signature(module: Any) -> tuple[Any, ...]:
    base = module.base_layer if hasattr(module, "lora_A") else module
    ranks = tuple(sorted((key, part.out_features) for key, part in module.lora_A.items())) if hasattr(module, "lora_A") else ()
    return hasattr(module, "lora_A"), base.in_features, base.out_features, base.bias is not None, base.weight.dtype, ranks


def _layer_unsupported_reason(module: Any) -> str | None:
    base = module.base_layer if hasattr(module, "lora_A") else module
    if type(base) is not torch.nn.Linear:
        return f"{type(base).__name__} is not a dense layer"
    if not hasattr(module, "lora_A"):
        return None
    if base.bias is not None and base.bias.requires_grad:
        return "its bias is trained"
    plain = (
        list(module.active_adapters) == ["default"]
        and not module.merged
        and type(module.lora_dropout["default"]) in {torch.nn.Dropout, torch.nn.Identity}
        and not getattr(module, "lora_variant", {})  # DoRA and others compute more than B A x
        and module.lora_B["default"].bias is None
    )
    return None if plain else "its adapter is not plain LoRA"


def fuse_projections(classifier: Any) -> FusedLayers:
    """Move the projections' weights into fused ones; call `fusion_unsupported_reason` before."""
    # Group by group and not layer by layer: all layers' weights of a group lie in one tensor, see `_fuse_group`. While it is
    # filled, memory holds the group twice; gate and up are the largest, and the planner keeps room for them.
    layers = list(classifier.model.layers[:-1])
    groups: list[list[FusedLinear]] = []
    copies: list[tuple[Any, Any]] = []
    for members in GROUPS.values():
        modules = [[layer.get_submodule(member) for member in members] for layer in layers]
        linears, blocks = _fuse_group(modules)
        groups.append(linears)
        copies += blocks
    fused = FusedLayers([(qkv, out, gate_up, down) for qkv, out, gate_up, down in zip(*groups, strict=True)], copies)
    fused.refresh()
    return fused


def _fuse_group(modules: Sequence[Sequence[Any]]) -> tuple[list[FusedLinear], list[tuple[Any, Any]]]:
    """Fuse one group in every layer; `modules` [layers][members]."""
    adapted = hasattr(modules[0][0], "lora_A")
    bases = [[module.base_layer if adapted else module for module in members] for members in modules]
    lora_b = [[module.lora_B["default"].weight for module in members] if adapted else [] for members in modules]
    sizes, in_features = [base.out_features for base in bases[0]], bases[0][0].in_features
    ranks = [second.shape[1] for second in lora_b[0]]
    example = bases[0][0].weight
    shape = (sum(sizes), in_features + sum(ranks))
    options = {"dtype": example.dtype, "device": example.device}
    # With adapters: one tensor [layers, out, in + ranks] for the group, zero where no B lies. Without: a tensor per layer.
    stacked = torch.zeros(len(modules), *shape, **options) if adapted else None
    linears = []
    for index, members in enumerate(bases):
        weight = stacked[index] if stacked is not None else torch.empty(*shape, **options)
        for base, rows in zip(members, _spans(sizes, 0), strict=True):
            # The module keeps a view: its old memory is freed at once, and all that reads `module.weight` goes on working.
            weight[rows, :in_features].copy_(base.weight.detach())
            base.weight.data = weight[rows, :in_features]
        linears.append(FusedLinear(weight, _fused_bias(members), in_features, sizes, modules[index] if adapted else []))
    copies: list[tuple[Any, Any]] = []
    if stacked is not None:
        # B of member i sits at its own rows and its own columns, the same ones in every layer. Where the parameters lie at
        # equal distances in memory (flat_params lays them so), all layers' B are one strided view, and refreshing a
        # projection is one copy over all layers; 7 launches and not 7 x 31 for a Llama of 32 layers.
        for member, (rows, columns) in enumerate(zip(_spans(sizes, 0), _spans(ranks, in_features), strict=True)):
            parameters = [of_layer[member] for of_layer in lora_b]
            whole = _strided_view(parameters)
            copies += (
                [(stacked[:, rows, columns], whole)]
                if whole is not None
                else [(stacked[index, rows, columns], parameter) for index, parameter in enumerate(parameters)]
            )
    return linears, copies


def _spans(sizes: Sequence[int], start: int) -> list[slice]:
    spans = []
    for size in sizes:
        spans.append(slice(start, start + size))
        start += size
    return spans


def _fused_bias(bases: Sequence[Any]) -> Any:
    """The members' biases end to end, zeros for a member without one; None if none has one."""
    if all(base.bias is None for base in bases):
        return None
    return torch.cat(
        [base.bias.detach() if base.bias is not None else base.weight.new_zeros(base.out_features) for base in bases]
    )


def _strided_view(parameters: Sequence[Any]) -> Any:
    """One view [layers, out, rank] of parameters that lie at equal distances in one storage; None if they do not."""
    first = parameters[0].detach()
    if len(parameters) == 1:
        return first[None]
    addresses = [parameter.data_ptr() for parameter in parameters]
    step = addresses[1] - addresses[0]
    even = all(address - addresses[0] == step * index for index, address in enumerate(addresses))
    storage = first.untyped_storage()
    inside = storage.data_ptr() <= addresses[-1] < storage.data_ptr() + storage.nbytes()
    if not (even and inside and step > 0 and all(parameter.is_contiguous() for parameter in parameters)):
        return None
    return first.as_strided((len(parameters), *first.shape), (step // first.element_size(), first.shape[1], 1))


def draw_dropout_bits(projections: tuple[Any, Any, Any, Any], hidden: Any) -> Any:
    """int16 [T, what the layer's dropout takes], or None where nothing is dropped; from the device's default generator."""
    # Compiled code draws dropout with Philox, whose 128 bits yield one value each; that was a tenth of the training step.
    # 16 bits decide a dropout just as well. So a layer's numbers are drawn at once, outside the compiled code, as 64-bit
    # words that are read as four int16 each.
    width = sum(linear.random_width for linear in projections)
    if not width:
        return None
    words = torch.empty(hidden.shape[1], -(-width // 4), dtype=torch.int64, device=hidden.device)
    return words.random_(-(2**63), None).view(torch.int16)[:, :width]


def fused_layer_forward(
    layer: Any,
    projections: tuple[Any, Any, Any, Any],
    hidden: Any,
    cosine: Any,
    sine: Any,
    cu_seqlens: Any,
    max_seqlen: int,
    bits: Any = None,
) -> Any:
    """A decoder layer with fused projections: [1, T, hidden] to the same. Everything else is the layer's own, in its order."""
    qkv, out, gate_up, down = projections
    drawn = bits.split([linear.random_width for linear in projections], -1) if bits is not None else (None,) * 4
    attention = layer.self_attn
    query, key, value = qkv(layer.input_layernorm(hidden), drawn[0])
    query = split_heads(attention, query, getattr(attention, "q_norm", None))
    key = split_heads(attention, key, getattr(attention, "k_norm", None))
    query, key = rotary_function(attention)(query, key, cosine, sine)
    mixed, _ = varlen_attention(
        attention,
        query,
        key,
        split_heads(attention, value, None),
        None,
        scaling=attention.scaling,
        cu_seq_lens_q=cu_seqlens,
        cu_seq_lens_k=cu_seqlens,
        max_length_q=max_seqlen,
        max_length_k=max_seqlen,
    )
    hidden = hidden + out(mixed.flatten(2), drawn[1])[0]
    gate, up = gate_up(layer.post_attention_layernorm(hidden), drawn[2])
    return hidden + down(layer.mlp.act_fn(gate) * up, drawn[3])[0]
