"""Scoring by actors on a Ray cluster, each with a copy of the model: chunks of texts go out, their logits come back in order.

The pool is finsent's own on Ray's actors, not Ray Data's (ADR 28): a chunk whose actor or node died goes to the next free actor
at once, chunks are fetched only as actors take them, and the driver commits them as those of any other predictor.
"""

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from threading import Lock
from typing import Any, Final

from finsent.config.model_schema import RayConfig
from finsent.errors import DeviceError, one_line
from finsent.scoring.predictor import (
    ORDINARY,
    ChunkLogits,
    EngineInfo,
    ModelSpec,
    Predictor,
    compute_logits,
    describe_engine,
    load_model,
    tokenise_texts,
)
from finsent.scoring.ray_cluster import ray_cluster, watch_head
from finsent.scoring.worker_messages import ModelReady, WorkerFailure, describe_failure, interrupted

_log = logging.getLogger(__name__)

_QUEUE_DEPTH: Final = 2  # chunks that an actor holds: one to compute, and one to tokenise meanwhile
_WINDOW: Final = 2 * _QUEUE_DEPTH  # chunks at work or waiting for an earlier one, for each actor: bounds the driver's memory
_MIN_TEXTS_PER_ACTOR: Final = 5000  # fewer are computed sooner than another actor has loaded its model
_MOST_DEATHS: Final = 3  # of actors that hold the same chunk, or that load the model without any that succeeds
_POLL_SECONDS: Final = 5.0
_SAME_EVERYWHERE: Final = ("finsent", "torch", "transformers", "peft", "tokenizers")
"""Packages that decide what a model computes."""


@dataclass
class _Actor:
    handle: Any
    placing: Any
    """Reference to what `where` returns; None once it has: Ray has found room for it."""
    opening: Any
    """Reference to what `open` returns; None once it has."""
    where: str = "a node that is not known yet"
    queue: deque[tuple[int, Any]] = field(default_factory=deque)
    """Numbers of the chunks that it holds, and references to their logits, in order."""


@dataclass
class _Pool:
    ray: Any
    config: RayConfig
    spec: ModelSpec
    size: int
    """Actors that are wanted."""
    actors: list[_Actor] = field(default_factory=list)
    first: ModelReady | None = None
    """What the first actor has loaded, which all must."""
    deaths_loading: int = 0
    short_since: float | None = None
    """Since when there is no room for as many actors as are needed; None while there is."""
    head_seen: float = field(default_factory=time.monotonic)
    """When the cluster's head last answered."""
    numbers: Iterator[int] = field(default_factory=count)
    """Across calls, so that late results of an abandoned call are recognised by their number."""

    def ready(self) -> list[_Actor]:
        return [actor for actor in self.actors if actor.opening is None]


@dataclass
class _Work:
    """One call's chunks, by their numbers."""

    chunks: Iterator[list[str]]
    more: bool = True
    """Whether `chunks` may have another."""
    waiting: deque[int] = field(default_factory=deque)
    """Those that were fetched and not yet yielded, in order."""
    texts: dict[int, list[str]] = field(default_factory=dict)
    """Of those that have not come back."""
    results: dict[int, ChunkLogits] = field(default_factory=dict)
    unsent: deque[int] = field(default_factory=deque)
    """Those whose actor is lost: they go out first."""
    losses: Counter[int] = field(default_factory=Counter)
    """How many actors were lost with each."""


class _Model:
    """Body of an actor. Calls come in several threads: one tokenises while another computes."""

    def __init__(self) -> None:
        self._compute = ThreadPoolExecutor(1)  # one thread for ever: compiled layers and CUDA graphs belong to a thread
        self._tokenise = Lock()
        self._loaded: Any = None
        self._token_budget = 0

    def where(self) -> str:
        import ray

        return f"node {ray.util.get_node_ip_address()}"

    def open(self, spec: ModelSpec, versions: dict[str, str], gpu: bool) -> ModelReady | WorkerFailure:
        try:
            if other := {name: found for name, found in _versions().items() if found != versions[name]}:
                named = ", ".join(f"{name} {found} instead of {versions[name]}" for name, found in other.items())
                raise DeviceError(f"this node has {named}. Use one image for all nodes")  # noqa: TRY301 - told as all others
            if not spec.folder.is_dir():
                raise DeviceError(  # noqa: TRY301
                    f"the adapter's folder {str(spec.folder)!r} is not on this node. Mount the home at the same path on all nodes"
                )
            os.environ["LOCAL_RANK"] = "0"  # Ray shows an actor its own GPU alone
            self._token_budget = spec.token_budget
            self._loaded = self._compute.submit(load_model, spec, "cuda:0" if gpu else "cpu").result()
            return ModelReady(describe_engine(self._loaded), self._loaded.manifest)
        except Exception as error:  # noqa: BLE001 - sent to the driver, which raises it
            return describe_failure(error)

    def predict(self, texts: list[str]) -> ChunkLogits | WorkerFailure:
        loaded = self._loaded
        try:
            with self._tokenise:
                *rows, ordinary = tokenise_texts(loaded, [*texts, ORDINARY])
            logits = self._compute.submit(compute_logits, loaded, rows, [ordinary], self._token_budget).result()
            return ChunkLogits(logits, sum(map(len, rows)))
        except Exception as error:  # noqa: BLE001 - sent to the driver, which raises it
            return describe_failure(error)


