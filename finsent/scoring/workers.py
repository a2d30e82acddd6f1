"""Model workers for scoring on several devices: one process with a copy of the model per device.

This process sends chunks of texts to the workers, to each one to compute and one to tokenise meanwhile, and yields their
logits in the order of the chunks. A worker that fails ends all of them.
"""

import logging
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from finsent.child_process import end_with_parent
from finsent.config.model_schema import EngineConfig, RayConfig
from finsent.errors import ConfigError, DeviceError
from finsent.logging_setup import configure_child_logging
from finsent.scoring.predictor import (
    ChunkLogits,
    ModelSpec,
    Predictor,
    describe_engine,
    load_local,
    load_model,
    predict_chunks,
)
from finsent.scoring.ray_actors import ray_actors
from finsent.scoring.worker_messages import ModelReady, WorkerFailure, describe_failure, interrupted

_log = logging.getLogger(__name__)

_QUEUE_DEPTH: Final = 2  # chunks that a worker holds at a time
_MIN_TEXTS_PER_DEVICE: Final = 5000  # fewer are computed sooner than another worker has loaded its model
_GRACE: Final = 10.0  # seconds that a worker is given to end


@dataclass
class _Worker:
    device: str
    process: SpawnProcess
    connection: Connection
    queue: deque[int] = field(default_factory=deque)
    """Numbers of the chunks that it holds, in order."""


