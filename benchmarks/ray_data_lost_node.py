"""What Ray Data does when a node dies that holds blocks of a run in order: the measurement behind ADR 28.

    python benchmarks/ray_data_lost_node.py --window 6     # hangs: the lost block waits for others, which wait for it
    python benchmarks/ray_data_lost_node.py --window 40    # ends: the lost block comes after all others

A cluster of two nodes of one core each, on this machine, and a pool of two actors. Chunks go by number; an actor fetches a
chunk's texts from a feeder that the driver fills as far as a window beyond what came back. After the eighth chunk the second
node is killed. The exit status is 1 if nothing came for `--patience` seconds.
"""

import argparse
import asyncio
import faulthandler
import sys
import time
from typing import Any

import ray
import ray.data
from measuring import say
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

CHUNKS = 40


class Feeder:
    """Texts of the chunks within the window."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[str]] = {}
        self._changed = asyncio.Condition()

    async def put(self, number: int, texts: list[str]) -> None:
        """Add a chunk."""
        async with self._changed:
            self._chunks[number] = texts
            self._changed.notify_all()

    async def get(self, number: int) -> list[str]:
        """A chunk, as soon as it is there."""
        async with self._changed:
            await self._changed.wait_for(lambda: number in self._chunks)
            return self._chunks[number]


class Model:
    """Stands in for a model of two chunks a second."""

    def __init__(self, feeder: Any) -> None:
        self._feeder = feeder

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """One chunk."""
        number = int(batch["item"][0])
        ray.get(self._feeder.get.remote(number))
        time.sleep(0.5)
        return {"number": [number], "node": [ray.get_runtime_context().get_node_id()[:6]]}


def main() -> None:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=6)
    parser.add_argument("--patience", type=float, default=90.0)
    arguments = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    other = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    feeder = ray.remote(Feeder).options(num_cpus=0, scheduling_strategy=here).remote()
    ray.data.DataContext.get_current().execution_options.preserve_order = True
    pool = ray.data.ActorPoolStrategy(size=2, max_tasks_in_flight_per_actor=2)
    numbers = ray.data.from_items(list(range(CHUNKS)), override_num_blocks=CHUNKS)
    chunks = numbers.map_batches(Model, batch_size=1, fn_constructor_args=(feeder,), compute=pool, num_cpus=1)
    for number in range(min(arguments.window, CHUNKS)):
        feeder.put.remote(number, ["text"] * 2000)
    for row in chunks.iter_batches(batch_size=1, prefetch_batches=0):
        faulthandler.dump_traceback_later(arguments.patience, exit=True, file=sys.stderr)
        number = int(row["number"][0])
        say(f"chunk {number} from node {row['node'][0]}")
        if number + arguments.window < CHUNKS:
            feeder.put.remote(number + arguments.window, ["text"] * 2000)
        if number == 8:
            cluster.remove_node(other, allow_graceful=False)
            say("the second node is killed")
    faulthandler.cancel_dump_traceback_later()
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main()