def _versions() -> dict[str, str]:
    found = {}
    for name in _SAME_EVERYWHERE:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "(not installed)"
    return found


@contextmanager
def ray_actors(spec: ModelSpec, config: RayConfig) -> Iterator[Predictor]:
    """A predictor whose chunks are computed by actors on the cluster; all have ended when the context ends.

    Raises:
        ConfigError: Ray is not installed, or the cluster runs another Ray or Python.
        ServiceError: the cluster does not answer, or no longer.
        DeviceError: an actor cannot load the model or compute a chunk, or Ray finds no room for `config.wait_seconds`. What
            was yielded before stands.
    """
    with ray_cluster(config) as ray:
        size = _pool_size(ray.cluster_resources(), config, spec.rows)
        pool = _Pool(ray, config, replace(spec, rows=-(-spec.rows // size)), size)
        try:
            _log.info("loading the model in %d actors on Ray", pool.size)
            _start_missing(pool)
            while len(pool.ready()) < config.min_actors:
                _wait(pool, config.min_actors)
            first = pool.first
            assert first is not None, "an actor is ready"  # noqa: S101 - for the type checker
            devices = tuple(f"ray:{number}" for number in range(pool.size))
            engine = EngineInfo(first.engine.name, first.engine.precision, devices, first.engine.plan)
            yield Predictor(lambda chunks: _dispatch(pool, chunks), first.manifest, engine)
        finally:
            for actor in pool.actors:
                _end(pool, actor)


def _pool_size(resources: dict[str, float], config: RayConfig, rows: int) -> int:
    """Actors for `rows` texts: as configured or as fit on the cluster, as long as each has work."""
    fits = int(resources.get("CPU", 0.0) // config.cores_per_actor)
    if config.gpus_per_actor:
        fits = min(fits, int(resources.get("GPU", 0.0) / config.gpus_per_actor + 1e-6))
    most = config.max_actors or fits
    return max(config.min_actors, min(most, rows // _MIN_TEXTS_PER_ACTOR))


def _start_missing(pool: _Pool) -> None:
    """Ask for actors until there are as many as wanted; Ray starts each as soon as a node has room for it."""
    config, versions = pool.config, _versions()
    remote = pool.ray.remote(
        num_cpus=config.cores_per_actor, num_gpus=config.gpus_per_actor, max_restarts=0, max_concurrency=_QUEUE_DEPTH + 1
    )(_Model)
    while len(pool.actors) < pool.size:
        handle = remote.remote()
        opening = handle.open.remote(pool.spec, versions, config.gpus_per_actor > 0)
        pool.actors.append(_Actor(handle, handle.where.remote(), opening))


def _next_answer(actor: _Actor) -> Any:
    """Reference to what the actor answers next; None if it has nothing to do."""
    if actor.placing is not None:
        return actor.placing
    return actor.opening if actor.opening is not None else actor.queue[0][1] if actor.queue else None


def _wait(pool: _Pool, needed: int = 1) -> dict[int, ChunkLogits | None]:
    """Wait until something happens: chunks that came back by their number; None for those whose actor is lost.

    Raises:
        DeviceError: an actor failed, or there was no room for as many as are `needed` for too long.
        ServiceError: the cluster's head is lost.
    """
    pool.head_seen = watch_head(pool.ray.get_runtime_context().gcs_address, pool.head_seen)
    owners = {answer: actor for actor in pool.actors if (answer := _next_answer(actor)) is not None}
    came, _ = pool.ray.wait(list(owners), num_returns=1, timeout=_POLL_SECONDS)
    found: dict[int, ChunkLogits | None] = {}
    for reference in came:
        actor = owners[reference]
        try:
            answer = pool.ray.get(reference)
        except pool.ray.exceptions.RayError as error:  # the actor or its node died, or its answer was lost with a node
            found.update(_lose(pool, actor, error))
            continue
        if isinstance(answer, WorkerFailure):
            raise interrupted(f"scoring on Ray, on {actor.where}, failed: {answer.error.rstrip('.')}", answer.trace)
        if isinstance(answer, str):
            actor.placing, actor.where = None, answer
        elif isinstance(answer, ModelReady):
            _welcome(pool, actor, answer)
        else:
            number, _ = actor.queue.popleft()
            found[number] = answer
    _require_actors(pool, needed)
    return found


def _welcome(pool: _Pool, actor: _Actor, ready: ModelReady) -> None:
    """An actor has loaded the model: take it in if it computes what the others do."""
    pool.first = pool.first or ready
    first, engine = pool.first.engine, ready.engine
    actor.opening, pool.deaths_loading = None, 0
    if ready.manifest != pool.first.manifest:
        raise interrupted(f"{actor.where} has another adapter in {str(pool.spec.folder)!r} than the nodes before it")
    if (engine.name, engine.precision) != (first.name, first.precision):
        raise interrupted(
            f"{actor.where} would compute differently ({engine.name}, {engine.precision}) than the nodes before it "
            f"({first.name}, {first.precision}), since memory or GPUs differ. Set engine.inference or engine.memory_gib"
        )


def _lose(pool: _Pool, actor: _Actor, error: Exception) -> dict[int, None]:
    """Replace an actor that died; the numbers of the chunks that it held."""
    reason = one_line(error)
    pool.actors.remove(actor)
    _end(pool, actor)  # it may only be out of reach
    if actor.opening is not None:
        pool.deaths_loading += 1
        if pool.deaths_loading >= _MOST_DEATHS:
            raise interrupted(f"{pool.deaths_loading} actors on Ray died while they loaded the model: {reason}")
    _log.warning("an actor on %s died: its %d chunks go to others (%s)", actor.where, len(actor.queue), reason)
    _start_missing(pool)
    return {number: None for number, _ in actor.queue}


def _end(pool: _Pool, actor: _Actor) -> None:
    with suppress(pool.ray.exceptions.RayError):  # a cluster that is lost has ended it
        pool.ray.kill(actor.handle)
    # Ray numbers the actors of each connection alike: a handle that outlived this one, in a traceback, would end one of the next
    actor.handle = None


def _require_actors(pool: _Pool, needed: int) -> None:
    placed = sum(actor.placing is None for actor in pool.actors)
    if placed >= needed:
        pool.short_since = None
        return
    now = time.monotonic()
    pool.short_since = pool.short_since or now
    if now - pool.short_since < pool.config.wait_seconds:
        return
    config = pool.config
    raise interrupted(
        f"Ray has found room for {placed} of {needed} actors in {config.wait_seconds:g} s (scoring.ray.wait_seconds). Each needs "
        f"{config.cores_per_actor} cores and {config.gpus_per_actor:g} GPUs; `ray status` shows what the cluster has. Lower "
        "scoring.ray.cores_per_actor, gpus_per_actor or min_actors, or add nodes"
    )


def _dispatch(pool: _Pool, chunks: Iterator[list[str]]) -> Generator[ChunkLogits, None, None]:
    """Send chunks to the actors as they get free; yield their logits in the order of the chunks."""
    work = _Work(chunks)
    while True:
        while (free := _free_actor(pool)) and (number := _next_chunk(pool, work)) is not None:
            free.queue.append((number, free.handle.predict.remote(work.texts[number])))
        while work.waiting and work.waiting[0] in work.results:
            yield work.results.pop(work.waiting.popleft())
        if not work.waiting and not work.more:
            return
        for number, predicted in _wait(pool).items():
            if number in work.texts:  # else it belongs to an abandoned call
                _take(work, number, predicted)


def _next_chunk(pool: _Pool, work: _Work) -> int | None:
    """Number of the chunk to send next; None if there is none, or too many wait for one before them."""
    if work.unsent:
        return work.unsent.popleft()
    if not work.more or len(work.waiting) >= _WINDOW * pool.size:
        return None
    texts = next(work.chunks, None)
    if texts is None:
        work.more = False
        return None
    number = next(pool.numbers)
    work.waiting.append(number)
    work.texts[number] = texts
    return number


def _take(work: _Work, number: int, predicted: ChunkLogits | None) -> None:
    if predicted is not None:
        work.results[number] = predicted
        del work.texts[number]
        return
    work.losses[number] += 1
    if work.losses[number] == _MOST_DEATHS:
        raise interrupted(f"{_MOST_DEATHS} actors on Ray died with the same chunk; memory may not hold it")
    work.unsent.append(number)


def _free_actor(pool: _Pool) -> _Actor | None:
    """The actor with the shortest queue, unless all are full: at the end none holds two chunks while another has none."""
    shortest = min(pool.ready(), key=lambda actor: len(actor.queue), default=None)
    return shortest if shortest is not None and len(shortest.queue) < _QUEUE_DEPTH else None
