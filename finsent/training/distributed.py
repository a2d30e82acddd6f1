"""Training on several GPUs, launched by `accelerate launch` or `torchrun`: each process takes its share of every step's rows.

The processes hold the same weights and sum one flat gradient, so no wrapper goes around the model, and the loss is divided
by the rows of the whole step wherever they were: the result is that of one GPU, up to the order of additions.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class World:
    """This process among those of one training."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this one writes checkpoints, adapter and figures."""
        return self.rank == 0


ALONE = World(0, 1)


def launched() -> World:
    """The world that the launcher's environment tells of; nothing is started."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def share_of(rows: Sequence[int], lengths: Sequence[int], world: World) -> list[int]:
    """The rows of a step that this process computes: dealt out by length, longest first, back and forth, for equal work."""
    if world.size == 1:
        return list(rows)
    order = sorted(rows, key=lambda row: (-lengths[row], row))
    there_and_back = 2 * world.size
    return [row for place, row in enumerate(order) if _turn(place % there_and_back, world.size) == world.rank]


def _turn(place: int, size: int) -> int:
    return place if place < size else 2 * size - 1 - place


def sum_over_processes(world: World, *tensors: Any) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        dist.all_reduce(tensor)


def same_everywhere(world: World, value: Any) -> Any:
    """The main process's value, in all of them; small plain values."""
    if world.size == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def wait_for_all(world: World) -> None:
    """Go on when all processes are here."""
    if world.size > 1:
        import torch.distributed as dist

        dist.barrier()
