from collections.abc import Callable
from typing import Any

import pytest
import torch

from finsent.engine import attention
from finsent.engine.attention import ATTENTION_NAME, packed_attention, varlen_attention


def test_rows_attend_to_themselves_alone_and_to_nothing_later() -> None:
    torch.manual_seed(0)
    starts = torch.tensor([0, 4, 5, 12, 12], dtype=torch.int32)  # the last row is empty, as filling is
    q, k, v = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    ranges = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 9, "max_length_k": 9}
    out, weights = varlen_attention(None, q, k, v, None, scaling=0.3, **ranges)
    assert out.shape == (1, 12, 4, 8)
    assert weights is None
    for begin, end in ((0, 4), (4, 5), (5, 12)):
        scores = q[0, :, begin:end] @ k[0, :, begin:end].repeat_interleave(2, 0).transpose(1, 2) * 0.3
        masked = scores.masked_fill(torch.ones_like(scores[0]).triu(1).bool(), -torch.inf)
        wanted = masked.softmax(-1) @ v[0, :, begin:end].repeat_interleave(2, 0)
        assert torch.allclose(out[0, begin:end], wanted.transpose(0, 1), atol=1e-6)


def test_one_query_a_row_sees_the_whole_row() -> None:
    torch.manual_seed(0)
    starts, last = torch.tensor([0, 4, 5, 12], dtype=torch.int32), [3, 4, 11]
    q, k, v = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8), torch.randn(1, 2, 12, 8)
    ranges = {"cu_seq_lens_k": starts, "max_length_k": 7}
    every, _ = varlen_attention(None, q, k, v, None, scaling=0.3, cu_seq_lens_q=starts, max_length_q=7, **ranges)
    one_each = torch.arange(4, dtype=torch.int32)
    found, _ = varlen_attention(
        None, q[:, :, last], k, v, None, scaling=0.3, cu_seq_lens_q=one_each, max_length_q=1, causal=False, **ranges
    )
    assert torch.allclose(found, every[:, last], atol=1e-6)


def test_dropout_on_attention_weights_is_refused() -> None:
    q = torch.zeros(1, 1, 1, 8)
    starts = torch.tensor([0, 1], dtype=torch.int32)
    ranges = {"cu_seq_lens_q": starts, "cu_seq_lens_k": starts, "max_length_q": 1, "max_length_k": 1}
    with pytest.raises(NotImplementedError, match="dropout"):
        varlen_attention(None, q, q, q, None, scaling=1.0, dropout=0.1, **ranges)


def test_the_implementation_is_put_back_after_an_exception_too(decoder: Callable[..., Any]) -> None:
    model = decoder("llama").model
    before = model.config._attn_implementation
    inside = []

    def fail() -> None:
        with packed_attention(model):
            inside.append(model.config._attn_implementation)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert inside == [ATTENTION_NAME]
    assert model.config._attn_implementation == before


def test_the_flash_path_compiles_without_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    """A functools.cache inside compiled code makes Dynamo warn, and here a warning is an error."""
    monkeypatch.setattr(attention, "varlen_attn", lambda q, *_, **options: q * options["scale"])
    compiled = torch.compile(attention._flash_varlen, backend="eager", fullgraph=True)
    q, starts = torch.ones(4, 2, 8), torch.tensor([0, 4], dtype=torch.int32)
    assert torch.equal(compiled(q, q, q, starts, starts, 4, 4, 0.5, causal=True), q * 0.5)
