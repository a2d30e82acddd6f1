"""Trainable parameters, their float32 masters and gradients as flat tensors.

One tensor in place of hundreds: the optimiser, clipping and the sum over processes are a few launches each. The order and
padding keep bitsandbytes' blockwise 8-bit states those of the separate tensors: blocks of 256 values never span two of
them, and tensors that it would give 32-bit states (under 4,096 values) stay tensors of their own.

On a GPU the adapters compute in bfloat16 copies, cast once per step; that is what autocast does at every use.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from finsent.errors import FinsentError

_BLOCK = 256
"""Values that share a scale in bitsandbytes' 8-bit optimisers (arXiv:2110.02861)."""
_SMALL = 4096
"""Fewer values than this get 32-bit states there."""


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
    """Parameters that compute in float32, their places in `flat` and in `gradient`."""
    in_copies: list[tuple[Any, Any, Any, Any, Any]]
    """Parameters that compute in a copy: parameter, places in `flat` and `gradient`, its copy, the copy's gradient."""
    spans: list[tuple[slice, slice]]
    """Parts of `flat` that are copied, and where they lie in `copies`."""
    names: list[str]
    """Names of the parameters: those of `full`, then those of `working`."""
    layout: str
    """Identity of the order in which `flat` holds the parameters: optimiser states fit no other."""
    copies: Any
    """The copies that the model computes with; empty where there are none."""
    copy_gradients: Any
    refresh_hooks: list[Callable[[], None]] = field(default_factory=list)
    """What else is brought up to date after the copies."""


def flatten_params(model: Any, working_type: Any = None) -> FlatParams:
    """Move the trainable parameters of `model` into flat tensors; LoRA's compute in `working_type` where one is given."""
    import torch

    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    copied = {name: working_type is not None and "lora_" in name for name, _ in named}
    order = sorted(named, key=lambda item: (item[1].numel() < _SMALL, not copied[item[0]]))  # stable: large copied first
    padded = [-(-parameter.numel() // _BLOCK) * _BLOCK for _, parameter in order]
    device = named[0][1].device
    flat = torch.zeros(sum(padded), dtype=torch.float32, device=device)
    gradient = torch.zeros_like(flat)
    size = sum(space for (name, _), space in zip(order, padded, strict=True) if copied[name])
    copies = torch.zeros(size, dtype=working_type, device=device)
    copy_gradients = torch.zeros_like(copies)
    full: list[tuple[Any, Any, Any]] = []
    working: list[tuple[Any, Any, Any, Any, Any]] = []
    spans: list[tuple[slice, slice]] = []
    small: list[tuple[int, int]] = []
    start = copy_start = large = 0
    for (name, parameter), space in zip(order, padded, strict=True):
        span = slice(start, start + parameter.numel())
        place, grad = flat[span].view(parameter.shape), gradient[span].view(parameter.shape)
        place.copy_(parameter.detach())
        if parameter.numel() < _SMALL:
            small.append((start, parameter.numel()))  # without padding: 4,096 values would be large
        else:
            large = start + space
        if copied[name]:
            own = slice(copy_start, copy_start + parameter.numel())
            working.append((parameter, place, grad, copies[own].view(parameter.shape), copy_gradients[own].view(parameter.shape)))
            _append_span(spans, slice(start, start + space), slice(copy_start, copy_start + space))
            copy_start += space
        else:
            full.append((parameter, place, grad))
            parameter.data = place
        start += space
    optimised = [_parameter(flat, gradient, 0, large)] if large else []
    optimised += [_parameter(flat, gradient, begin, begin + values) for begin, values in small]
    names = [name for name, _ in order if not copied[name]] + [name for name, _ in order if copied[name]]
    layout = hashlib.sha256(repr([(name, tuple(parameter.shape)) for name, parameter in order]).encode()).hexdigest()
    masters = FlatParams(optimised, flat, gradient, full, working, spans, names, layout, copies, copy_gradients)
    refresh_copies(masters)
    for parameter, _, _, copy, _ in working:
        parameter.data = copy
    return masters


def _append_span(spans: list[tuple[slice, slice]], place: slice, copy: slice) -> None:
    """Neighbours become one span, so that refreshing is one or two copies."""
    if spans and spans[-1][0].stop == place.start and spans[-1][1].stop == copy.start:
        place, copy = slice(spans[-1][0].start, place.stop), slice(spans[-1][1].start, copy.stop)
        spans.pop()
    spans.append((place, copy))


def _parameter(flat: Any, gradient: Any, start: int, stop: int) -> Any:
    import torch

    parameter = torch.nn.Parameter(flat[start:stop])
    parameter.grad = gradient[start:stop]
    return parameter


def collect_gradients(masters: FlatParams) -> None:
    """Add the gradients that a backward pass left on the model's parameters to the masters', and clear them.

    Raises:
        FinsentError: a trainable parameter took no part in the loss.
    """
    import torch

    full = [(grad, parameter) for parameter, _, grad in masters.in_float32]
    copied = [(grad, parameter) for parameter, _, _, _, grad in masters.in_copies]
    for number, (_, parameter) in enumerate((*full, *copied)):
        if parameter.grad is None:
            raise FinsentError(
                f"{masters.names[number]!r} gets no gradient, it would never train. Check lora.targets and lora.modules_to_save."
            )
    with torch.no_grad():
        if full:
            torch._foreach_add_([grad for grad, _ in full], [parameter.grad for _, parameter in full])
        if copied:
            torch._foreach_copy_([grad for grad, _ in copied], [parameter.grad for _, parameter in copied])
            for place, copy in masters.spans:
                masters.gradient[place] += masters.copy_gradients[copy]
    for _, parameter in (*full, *copied):
        parameter.grad = None


def refresh_copies(masters: FlatParams) -> None:
    """Bring the copies up to the masters, after every optimiser step."""
    for place, copy in masters.spans:
        masters.copies[copy].copy_(masters.master[place])
    for follow in masters.refresh_hooks:
        follow()


@contextmanager
def using_master_weights(masters: FlatParams) -> Iterator[None]:
    """Let the model's parameters be the float32 masters for the time of a save or a load; copies are refreshed after it."""
    for parameter, place, *_ in masters.in_copies:
        parameter.data = place
    try:
        yield
    finally:
        refresh_copies(masters)
        for parameter, _, _, copy, _ in masters.in_copies:
            parameter.data = copy
