import torch
from hypothesis import given
from hypothesis import strategies as st

from finsent.engine.fp8 import E4M3_MAX, fp8_unsupported_reason, quantize_rows


@given(rows=st.integers(1, 9), columns=st.integers(1, 300), exponent=st.integers(-6, 6), seed=st.integers(0, 99))
def test_every_value_is_within_the_formats_rounding(rows: int, columns: int, exponent: int, seed: int) -> None:
    """e4m3 has three bits of mantissa: half a unit of the last place is 1/16, and 2^-10 where it is subnormal."""
    torch.manual_seed(seed)
    matrix = torch.randn(rows, columns) * 10.0**exponent
    quantised, scale = quantize_rows(matrix)
    assert quantised.dtype == torch.float8_e4m3fn
    assert scale.shape == (rows, 1)
    again = quantised.float() * scale
    assert ((again - matrix).abs() <= matrix.abs() / 16 * 1.001 + scale * 2**-10).all()
    assert torch.allclose(again.abs().amax(-1), matrix.abs().amax(-1), rtol=1e-5)  # the largest of a row is exact
    assert (quantised.float().abs() <= E4M3_MAX).all()


def back(matrix: torch.Tensor) -> torch.Tensor:
    quantised, scale = quantize_rows(matrix)
    return quantised.float() * scale


def test_a_product_of_gaussians_errs_by_a_few_percent() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(64, 512), torch.randn(96, 512)
    wanted = x @ weight.t()
    found = back(x) @ back(weight).t()
    assert 0.005 < (found - wanted).square().mean().sqrt() / wanted.std() < 0.05


def test_rows_of_zeros_stay_zero() -> None:
    quantised, scale = quantize_rows(torch.zeros(2, 8, dtype=torch.bfloat16))
    assert not (quantised.float() * scale).any()
    assert torch.isfinite(scale).all()


def test_a_cpu_has_none_of_it() -> None:
    assert fp8_unsupported_reason("cpu") == "fp8 needs a GPU"
