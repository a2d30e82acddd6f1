"""Forward and backward over one micro-batch, stock or packed: what fills the masters' gradients.

A `Backward` takes token rows, their labels and the number of rows of the whole optimiser step; it adds the gradient of
sum(cross-entropy) / rows of the step, and gives that share of the loss back, on the device and not waited for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from finsent.engine.flat_params import FlatParams, collect_gradients
from finsent.engine.packed import PackedBatch, PackedModel, batch_to_device, packed_logits
from finsent.engine.packing import pack_rows, pad_rows, round_up, strip_padding

TokenRows = Sequence[Sequence[int]]
BackwardFn = Callable[[TokenRows, Sequence[int], int], Any]
LogitsFn = Callable[[TokenRows], Any]
"""Token rows to logits [rows, classes]."""
MAX_FILLER = 64
"""Most tokens that a recorded size is filled up with."""


def padded_logits_fn(model: Any, pad_id: int, side: str, device: str) -> LogitsFn:
    """The reference: rows padded to the longest."""

    def logits(rows: TokenRows) -> Any:
        ids, mask = pad_rows(rows, pad_id, side)
        return model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits

    return logits


def packed_logits_fn(model: PackedModel, pad_id: int, device: str) -> LogitsFn:
    """The packed engine, launched kernel by kernel."""
    return lambda rows: packed_logits(model, batch_to_device(pack_rows(strip_padding(rows, pad_id)), device))


def eager_backward(logits: LogitsFn, masters: FlatParams, accelerator: Any, device: str) -> BackwardFn:
    """A `Backward` that computes logits under the accelerator's mixed precision."""
    import torch

    def backward(rows: TokenRows, labels: Sequence[int], rows_of_step: int) -> Any:
        with accelerator.autocast():
            found = logits(rows)
        target = torch.tensor(labels, device=device)
        loss = torch.nn.functional.cross_entropy(found.float(), target, reduction="sum") / rows_of_step
        accelerator.backward(loss)
        collect_gradients(masters)
        return loss.detach()

    return backward


@dataclass(frozen=True)
class _CapturedStep:
    """A recorded forward and backward over one size, and the tensors that it reads and writes."""

    graph: Any
    batch: PackedBatch
    labels: Any
    rows_of_step: Any
    loss: Any


def graph_size(tokens: int) -> int:
    """The size to fill up to: few enough sizes to record in seconds, and little filling (1.6 % of 512 tokens on average)."""
    return round_up(tokens, 16 if tokens <= 1024 else MAX_FILLER)


def cuda_graph_backward(
    model: PackedModel,
    masters: FlatParams,
    pad_id: int,
    device: str,
    *,
    max_rows: int,
    max_seqlen: int,
    on_capture: Callable[[int, float], None],
) -> BackwardFn:
    """A `Backward` under CUDA graphs: forward, backward and collecting are recorded once per size and replayed.

    `slots` is the most rows of a micro-batch, `longest` the most tokens of a row. `record(tokens, seconds)` hears of each
    recording. Sizes are those of `recorded_size`, recorded when they first occur; all share one pool of memory, since one
    runs at a time. Dropout draws from the generator's state at each replay, so seeding before a step decides it.
    """
    import time

    import torch

    captured: dict[int, _CapturedStep] = {}
    pool = torch.cuda.graph_pool_handle()
    room = max_rows + -(-MAX_FILLER // max_seqlen)

    def backward(rows: TokenRows, labels: Sequence[int], rows_of_step: int) -> Any:
        rows = strip_padding(rows, pad_id)
        size = graph_size(sum(len(row) for row in rows))
        packed = batch_to_device(pack_rows(rows, tokens=size, slots=room, max_seqlen=max_seqlen), device, max_seqlen=max_seqlen)
        wanted = torch.tensor([*labels, *[-100] * (room - len(labels))]).pin_memory().to(device, non_blocking=True)
        if size not in captured:
            started = time.perf_counter()
            captured[size] = _capture_step(model, masters, packed, torch.full_like(wanted, -100), pool)
            on_capture(size, time.perf_counter() - started)
        one = captured[size]
        for static, fresh in (
            (one.batch.input_ids, packed.input_ids),
            (one.batch.position_ids, packed.position_ids),
            (one.batch.cu_seqlens, packed.cu_seqlens),
            (one.batch.last_token, packed.last_token),
            (one.labels, wanted),
        ):
            static.copy_(fresh)
        one.rows_of_step.fill_(float(rows_of_step))
        one.graph.replay()
        return one.loss.clone()

    return backward


def _capture_step(model: PackedModel, masters: FlatParams, batch: PackedBatch, nothing: Any, pool: Any) -> _CapturedStep:
    """Record one size. Labels of -100 count for nothing, so that the rounds before the recording leave no gradient."""
    import torch

    rows_of_step = torch.ones((), device=batch.input_ids.device)
    labels = nothing.clone()
    state = torch.cuda.get_rng_state()

    def work() -> Any:
        logits = packed_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum") / rows_of_step
        loss.backward()
        collect_gradients(masters)
        return loss.detach()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):  # compiles, picks kernels, allocates their workspaces: none of it can be recorded
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        loss = work()
    torch.cuda.set_rng_state(state)  # a resumed training records at other steps, and must draw the same dropout
    return _CapturedStep(graph, batch, labels, rows_of_step, loss)
