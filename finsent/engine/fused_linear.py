"""Projections that read the same input, computed as one matrix product; with LoRA, the adapters ride along in it.

The adapter's product B(Ax) costs two thin matrix products per projection and a full-size addition. Here x and the small
s·A·dropout(x) lie side by side, and B lies beside the frozen weight, so that one product gives both:

    [x | s·A1·x | s·A2·x] @ [W | blocks of B]^T = stacked (W1·x + s·B1·A1·x, W2·x + s·B2·A2·x)

and its backward product gives the gradients of x and of all A·x at once. Parameters stay PEFT's, dropout is drawn per
projection as PEFT does, and the sum is rounded once instead of three times. Dropout's random numbers are drawn for a whole
layer at once, 16 bits to a value: compiled code would run a generator of 128 bits for each, a tenth of the step.

The frozen weights move into the joined
tensors; the modules keep views of them, so everything else goes on working.

Imported only where torch is needed anyway.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it

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

    def __init__(self, weight: Any, bias: Any, inner: int, sizes: Sequence[int], adapters: Sequence[Any]) -> None:
        """`weight` [sum of out_i, in + sum of ranks]; `adapters` are PEFT's modules, none for merged weights."""
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.bias = bias
        self.in_features, self.sizes = inner, tuple(sizes)
        self.adapters = list(adapters)  # a plain list: PEFT owns them
        self.lora_a = [module.lora_A["default"] for module in self.adapters]
        self.lora_b = [module.lora_B["default"] for module in self.adapters]
        self.probability = float(getattr(self.adapters[0].lora_dropout["default"], "p", 0.0)) if self.adapters else 0.0
        self.scales = tuple(float(module.scaling["default"]) for module in self.adapters)

    @property
    def random_width(self) -> int:
        """Random values that dropout takes per token; 0 where nothing is dropped."""
        return self.in_features * len(self.lora_a) if self.probability and self.adapters[0].training else 0

    def forward(self, x: Any, bits: Any = None) -> tuple[Any, ...]:
        """`bits` int16 [T, drawn], uniform over all values, decides what dropout leaves out."""
        if not self.lora_a:
            return tuple(F.linear(x, self.weight, self.bias).split(self.sizes, -1))
        thin = self._thin(x, bits)
        wide = torch.cat([x, *thin], -1)
        seconds = [second.weight for second in self.lora_b]
        joined = _FusedProduct.apply(wide, self.weight, self.in_features, self.sizes, *seconds)
        if self.bias is not None:
            joined = joined + self.bias
        return tuple(joined.split(self.sizes, -1))

    def _thin(self, x: Any, bits: Any) -> list[Any]:
        """Scale * A(dropout(x)) of each adapter; a value stays with probability 1 - p, to within 2^-17."""
        if not self.random_width:
            return [scale * first(x) for first, scale in zip(self.lora_a, self.scales, strict=True)]
        keep = bits >= round(self.probability * 65536) - 32768
        return [
            scale / (1 - self.probability) * first(x * kept)
            for first, kept, scale in zip(self.lora_a, keep.split(self.in_features, -1), self.scales, strict=True)
        ]


class _FusedProduct(torch.autograd.Function):
    """wide @ weight^T, where blocks of `weight` are copies of trainable `seconds`, which get their gradients."""

    @staticmethod
    def forward(ctx: Any, wide: Any, weight: Any, inner: int, sizes: tuple[int, ...], *seconds: Any) -> Any:
        ctx.save_for_backward(wide, weight)
        ctx.in_features, ctx.sizes, ctx.ranks = inner, sizes, tuple(second.shape[1] for second in seconds)
        return F.linear(wide, weight)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        wide, weight = ctx.saved_tensors
        (grad,) = grads
        flat, thin = grad.flatten(0, -2), wide.flatten(0, -2)
        found = []
        row, column = 0, ctx.in_features
        for size, rank in zip(ctx.sizes, ctx.ranks, strict=True):
            found.append(flat[:, row : row + size].t() @ thin[:, column : column + rank])
            row, column = row + size, column + rank
        return grad @ weight, None, None, None, *found


@dataclass(frozen=True)
class FusedLayers:
    """The joined projections of all layers but the last, and how to bring the adapters' B in them up to date."""

    layers: list[tuple[FusedLinear, FusedLinear, FusedLinear, FusedLinear]]
    """Of each layer: query, key, value; output; gate, up; down."""
    copies: list[tuple[Any, Any]]
    """Where a B lies in a joined weight, and the parameter that it copies."""

    def refresh(self) -> None:
        """Copy the adapters' B into the joined weights: after every optimiser step."""
        with torch.no_grad():
            for place, parameter in self.copies:
                place.copy_(parameter)


def fusion_unsupported_reason(classifier: Any) -> str | None:
    """Why these layers cannot be joined; None if they can: dense weights of one type, plain LoRA on all or none of a group."""
    layers = list(classifier.model.layers[:-1])
    if not layers:
        return "the last layer is never joined, and it is the only one"
    for name, members in GROUPS.items():
        alike = {tuple(_layer_signature(layer.get_submodule(member)) for member in members) for layer in layers}
        if len(alike) > 1:
            return f"{name} is not alike in all layers"
        if len({adapted for adapted, *_ in next(iter(alike))}) > 1:
            return f"only some of {name} have adapters"
        obstacles = [_layer_unsupported_reason(layer.get_submodule(member)) for layer in layers for member in members]
        if reason := next((obstacle for obstacle in obstacles if obstacle), None):
            return f"{name}: {reason}"
    return None


