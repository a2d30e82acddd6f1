"""Training on several GPUs, launched by `accelerate launch` or `torchrun`: each process takes its share of every step's rows.

The processes hold the same weights and sum one flat gradient, so no wrapper goes around the model, and the loss is divided
by the rows of the whole step wherever they were: the result is that of one GPU, up to the order of additions.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_GRACE = 10.0
"""Seconds that a process gets to end by itself once the launcher wants it to; `torchrun` kills after 30."""


@dataclass(frozen=True)
class World:
    """This process among those of one training."""

    rank: int
    size: int

    @property
    def is_main(self) -> bool:
        """Whether this one writes checkpoints, adapter and figures."""
        return self.rank == 0


SINGLE_PROCESS = World(0, 1)


def world_from_env() -> World:
    """The world that the launcher's environment tells of; nothing is started."""
    return World(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def init() -> World:
    """Meet the other processes of this launch, if there are any: NCCL between GPUs, each process on its own; gloo on CPUs.

    Loading can keep the others waiting for longer than the libraries' ten minutes, so they get an hour.
    """
    world = world_from_env()
    if world.size > 1:
        from datetime import timedelta

        from accelerate import PartialState

        from finsent.models.base import pick_device

        PartialState(cpu=pick_device() == "cpu", timeout=timedelta(hours=1))
    return world


def shutdown(world: World) -> None:
    """Go separate ways, all processes at once; what the main one does after this, it does alone."""
    if world.size > 1:
        import torch.distributed as dist

        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def terminate_with_peers(world: World, on_terminate: Callable[[], None]) -> Iterator[None]:
    """End as by Ctrl-C on SIGTERM, which the launcher sends when another process has failed.

    Python hears a signal between two of its own instructions, and one that waits for a GPU or for the others never gets
    there. So a thread gives it `_GRACE` seconds, then says `last_words` and ends the process.
    """
    if world.size == 1 or threading.current_thread() is not threading.main_thread():
        yield
        return
    heard, written = os.pipe()
    os.set_blocking(written, False)
    done = threading.Event()

    def interrupt(_number: int, _frame: Any) -> None:
        if sys.exc_info()[0] is None:  # else it is ending already, and must not be kept from writing down how
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
    """The rows of a step that this process computes: dealt out by length, longest first, back and forth, for equal work."""
    if world.size == 1:
        return list(rows)
    order = sorted(rows, key=lambda row: (-lengths[row], row))
    there_and_back = 2 * world.size
    return [row for place, row in enumerate(order) if _zigzag(place % there_and_back, world.size) == world.rank]


def _zigzag(place: int, size: int) -> int:
    return place if place < size else 2 * size - 1 - place


def all_reduce_sum(world: World, *tensors: Any) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if world.size == 1:
        return
    import torch.distributed as dist

    for tensor in tensors:
        dist.all_reduce(tensor)


def broadcast(world: World, value: Any) -> Any:
    """The main process's value, in all of them; small plain values."""
    if world.size == 1:
        return value
    import torch.distributed as dist

    held = [value]
    dist.broadcast_object_list(held, src=0)
    return held[0]


def barrier(world: World) -> None:
    """Go on when all processes are here."""
    if world.size > 1:
        import torch.distributed as dist

        dist.barrier()
