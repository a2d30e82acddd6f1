import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.engine.packing import balance_micro_batches, pack_batches, pack_rows, round_up, strip_padding

LENGTHS = st.lists(st.integers(1, 128), min_size=1, max_size=60)


@given(lengths=LENGTHS)
def test_rows_lie_end_to_end(lengths: list[int]) -> None:
    rows = [list(range(100 * i, 100 * i + n)) for i, n in enumerate(lengths)]
    packed = pack_rows(rows)
    assert packed.input_ids.tolist() == [token for row in rows for token in row]
    assert packed.position_ids.tolist() == [place for n in lengths for place in range(n)]
    assert packed.cu_seqlens.tolist() == [0, *np.cumsum(lengths).tolist()]
    assert packed.max_seqlen == max(lengths)


@given(lengths=LENGTHS, more=st.integers(0, 900), slots=st.integers(0, 40))
def test_filled_packs_have_the_shape_asked_for_and_rows_no_longer_than_the_longest(
    lengths: list[int], more: int, slots: int
) -> None:
    tokens = sum(lengths) + more
    slots += len(lengths) + -(-more // 128)
    packed = pack_rows([[7] * n for n in lengths], tokens=tokens, slots=slots, max_seqlen=128, filler_id=3)
    assert packed.input_ids.shape == packed.position_ids.shape == (tokens,)
    assert packed.cu_seqlens.shape == (slots + 1,)
    assert packed.cu_seqlens.dtype == np.int32
    assert packed.cu_seqlens[-1] == tokens
    sizes = np.diff(packed.cu_seqlens)
    assert sizes.max() <= packed.max_seqlen <= 128
    assert sizes[: len(lengths)].tolist() == lengths
    assert packed.input_ids[sum(lengths) :].tolist() == [3] * more


def test_rows_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="without tokens"):
        pack_rows([[1], []])
    with pytest.raises(ValueError, match="without tokens"):
        pack_rows([])
    with pytest.raises(ValueError, match="2 rows of 9 tokens do not fit 4 slots of 8"):
        pack_rows([[1] * 5, [1] * 4], tokens=8, slots=4)
    with pytest.raises(ValueError, match="do not fit 2 slots of 10"):
        pack_rows([[1] * 5, [1] * 4], tokens=10, slots=2)


@given(lengths=LENGTHS, budget=st.integers(1, 600))
def test_every_row_is_in_exactly_one_pack_and_budgets_are_kept(lengths: list[int], budget: int) -> None:
    found = list(pack_batches(lengths, budget))
    assert sorted(row for part in found for row in part) == list(range(len(lengths)))
    assert all(sum(lengths[row] for row in part) <= budget or len(part) == 1 for part in found)
    order = [lengths[row] for part in found for row in part]
    assert order == sorted(order, reverse=True)


@given(lengths=LENGTHS, budget=st.integers(1, 600), data=st.data())
def test_a_step_is_split_into_parts_within_the_budget(lengths: list[int], budget: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    parts = balance_micro_batches(rows, lengths, budget)
    sums = [sum(lengths[row] for row in part) for part in parts]
    assert sorted(row for part in parts for row in part) == sorted(rows)
    assert all(0 < size <= budget or len(part) == 1 for part, size in zip(parts, sums, strict=True))
    assert parts == balance_micro_batches(rows, lengths, budget)
    # Graham: no part is larger than the smallest by more than one row
    assert max(sums) - min(sums) <= max(lengths[row] for row in rows)


def test_a_step_that_fits_is_one_part() -> None:
    assert balance_micro_batches([3, 1], [9, 5, 9, 5], 10) == [[1, 3]]
    assert list(pack_batches([], 10)) == []


@given(tokens=st.integers(1, 5000), step=st.integers(1, 300))
def test_buckets_are_the_next_multiple(tokens: int, step: int) -> None:
    assert round_up(tokens, step) % step == 0
    assert tokens <= round_up(tokens, step) < tokens + step


def test_padding_ids_at_the_end_are_cut_and_nothing_else() -> None:
    assert strip_padding([[5, 0, 6], [5, 6, 0], [0, 5, 0, 0]], 0) == [[5, 0, 6], [5, 6], [0, 5]]
    assert strip_padding([[0, 0], []], 0) == [[0], [0]]
