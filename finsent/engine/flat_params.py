"""Trainable parameters as flat tensors: float32 masters, their gradients, and the bfloat16 copies that compute."""

# Mixed precision keeps two versions of each trainable value (arXiv:1710.03740). The optimiser needs float32: an update of
# one part in a thousand is lost in bfloat16, which has 8 bits of precision. The matrix products need bfloat16 for speed.
# Autocast would cast at every use; here the adapters live in bfloat16 copies, cast once per step, which is the same value.
#
# An adapter on an 8B model is 450 small tensors. Clipping, the optimiser, the sum over GPUs and the cast would launch a
# kernel for each, and the GPU would wait for the host. So all of them lie end to end in a few flat tensors, and the model's
# parameters are views:
#
#     master     [ A0 | pad | B0 | pad | A1 | ... | head | small ones ]   float32 [P], what the optimiser updates
#     gradient   [ the same places ]                                      float32 [P], what is clipped and summed over GPUs
#     copies     [ A0 | pad | B0 | ... ]                                  bfloat16, what LoRA computes with
#     copy_gradients                                                      bfloat16, where backward's gradients are gathered
#
# The results must equal those of separate tensors bit by bit, 8-bit optimisers included. bitsandbytes (arXiv:2110.02861)
# quantises their states in blocks of 256 values with one scale each: padding every tensor to a multiple of 256 keeps a
# block from spanning two of them. Tensors under 4,096 values get 32-bit states there, so they stay parameters of their own.

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from finsent.errors import FinsentError

_BLOCK = 256
_SMALL = 4096


@dataclass(frozen=True)
class FlatParams:
    """Flat float32 tensors and the parameters of the model that live in them."""

    optimizer_params: list[Any]
    """What the optimiser gets: all large tensors as one parameter, each small one by itself; gradients in place."""
    master: Any
    """float32 [P]: every trainable value, with padding between tensors."""
    gradient: Any
    """float32 [P]"""
    in_float32: list[tuple[Any, Any, Any]]
    """Parameters that compute in float32: parameter, its view of `master`, its view of `gradient`."""
    in_copies: list[tuple[Any, Any, Any, Any, Any]]
    """Parameters that compute in a copy: parameter, views of `master`, `gradient`, `copies` and `copy_gradients`."""
    spans: list[tuple[slice, slice]]
    """Parts of `master` that are copied, and where they lie in `copies`."""
    names: list[str]
    """Names of the parameters: those of `in_float32`, then those of `in_copies`."""
    layout: str
    """Identity of the order in which `master` holds the parameters: optimiser states fit no other."""
    copies: Any
    """The copies that the model computes with; empty where there are none."""
    copy_gradients: Any
    refresh_hooks: list[Callable[[], None]] = field(default_factory=list)
    """What else is brought up to date after the copies."""


