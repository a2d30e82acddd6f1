"""Data-parallel training under `accelerate launch` or `torchrun`: process group, sharding of steps, termination.

The processes hold the same weights and all-reduce one flat gradient, so the model needs no DistributedDataParallel wrapper.
The loss is divided by the rows of the whole step: the result is that of one GPU, up to the order of additions.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from finsent.child_process import end_with_parent
from finsent.environ import whole_number
from finsent.errors import ConfigError

_GRACE = 10.0
"""Seconds that a process gets to end by itself after SIGTERM; `torchrun` kills after 30."""


@dataclass(frozen=True)
class World:
    """This process among those of one training."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints, adapter and metrics."""
        return self.rank == 0


def world_from_env() -> World:
    """Rank and size from the launcher's environment variables; starts nothing.

    Raises:
        ConfigError: a variable is no whole number, or the rank is none of this size.
    """
    world = World(whole_number("RANK", 0), whole_number("WORLD_SIZE", 1))
    if world.rank >= world.size:
        raise ConfigError(
            f"RANK = {world.rank} and WORLD_SIZE = {world.size} do not fit together. Unset both, or start finsent by `torchrun`."
        )
    return world


def init() -> World:
    """Join the process group of this launch, if there is one: NCCL with a GPU per process, gloo on CPUs."""
    world = world_from_env()
    if world.size > 1:
        end_with_parent()  # a launcher that is killed stops no process, and they would go on with a GPU each
        from datetime import timedelta

        from accelerate import PartialState

        from finsent.models.base_model import pick_device

        # Loading can keep the other processes waiting for longer than the libraries' ten minutes.
        PartialState(cpu=pick_device() == "cpu", timeout=timedelta(hours=1))
    return world


def shutdown(world: World) -> None:
    """Leave the process group, all processes at once; the main process goes on alone."""
    if world.size > 1:
        import torch.distributed as dist

        barrier(world)
        dist.destroy_process_group()


@contextmanager
def terminate_with_peers(world: World, on_terminate: Callable[[], None]) -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, which the launcher sends when another process has failed.

    Python handles signals between two of its own instructions, and a process that waits for a GPU or for its peers never
    gets there. So a thread waits `_GRACE` seconds, then calls `on_terminate` and ends the process.
    """
    if world.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, written = os.pipe()
    os.set_blocking(written, False)
    done = threading.Event()

    def interrupt(_number: int, _frame: Any) -> None:
        if sys.exc_info()[0] is None:  # else it is ending already, and must not be interrupted while it records how
            raise KeyboardInterrupt

    def watch() -> None:
        while number := os.read(heard, 1):
            if number[0] == signal.SIGTERM and not done.wait(_GRACE):
                try:
                    on_terminate()
                finally:
                    os._exit(128 + signal.SIGTERM)

    handler_before = signal.signal(signal.SIGTERM, interrupt)
    fd_before = signal.set_wakeup_fd(written, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, name="termination", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(fd_before)
        signal.signal(signal.SIGTERM, handler_before)
        os.close(written)
        watcher.join()
        os.close(heard)


def shard(rows: Sequence[int], lengths: Sequence[int], world: World) -> list[int]:
    """The rows of a step that this process computes: longest first, dealt back and forth (0 1 2 2 1 0) for equal work."""
    if world.size == 1:
        return list(rows)
    order = sorted(rows, key=lambda row: (-lengths[row], row))
    ranks = [*range(world.size), *reversed(range(world.size))]
    return [row for index, row in enumerate(order) if ranks[index % len(ranks)] == world.rank]


def all_reduce_sum(world: World, *tensors: Any) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        dist.all_reduce(tensor)


def broadcast(world: World, value: Any) -> Any:
    """The main process's value, in all processes; for small plain values."""
    if world.size == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def barrier(world: World) -> None:
    """Wait until all processes are here."""
    if world.size > 1:
        import torch
        import torch.distributed as dist

        # NCCL would guess the GPU from the rank, which is wrong where launches on several machines number them otherwise.
        dist.barrier(device_ids=[torch.cuda.current_device()] if dist.get_backend() == "nccl" else None)
