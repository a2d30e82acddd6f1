"""Attention over packed rows, registered with transformers under a name of its own.

On CUDA, PyTorch's variable-length FlashAttention; elsewhere, and in float32, rows are laid into a padded block inside the
attention alone, where causal attention on right-padded rows is exact without any mask.

A model set to this implementation must get packed rows: an unknown name makes transformers build no mask at all, so that
a padded batch would attend to its padding. `packed_attention` therefore sets it for the time of a packed forward only.
"""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

ATTENTION_NAME = "finsent_packed"


@contextmanager
def packed_attention(decoder: Any) -> Iterator[None]:
    """Let `decoder` (a transformers decoder without its head) attend within packed rows while the block runs."""
    _register_attention()
    before = decoder.config._attn_implementation  # noqa: SLF001 - where transformers keeps it
    decoder.config._attn_implementation = ATTENTION_NAME  # noqa: SLF001
    try:
        yield
    finally:
        decoder.config._attn_implementation = before  # noqa: SLF001


@cache
def _register_attention() -> None:
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION_NAME, varlen_attention)


def varlen_attention(
    _module: Any,
    query: Any,
    key: Any,
    value: Any,
    attention_mask: Any,  # noqa: ARG001 - transformers passes it, always None here
    *,
    scaling: float,
    dropout: float = 0.0,
    cu_seq_lens_q: Any,
    cu_seq_lens_k: Any,
    max_length_q: int,
    max_length_k: int,
    causal: bool = True,
    **_: Any,
) -> tuple[Any, None]:
    """Query [1, heads, Tq, D], key and value [1, key heads, Tk, D] to [1, Tq, heads, D]; keywords as FlashAttention's.

    Without `causal` there is one query per row, and it sees the whole row.

    Raises:
        NotImplementedError: dropout on attention weights, which packed rows do without.
    """
    import torch

    if dropout:
        raise NotImplementedError("attention dropout is not supported with packed rows")
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    if q.is_cuda and q.dtype in {torch.bfloat16, torch.float16}:
        out = _flash_varlen(q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, scaling, causal=causal)
    else:
        out = _padded_sdpa(q, k, v, cu_seq_lens_k, max_length_k, scaling, causal=causal)
    return out[None], None


def _flash_varlen(
    q: Any, k: Any, v: Any, starts_q: Any, starts_k: Any, longest_q: int, longest_k: int, scaling: float, *, causal: bool
) -> Any:
    from torch.nn.attention.varlen import varlen_attn

    known = _varlen_parameters()
    options: dict[str, Any] = {"scale": scaling}
    if "window_size" in known:  # torch 2.11 and later
        options["window_size"] = (-1, 0) if causal else (-1, -1)
    else:
        options["is_causal"] = causal
    if "enable_gqa" in known:  # torch 2.12 and later; before, fewer key heads are taken without asking
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), starts_q, starts_k, longest_q, longest_k, **options)


@cache
def _varlen_parameters() -> frozenset[str]:
    from torch.nn.attention.varlen import varlen_attn

    return frozenset(inspect.signature(varlen_attn).parameters)


def _padded_sdpa(q: Any, k: Any, v: Any, starts: Any, longest: int, scaling: float, *, causal: bool) -> Any:
    """Rows as a right-padded block [N, heads, longest, D]; without `causal`, one query per row, its last token."""
    import torch
    import torch.nn.functional as F  # noqa: N812 - as everybody calls it

    lengths = (starts[1:] - starts[:-1]).long()
    rows = torch.repeat_interleave(torch.arange(len(lengths), device=k.device), lengths, output_size=k.shape[0])
    places = torch.arange(k.shape[0], device=k.device) - starts[:-1].long()[rows]

    def block(tensor: Any) -> Any:
        return tensor.new_zeros(len(lengths), longest, *tensor.shape[1:]).index_put((rows, places), tensor).transpose(1, 2)

    grouped = q.shape[1] != k.shape[1]
    if causal:
        out = F.scaled_dot_product_attention(block(q), block(k), block(v), is_causal=True, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2)[rows, places]
    mask = (torch.arange(longest, device=k.device) < lengths[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q[:, :, None], block(k), block(v), attn_mask=mask, scale=scaling, enable_gqa=grouped)
    return out[:, :, 0]


def split_heads(attention: Any, projected: Any, norm: Any) -> Any:
    """[1, T, heads * size] to [1, heads, T, size], through the family's norm of heads where it has one."""
    heads = projected.view(*projected.shape[:-1], -1, attention.head_dim)
    return (norm(heads) if norm is not None else heads).transpose(1, 2)


def rotary_function(attention: Any) -> Any:
    """The rotary embedding of this family, as its attention calls it: (query, key, cosine, sine) to query, key."""
    return sys.modules[type(attention).__module__].apply_rotary_pos_emb