def flatten_params(model: Any, copy_dtype: Any = None) -> FlatParams:
    """Move the trainable parameters of `model` into flat tensors; LoRA's compute in `copy_dtype` where one is given."""
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    copied = {name: copy_dtype is not None and "lora_" in name for name, _ in named}
    # Large before small, copied before not, and otherwise the model's order (the sort is stable): then the copied values are
    # one or two spans, and a LoRA matrix lies at the same distance from layer to layer, which fused_linear makes use of.
    order = sorted(named, key=lambda item: (item[1].numel() < _SMALL, not copied[item[0]]))
    padded = [-(-parameter.numel() // _BLOCK) * _BLOCK for _, parameter in order]
    device = named[0][1].device
    master = torch.zeros(sum(padded), dtype=torch.float32, device=device)
    gradient = torch.zeros_like(master)
    copied_size = sum(space for (name, _), space in zip(order, padded, strict=True) if copied[name])
    copies = torch.zeros(copied_size, dtype=copy_dtype, device=device)
    copy_gradients = torch.zeros_like(copies)
    in_float32: list[tuple[Any, Any, Any]] = []
    in_copies: list[tuple[Any, Any, Any, Any, Any]] = []
    spans: list[tuple[slice, slice]] = []
    small: list[slice] = []
    start = copy_start = large_end = 0
    for (name, parameter), space in zip(order, padded, strict=True):
        own = slice(start, start + parameter.numel())
        value, grad = master[own].view(parameter.shape), gradient[own].view(parameter.shape)
        value.copy_(parameter.detach())
        if parameter.numel() < _SMALL:
            small.append(own)  # without its padding: with it, 4,000 values would count as large
        else:
            large_end = start + space
        if copied[name]:
            place = slice(copy_start, copy_start + parameter.numel())
            copy, copy_grad = (flat[place].view(parameter.shape) for flat in (copies, copy_gradients))
            in_copies.append((parameter, value, grad, copy, copy_grad))
            _append_span(spans, slice(start, start + space), slice(copy_start, copy_start + space))
            copy_start += space
        else:
            in_float32.append((parameter, value, grad))
            parameter.data = value
        start += space
    optimizer_params = [_parameter(master, gradient, slice(0, large_end))] if large_end else []
    optimizer_params += [_parameter(master, gradient, own) for own in small]
    names = [name for name, _ in order if not copied[name]] + [name for name, _ in order if copied[name]]
    layout = hashlib.sha256(repr([(name, tuple(parameter.shape)) for name, parameter in order]).encode()).hexdigest()
    flat_params = FlatParams(
        optimizer_params, master, gradient, in_float32, in_copies, spans, names, layout, copies, copy_gradients
    )
    refresh_copies(flat_params)
    for parameter, _, _, copy, _ in in_copies:
        parameter.data = copy
    return flat_params


def _append_span(spans: list[tuple[slice, slice]], place: slice, copy: slice) -> None:
    """Neighbours become one span, so that refreshing is one or two copies."""
    if spans and spans[-1][0].stop == place.start and spans[-1][1].stop == copy.start:
        place, copy = slice(spans[-1][0].start, place.stop), slice(spans[-1][1].start, copy.stop)
        spans.pop()
    spans.append((place, copy))


def _parameter(master: Any, gradient: Any, own: slice) -> Any:
    parameter = torch.nn.Parameter(master[own])
    parameter.grad = gradient[own]
    return parameter


def collect_gradients(flat_params: FlatParams) -> None:
    """Add the gradients that a backward pass left on the model's parameters to the masters', and clear them.

    Raises:
        FinsentError: a trainable parameter took no part in the loss.
    """
    in_float32 = [(grad, parameter) for parameter, _, grad in flat_params.in_float32]
    copied = [(grad, parameter) for parameter, _, _, _, grad in flat_params.in_copies]
    for number, (_, parameter) in enumerate((*in_float32, *copied)):
        if parameter.grad is None:
            raise FinsentError(
                f"{flat_params.names[number]!r} gets no gradient, it would never train. "
                "Check lora.targets and lora.modules_to_save."
            )
    with torch.no_grad():
        if in_float32:
            torch._foreach_add_([grad for grad, _ in in_float32], [parameter.grad for _, parameter in in_float32])
        if copied:
            # Gather first, then add: _foreach_copy_ moves hundreds of bf16 gradients into their flat tensor in a few
            # launches, and one addition per span casts them to float32. Micro-batches thus add up in float32, where
            # bfloat16 would lose small contributions.
            torch._foreach_copy_([grad for grad, _ in copied], [parameter.grad for _, parameter in copied])
            for place, copy in flat_params.spans:
                flat_params.gradient[place] += flat_params.copy_gradients[copy]
    for _, parameter in (*in_float32, *copied):
        parameter.grad = None


def refresh_copies(flat_params: FlatParams) -> None:
    """Bring the copies up to the masters, after every optimiser step."""
    for place, copy in flat_params.spans:
        flat_params.copies[copy].copy_(flat_params.master[place])
    for hook in flat_params.refresh_hooks:
        hook()


@contextmanager
def using_master_weights(flat_params: FlatParams) -> Iterator[None]:
    """Let the model's parameters be the float32 masters for the time of a save or a load; copies are refreshed after it."""
    for parameter, value, *_ in flat_params.in_copies:
        parameter.data = value
    try:
        yield
    finally:
        refresh_copies(flat_params)
        for parameter, _, _, copy, _ in flat_params.in_copies:
            parameter.data = copy
