"""The model's part of scoring on several devices: a replica of the model on each, in a process of its own.

This process deals out chunks of texts, to each replica one to compute and one to tokenise meanwhile, and gives their logits on
in the order of the chunks. A replica that fails ends all of them.
"""

import logging
import multiprocessing
import os
import signal
import traceback
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Final

from finsent.config_model import EngineConfig
from finsent.errors import DeviceError
from finsent.logging_setup import configure_child_logging
from finsent.model.manifest import Manifest
from finsent.scoring.predicting import Engine, Opened, Opening, Predicted, describe, open_model, predict_ahead

_log = logging.getLogger(__name__)

_DEALT: Final = 2  # chunks that a replica has at a time
_WORTH_A_DEVICE: Final = 5000  # texts; fewer are computed sooner than another replica is opened
_GRACE: Final = 10.0  # seconds that a replica is given to end


@dataclass(frozen=True)
class _Ready:
    engine: Engine
    manifest: Manifest


@dataclass(frozen=True)
class _Failed:
    error: str
    trace: str


@dataclass
class _Replica:
    device: str
    process: SpawnProcess
    connection: Connection
    dealt: deque[int] = field(default_factory=deque)
    """Numbers of the chunks that it has, in the order in which it will be through with them."""


def choose_devices(engine: EngineConfig, rows: int) -> tuple[str, ...]:
    """Devices to score `rows` texts on: every GPU, at most `engine.devices`, as long as each has work; else the CPU, once."""
    import torch

    from finsent.model.base import pick_device

    there = torch.cuda.device_count()
    number = min(there, engine.devices or there, max(1, rows // _WORTH_A_DEVICE))
    return tuple(f"cuda:{index}" for index in range(number)) if number > 1 else (pick_device(),)


@contextmanager
def replicated(opening: Opening, devices: Sequence[str]) -> Iterator[Opened]:
    """A replica of the model on each of `devices`; none is left when the context ends, however it ends.

    Raises:
        DeviceError: one failed or died, while it opened the model or later. What was given on before stands.
    """
    share = replace(opening, rows=-(-opening.rows // len(devices)))
    replicas: list[_Replica] = []
    try:
        _log.info("opening the model on %s", ", ".join(devices))
        replicas.extend(_start(share, device) for device in devices)
        opened: list[_Ready] = []
        while len(opened) < len(replicas):
            opened += [_receive(replica) for replica in _heard(replicas)]
        names, precisions = ({ready.engine.name for ready in opened}, {ready.engine.precision for ready in opened})
        if len(names) > 1 or len(precisions) > 1:
            raise DeviceError(
                f"replicas on {', '.join(devices)} would compute differently ({', '.join(sorted(names | precisions))}), since "
                "their free memory or GPUs differ. Set engine.inference, engine.precision, engine.memory_gib or engine.devices."
            )
        engine = replace(opened[0].engine, devices=tuple(devices))
        numbers = count()  # goes on from call to call: what a call that was given up had dealt is told by its number
        yield Opened(lambda parts: _deal(replicas, parts, numbers), opened[0].manifest, engine)
    finally:
        _end(replicas)


def _start(opening: Opening, device: str) -> _Replica:
    context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and locks of threads
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, opening, device), name=f"finsent-{device}", daemon=True)
    process.start()
    theirs.close()  # so that what the replica does not send any more is noticed here as an end of file
    return _Replica(device, process, ours)


def _heard(replicas: Sequence[_Replica]) -> list[_Replica]:
    """Those that have sent something, or have ended; waits for one."""
    found = set(wait([replica.connection for replica in replicas]))
    return [replica for replica in replicas if replica.connection in found]


def _receive(replica: _Replica) -> Any:
    try:
        message = replica.connection.recv()
    except (EOFError, ConnectionError):
        raise _died(replica) from None
    if isinstance(message, _Failed):
        why = message.error.rstrip(".")
        raise DeviceError(
            f"scoring on device {replica.device!r} failed: {why}. What was committed stands; run this again to go on."
        ) from RuntimeError(message.trace)
    return message


def _died(replica: _Replica) -> DeviceError:
    replica.process.join(_GRACE)
    code = replica.process.exitcode
    how = f"exit code {code}"
    if code is not None and code < 0:
        how = f"killed by {signal.Signals(-code).name}"
        how += ", as the kernel does when memory runs out" if -code == signal.SIGKILL else ""
    return DeviceError(
        f"the process that scores on device {replica.device!r} died ({how}). What was committed stands; run this again to go on. "
        "Fewer replicas need less memory: engine.devices."
    )


def _deal(replicas: Sequence[_Replica], parts: Iterator[list[str]], numbers: Iterator[int]) -> Generator[Predicted, None, None]:
    waiting: deque[int] = deque()  # dealt and not yet given on, in order
    there: dict[int, Predicted] = {}
    more = True
    while True:
        while more:
            # each its first before any its second: at the end nobody holds two while another has none
            free = min(replicas, key=lambda replica: len(replica.dealt))
            if len(free.dealt) == _DEALT:
                break
            texts = next(parts, None)
            if texts is None:
                more = False
            else:
                number = next(numbers)
                _send(free, number, texts)
                waiting.append(number)
        while waiting and waiting[0] in there:
            yield there.pop(waiting.popleft())
        if not waiting and not more:
            return
        for replica in _heard(replicas):
            predicted = _receive(replica)
            number = replica.dealt.popleft()
            if waiting and number >= waiting[0]:  # else of a call that was given up
                there[number] = predicted


def _send(replica: _Replica, number: int, texts: list[str]) -> None:
    try:
        replica.connection.send(texts)
    except ConnectionError:
        _receive(replica)  # says what it died of
        raise
    replica.dealt.append(number)


def _end(replicas: Sequence[_Replica]) -> None:
    for replica in replicas:
        replica.connection.close()
        replica.process.terminate()
    for replica in replicas:
        replica.process.join(_GRACE)
        if replica.process.is_alive():
            replica.process.kill()
            replica.process.join()
        replica.process.close()


def _serve(connection: Connection, opening: Opening, device: str) -> None:
    """The replica's process: opens the model, then answers until the other side is gone."""
    configure_child_logging()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; who ends the replicas is their parent
    try:
        loaded = open_model(opening, _only(device))
        connection.send(_Ready(describe(loaded), loaded.manifest))
        for predicted in predict_ahead(loaded, _received(connection), opening.token_budget):
            connection.send(predicted)
    except ConnectionError:
        return  # the parent is gone
    except Exception as error:  # noqa: BLE001 - whatever it is, it goes to the parent, which raises it
        connection.send(_Failed(f"{type(error).__name__}: {error}", traceback.format_exc()))


def _received(connection: Connection) -> Iterator[list[str]]:
    while True:
        try:
            yield connection.recv()
        except (EOFError, ConnectionError):
            return  # the parent is gone


def _only(device: str) -> str:
    """Hides all GPUs but this one: whatever allocates on "the" GPU then means it."""
    kind, _, index = device.partition(":")
    if kind != "cuda":
        return device
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[int(index)] if visible else index
    os.environ["LOCAL_RANK"] = "0"
    return "cuda:0"
