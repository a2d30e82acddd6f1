import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from finsent.training.batches import drop_tokens, epoch_steps, steps_in_total


@given(rows=st.integers(1, 400), size=st.integers(1, 33), seed=st.integers(0, 9), grouped=st.booleans())
def test_every_row_is_seen_once_an_epoch(rows: int, size: int, seed: int, grouped: bool) -> None:
    lengths = [i % 17 + 1 for i in range(rows)]
    steps = epoch_steps(lengths, size, seed=seed, epoch=1, group_by_length=grouped)
    assert sorted(i for step in steps for i in step) == list(range(rows))
    assert steps == epoch_steps(lengths, size, seed=seed, epoch=1, group_by_length=grouped)


def test_epochs_and_seeds_differ_in_order() -> None:
    orders = [str(epoch_steps([1] * 50, 4, seed=s, epoch=e, group_by_length=False)) for s, e in ((0, 0), (0, 1), (1, 0))]
    assert len(set(orders)) == 3


def test_grouping_saves_padding() -> None:
    lengths = np.random.default_rng(0).integers(5, 128, 2000).tolist()

    def padded(grouped: bool) -> int:
        return sum(
            max(lengths[i] for i in step) * len(step)
            for step in epoch_steps(lengths, 16, seed=0, epoch=0, group_by_length=grouped)
        )

    assert padded(True) < 1.15 * sum(lengths) < padded(False)


def test_steps_in_total() -> None:
    assert steps_in_total(100, 16, 3) == 21
    assert steps_in_total(100, 16, 0.5) == 4
    assert steps_in_total(1, 16, 0.01) == 1


@given(ids=st.lists(st.integers(0, 99), min_size=1, max_size=30), seed=st.integers(0, 99))
def test_dropping_keeps_both_ends_and_the_order(ids: list[int], seed: int) -> None:
    keep = np.random.default_rng(seed).random(len(ids)) >= 0.5
    kept = drop_tokens(ids, keep)
    assert kept[0] == ids[0]
    assert kept[-1] == ids[-1]
    rest = iter(ids)
    assert all(token in rest for token in kept)
