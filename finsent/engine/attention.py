"""Attention over packed rows: the function, its registration with transformers, and the fallback without FlashAttention."""

import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - the usual name

try:
    from torch.nn.attention.varlen import varlen_attn
except ImportError:  # torch before 2.10: all rows take the padded path below
    varlen_attn = None  # type: ignore[assignment]

ATTENTION_NAME = "finsent_packed"

# varlen_attn's keywords changed from release to release: 2.10 has is_causal, 2.11 replaced it by window_size, 2.12 wants
# enable_gqa where there are fewer key heads than query heads (before, it takes them without being told). The signature is
# read here, once, at import. `varlen_attention` runs inside torch.compile, and a functools.cache around this look-up would
# make Dynamo warn about a cached function that it traces through.
_VARLEN_KEYWORDS = frozenset(inspect.signature(varlen_attn).parameters) if varlen_attn is not None else frozenset[str]()
_HAS_WINDOW_SIZE = "window_size" in _VARLEN_KEYWORDS
_HAS_ENABLE_GQA = "enable_gqa" in _VARLEN_KEYWORDS


@contextmanager
def packed_attention(decoder: Any) -> Iterator[None]:
    """Let `decoder` (a transformers decoder without its head) attend within packed rows while the block runs."""
    # transformers looks attention up by name at every call, and builds no mask for a name that it does not know. That is
    # right for packed rows and wrong for padded ones, which would attend to their padding without any error. So the name
    # is set only for the duration of a packed forward pass, and the model stays an ordinary one outside of it.
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

    With `causal=False` there is one query per row, and it sees the whole row.

    Raises:
        NotImplementedError: dropout on attention weights, which packed rows do not support.
    """
    if dropout:
        raise NotImplementedError("attention dropout is not supported with packed rows")
    # transformers has heads before tokens, [1, heads, T, D]; the packed layout is [T, heads, D], with no batch dimension:
    # which token belongs to which row is told by the cumulative lengths alone.
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    # PyTorch's in-tree FlashAttention takes CUDA tensors in half precision only.
    if q.is_cuda and q.dtype in {torch.bfloat16, torch.float16} and varlen_attn is not None:
        out = _flash_varlen(q, k, v, cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k, scaling, causal=causal)
    else:
        out = _padded_sdpa(q, k, v, cu_seq_lens_k, max_length_k, scaling, causal=causal)
    return out[None], None


def _flash_varlen(
    q: Any, k: Any, v: Any, cu_seqlens_q: Any, cu_seqlens_k: Any, max_q: int, max_k: int, scaling: float, *, causal: bool
) -> Any:
    # cu_seqlens = [0, len_0, len_0 + len_1, ...]: row i owns tokens cu_seqlens[i] to cu_seqlens[i + 1]. The kernel starts
    # one group of blocks per row, so a token never meets another row's, and no [T, T] mask exists in memory. max_q and
    # max_k only bound the launch grid; too large is slower, too small would cut rows off.
    options: dict[str, Any] = {"scale": scaling}
    if _HAS_WINDOW_SIZE:
        options["window_size"] = (-1, 0) if causal else (-1, -1)  # (tokens seen to the left, to the right); -1 is all
    else:
        options["is_causal"] = causal
    if _HAS_ENABLE_GQA:
        options["enable_gqa"] = q.shape[1] != k.shape[1]
    return varlen_attn(q.contiguous(), k.contiguous(), v.contiguous(), cu_seqlens_q, cu_seqlens_k, max_q, max_k, **options)


def _padded_sdpa(q: Any, k: Any, v: Any, cu_seqlens: Any, max_k: int, scaling: float, *, causal: bool) -> Any:
    """Attention by way of a right-padded block [N, heads, max_k, D]: for CPUs, float32, and torch without varlen_attn."""
    # Scatter: token t goes to block[row_of[t], position[t]]. Everything outside of attention stays packed, so padding
    # costs memory and time here alone. output_size spares repeat_interleave a wait for the device.
    lengths = (cu_seqlens[1:] - cu_seqlens[:-1]).long()
    row_of = torch.repeat_interleave(torch.arange(len(lengths), device=k.device), lengths, output_size=k.shape[0])
    position = torch.arange(k.shape[0], device=k.device) - cu_seqlens[:-1].long()[row_of]

    def block(tensor: Any) -> Any:
        padded = tensor.new_zeros(len(lengths), max_k, *tensor.shape[1:])
        return padded.index_put((row_of, position), tensor).transpose(1, 2)

    grouped = q.shape[1] != k.shape[1]
    if causal:
        # Padding stands to the right of every real token, and a causal token sees nothing to its right: no mask is needed,
        # and the result is exact. What the padding itself computes is dropped when the real tokens are gathered.
        out = F.scaled_dot_product_attention(block(q), block(k), block(v), is_causal=True, scale=scaling, enable_gqa=grouped)
        return out.transpose(1, 2)[row_of, position]
    # One query per row, its last token, sees all keys of its row: here the padding on the right must be masked.
    mask = (torch.arange(max_k, device=k.device) < lengths[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(q[:, :, None], block(k), block(v), attn_mask=mask, scale=scaling, enable_gqa=grouped)
    return out[:, :, 0]


def split_heads(attention: Any, projected: Any, norm: Any) -> Any:
    """[1, T, heads * D] to [1, heads, T, D], through the family's norm of heads where it has one (Qwen3)."""
    heads = projected.view(*projected.shape[:-1], -1, attention.head_dim)
    return (norm(heads) if norm is not None else heads).transpose(1, 2)


def rotary_function(attention: Any) -> Any:
    """The family's own `apply_rotary_pos_emb`: (query, key, cosine, sine) to query, key."""
    # Each modelling file of transformers has its own, next to its attention class; using that one keeps us bit-compatible.
    return sys.modules[type(attention).__module__].apply_rotary_pos_emb