def choose_devices(engine: EngineConfig, rows: int) -> tuple[str, ...]:
    """Devices to score `rows` texts on: all GPUs, at most `engine.devices`, as long as each has work; else the CPU."""
    import torch

    from finsent.models.base_model import pick_device

    found = torch.cuda.device_count()
    number = min(found, engine.devices or found, max(1, rows // _MIN_TEXTS_PER_DEVICE))
    return tuple(f"cuda:{index}" for index in range(number)) if number > 1 else (pick_device(),)


@contextmanager
def open_predictor(spec: ModelSpec, devices: Sequence[str] | None, ray: RayConfig | None = None) -> Iterator[Predictor]:
    """The model on `devices` (see `choose_devices` where they are left out): on one in this process, on several in workers.

    With `ray`, in actors on that cluster instead.

    Raises:
        ConfigError: see `ray_actors`; or both `devices` and `ray` are given.
        ServiceError: see `ray_actors`.
        DeviceError: see `model_workers` and `ray_actors`.
    """
    if ray is not None:
        if devices:
            raise ConfigError(f"devices {', '.join(devices)} are of this machine. Set scoring.engine=local, or leave them out.")
        with ray_actors(spec, ray) as predictor:
            yield predictor
        return
    devices = devices or choose_devices(spec.engine, spec.rows)
    if len(devices) == 1:
        yield load_local(spec, devices[0])
    else:
        with model_workers(spec, devices) as predictor:
            yield predictor


@contextmanager
def model_workers(spec: ModelSpec, devices: Sequence[str]) -> Iterator[Predictor]:
    """A worker with the model on each of `devices`; all have ended when the context ends, however it ends.

    Raises:
        DeviceError: a worker failed or died, while it loaded the model or later. What was yielded before stands.
    """
    share = replace(spec, rows=-(-spec.rows // len(devices)))
    workers: list[_Worker] = []
    try:
        _log.info("loading the model on %s", ", ".join(devices))
        workers.extend(_start_worker(share, device) for device in devices)
        ready: list[ModelReady] = []
        while len(ready) < len(workers):
            ready += [_receive(worker) for worker in _wait_ready(workers)]
        names, precisions = ({one.engine.name for one in ready}, {one.engine.precision for one in ready})
        if len(names) > 1 or len(precisions) > 1:
            raise DeviceError(
                f"workers on {', '.join(devices)} would compute differently ({', '.join(sorted(names | precisions))}), since "
                "their free memory or GPUs differ. Set engine.inference, engine.precision, engine.memory_gib or engine.devices."
            )
        engine = replace(ready[0].engine, devices=tuple(devices))
        numbers = count()  # across calls, so that late results of an abandoned call are recognised by their number
        yield Predictor(lambda chunks: _dispatch(workers, chunks, numbers), ready[0].manifest, engine)
    finally:
        _stop_workers(workers)


def _start_worker(spec: ModelSpec, device: str) -> _Worker:
    context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and locks of threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_worker_main, args=(theirs, spec, device), name=f"finsent-{device}", daemon=True)
    process.start()
    theirs.close()  # or a dead worker would not show here as an end of file
    return _Worker(device, process, ours)


def _wait_ready(workers: Sequence[_Worker]) -> list[_Worker]:
    """Workers that have sent something or have ended; waits for one."""
    found = set(wait([worker.connection for worker in workers]))
    return [worker for worker in workers if worker.connection in found]


def _receive(worker: _Worker) -> Any:
    try:
        message = worker.connection.recv()
    except (EOFError, ConnectionError):
        raise _worker_error(worker) from None
    if isinstance(message, WorkerFailure):
        raise interrupted(f"scoring on device {worker.device!r} failed: {message.error.rstrip('.')}", message.trace)
    return message


def _worker_error(worker: _Worker) -> DeviceError:
    worker.process.join(_GRACE)
    code = worker.process.exitcode
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
        how += ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return DeviceError(
        f"the process that scores on device {worker.device!r} died ({how}). What was committed stands; run this again to go on. "
        "Fewer workers need less memory: engine.devices."
    )


def _dispatch(
    workers: Sequence[_Worker], chunks: Iterator[list[str]], numbers: Iterator[int]
) -> Generator[ChunkLogits, None, None]:
    """Send chunks to the workers as they get free; yield their logits in the order of the chunks."""
    waiting: deque[int] = deque()  # numbers of chunks that were sent and not yet yielded, in order
    results: dict[int, ChunkLogits] = {}
    more = True
    while True:
        while more:
            # The shortest queue first: at the end no worker holds two chunks while another has none.
            free = min(workers, key=lambda worker: len(worker.queue))
            if len(free.queue) == _QUEUE_DEPTH:
                break
            texts = next(chunks, None)
            if texts is None:
                more = False
            else:
                number = next(numbers)
                _send(free, number, texts)
                waiting.append(number)
        while waiting and waiting[0] in results:
            yield results.pop(waiting.popleft())
        if not waiting and not more:
            return
        for worker in _wait_ready(workers):
            predicted = _receive(worker)
            number = worker.queue.popleft()
            if waiting and number >= waiting[0]:  # else it belongs to an abandoned call
                results[number] = predicted


def _send(worker: _Worker, number: int, texts: list[str]) -> None:
    try:
        worker.connection.send(texts)
    except ConnectionError:
        _receive(worker)  # raises the reason
        raise
    worker.queue.append(number)


def _stop_workers(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.connection.close()
        worker.process.terminate()
    for worker in workers:
        worker.process.join(_GRACE)
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()
        worker.process.close()


def _worker_main(connection: Connection, spec: ModelSpec, device: str) -> None:
    """Body of a worker process: load the model, then answer until the parent is gone."""
    end_with_parent()
    configure_child_logging()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends its workers
    try:
        loaded = load_model(spec, _isolate_gpu(device))
        connection.send(ModelReady(describe_engine(loaded), loaded.manifest))
        for predicted in predict_chunks(loaded, _incoming_chunks(connection), spec.token_budget):
            connection.send(predicted)
    except ConnectionError:
        return  # the parent is gone
    except Exception as error:  # noqa: BLE001 - sent to the parent, which raises it
        connection.send(describe_failure(error))


def _incoming_chunks(connection: Connection) -> Iterator[list[str]]:
    while True:
        try:
            yield connection.recv()
        except (EOFError, ConnectionError):
            return  # the parent is gone


def _isolate_gpu(device: str) -> str:
    """Hide all GPUs but this one from the process, so that the default GPU is the right one."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(index)] if visible else index
    os.environ["LOCAL_RANK"] = "0"
    return "cuda:0"