def _layer_unsupported_reason(module: Any) -> str | None:
    base = module.base_layer if hasattr(module, "lora_A") else module
    if type(base) is not torch.nn.Linear:
        return f"{type(base).__name__} is not a dense layer"
    if not hasattr(module, "lora_A"):
        return None
    if base.bias is not None and base.bias.requires_grad:
        return "its bias is trained"
    return "its adapter is not plain LoRA" if _is_not_plain_lora(module) else None


def _layer_signature(module: Any) -> tuple[Any, ...]:
    base = module.base_layer if hasattr(module, "lora_A") else module
    ranks = tuple(sorted((key, part.out_features) for key, part in module.lora_A.items())) if hasattr(module, "lora_A") else ()
    return hasattr(module, "lora_A"), base.in_features, base.out_features, base.bias is not None, base.weight.dtype, ranks


def _is_not_plain_lora(module: Any) -> bool:
    return (
        list(module.active_adapters) != ["default"]
        or module.merged
        or type(module.lora_dropout["default"]) not in {torch.nn.Dropout, torch.nn.Identity}
        or bool(getattr(module, "lora_variant", {}))
        or module.lora_B["default"].bias is not None
    )


def fuse_projections(classifier: Any) -> FusedLayers:
    """Move the projections' weights into joined ones, group by group; call `why_not_joined` before.

    With adapters, the joined weights of a group lie in one tensor over all layers, so that bringing B up to date is one copy
    per projection: while it is filled, memory holds the largest group (gate and up) twice.
    """
    layers = list(classifier.model.layers[:-1])
    made: list[list[FusedLinear]] = []
    copies: list[tuple[Any, Any]] = []
    for members in GROUPS.values():
        modules = [[layer.get_submodule(member) for member in members] for layer in layers]
        linears, places = _fuse_group(modules)
        made.append(linears)
        copies += places
    joined = FusedLayers([(made[0][i], made[1][i], made[2][i], made[3][i]) for i in range(len(layers))], copies)
    joined.refresh()
    return joined


def _fuse_group(modules: Sequence[Sequence[Any]]) -> tuple[list[FusedLinear], list[tuple[Any, Any]]]:
    """Join one group in every layer; `modules` [layers][members]."""
    adapted = hasattr(modules[0][0], "lora_A")
    bases = [[module.base_layer if adapted else module for module in members] for members in modules]
    seconds = [[module.lora_B["default"].weight for module in members] if adapted else [] for members in modules]
    sizes, inner = [base.out_features for base in bases[0]], bases[0][0].in_features
    ranks = [second.shape[1] for second in seconds[0]]
    example = bases[0][0].weight
    shape = (sum(sizes), inner + sum(ranks))
    kind = {"dtype": example.dtype, "device": example.device}
    stacked = torch.zeros(len(modules), *shape, **kind) if adapted else None
    linears = []
    for index, members in enumerate(bases):
        weight = stacked[index] if stacked is not None else torch.empty(*shape, **kind)
        for base, rows in zip(members, _spans(sizes, 0), strict=True):
            weight[rows, :inner].copy_(base.weight.detach())
            base.weight.data = weight[rows, :inner]
        linears.append(FusedLinear(weight, _fused_bias(members), inner, sizes, modules[index] if adapted else []))
    copies: list[tuple[Any, Any]] = []
    if stacked is not None:
        for member, (rows, columns) in enumerate(zip(_spans(sizes, 0), _spans(ranks, inner), strict=True)):
            own = [of_layer[member] for of_layer in seconds]
            whole = _strided_view(own)
            copies += (
                [(stacked[:, rows, columns], whole)]
                if whole is not None
                else [(stacked[index, rows, columns], parameter) for index, parameter in enumerate(own)]
            )
    return linears, copies


def _spans(sizes: Sequence[int], start: int) -> list[slice]:
    spans = []
    for size in sizes:
        spans.append(slice(start, start + size))
        start += size
    return spans


def _fused_bias(bases: Sequence[Any]) -> Any:
    if all(base.bias is None for base in bases):
        return None
    return torch.cat(
        [base.bias.detach() if base.bias is not None else base.weight.new_zeros(base.out_features) for base in bases]
    )


def _strided_view(parameters: Sequence[Any]) -> Any:
    """One view [layers, out, rank] of parameters that lie at equal distances in one storage, as flat masters lay them."""
    first = parameters[0].detach()
    if len(parameters) == 1:
        return first[None]
    places = [parameter.data_ptr() for parameter in parameters]
    step = places[1] - places[0]
    even = all(place - places[0] == step * index for index, place in enumerate(places))
    storage = first.untyped_storage()
    inside = storage.data_ptr() <= places[-1] < storage.data_ptr() + storage.nbytes()
    if not (even and inside and step > 0 and all(parameter.is_contiguous() for parameter in parameters)):
        return None
    return first.as_strided((len(parameters), *first.shape), (step // first.element_size(), first.shape[1], 1))


def draw_dropout_bits(projections: tuple[Any, Any, Any, Any], hidden: Any) -> Any:
    """int16 [T, what the layer's dropout takes], or None where nothing is dropped; from the device's default generator."""
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
    starts: Any,
    longest: int,
    bits: Any = None,
) -> Any:
    """A decoder layer with joined projections, its other parts its own, in its own order: [1, T, width] to the same."""
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
        cu_seq_lens_q=starts,
        cu_seq_lens_k=starts,
        max_length_q=longest,
        max_length_k=longest,
    )
    hidden = hidden + out(mixed.flatten(2), drawn[1])[0]
    gate, up = gate_up(layer.post_attention_layernorm(hidden), drawn[2])
    return hidden + down(layer.mlp.act_fn(gate) * up, drawn[3])[0]
