"""Forward and backward over one micro-batch: padded, packed, or packed under a CUDA graph."""

# An optimiser step is one or more micro-batches. Each adds the gradient of
#
#     sum of its rows' cross-entropy / rows of the whole step
#
# to the masters' gradient, so that the micro-batches add up to the mean over the step's rows, however they are cut and
# over however many GPUs they are spread. (transformers' own loss is a mean per micro-batch; accumulated, it is too large by
# their number for this head, huggingface/transformers#47688.) Nothing here waits for the device: the loss comes back as a
# tensor, and the host prepares the next micro-batch while the GPU computes this one.

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finsent.engine.flat_params import FlatParams, collect_gradients
from finsent.engine.packed_forward import PackedBatch, PackedModel, batch_to_device, packed_logits
from finsent.engine.packing import pack_rows, pad_rows, round_up, strip_padding

TokenRows = Sequence[Sequence[int]]
BackwardFn = Callable[[TokenRows, Sequence[int], int], Any]
"""Token rows, their labels and the rows of the whole step: adds gradients to the masters, returns this share of the loss."""
LogitsFn = Callable[[TokenRows], Any]
"""Token rows to logits [rows, classes]."""
MAX_FILLER = 64
"""Most tokens that a recorded size is filled up with."""
_IGNORED = -100
"""Label of rows that count for nothing in the loss."""


def padded_logits_fn(model: Any, pad_id: int, side: str, device: str) -> LogitsFn:
    """The reference: rows padded to the longest."""

    def logits(rows: TokenRows) -> Any:
        ids, mask = pad_rows(rows, pad_id, side)
        return model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits

    return logits


def packed_logits_fn(model: PackedModel, pad_id: int, device: str) -> LogitsFn:
    """The packed engine, launched kernel by kernel."""
    return lambda rows: packed_logits(model, batch_to_device(pack_rows(strip_padding(rows, pad_id)), device))


def eager_backward(logits: LogitsFn, flat_params: FlatParams, accelerator: Any, device: str) -> BackwardFn:
    """A `BackwardFn` that computes logits under the accelerator's mixed precision."""

    def backward(rows: TokenRows, labels: Sequence[int], rows_of_step: int) -> Any:
        with accelerator.autocast():
            found = logits(rows)
        target = torch.tensor(labels, device=device)
        loss = torch.nn.functional.cross_entropy(found.float(), target, reduction="sum") / rows_of_step
        accelerator.backward(loss)
        collect_gradients(flat_params)
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
    flat_params: FlatParams,
    pad_id: int,
    device: str,
    *,
    max_rows: int,
    max_seqlen: int,
    on_capture: Callable[[int, float], None],
) -> BackwardFn:
    """A `BackwardFn` under CUDA graphs: forward, backward and collecting are recorded once per size and replayed.

    `max_rows` is the most rows of a micro-batch, `max_seqlen` the most tokens of a row; `on_capture(tokens, seconds)` is
    called after each recording.
    """
    # A step of 16 tweets is some 500 tokens: 17 ms of arithmetic on an H200, but thousands of kernels, and launching each
    # from Python costs 30 to 45 microseconds. The host is the bottleneck, not the GPU. A CUDA graph records the launches
    # once and replays all of them with one call.
    #
    # A replay repeats the very kernels on the very addresses. So every size T needs a recording of its own, and all inputs
    # are copied into the tensors that were used while recording. N is fixed at `room` rows, T is rounded up (`graph_size`),
    # and filler makes up the difference. Sizes are recorded when they first occur. They share one pool of memory, since
    # only one runs at a time. Dropout draws from the generator's state at each replay: seeding before a step decides it.
    captured: dict[int, _CapturedStep] = {}
    pool = torch.cuda.graph_pool_handle()
    room = max_rows + -(-MAX_FILLER // max_seqlen)  # the filler takes rows too

    def backward(rows: TokenRows, labels: Sequence[int], rows_of_step: int) -> Any:
        rows = strip_padding(rows, pad_id)
        size = graph_size(sum(len(row) for row in rows))
        packed = pack_rows(rows, tokens=size, slots=room, max_seqlen=max_seqlen)
        # The bound and not the longest row: it is an argument of the recorded attention kernel, and so must not vary.
        batch = batch_to_device(packed, device, max_seqlen=max_seqlen)
        target = torch.tensor([*labels, *[_IGNORED] * (room - len(labels))]).pin_memory().to(device, non_blocking=True)
        if size not in captured:
            started = time.perf_counter()
            captured[size] = _capture_step(model, flat_params, batch, torch.full_like(target, _IGNORED), pool)
            on_capture(size, time.perf_counter() - started)
        step = captured[size]
        for static, fresh in (
            (step.batch.input_ids, batch.input_ids),
            (step.batch.position_ids, batch.position_ids),
            (step.batch.cu_seqlens, batch.cu_seqlens),
            (step.batch.last_token, batch.last_token),
            (step.labels, target),
        ):
            static.copy_(fresh)
        step.rows_of_step.fill_(float(rows_of_step))
        step.graph.replay()
        return step.loss.clone()  # the next replay overwrites the original

    return backward


def _capture_step(model: PackedModel, flat_params: FlatParams, batch: PackedBatch, ignored: Any, pool: Any) -> _CapturedStep:
    """Record one size; `ignored` are labels that count for nothing, so that the warm-up leaves no gradient."""
    rows_of_step = torch.ones((), device=batch.input_ids.device)
    labels = ignored.clone()
    generator_state = torch.cuda.get_rng_state()

    def forward_backward() -> Any:
        logits = packed_logits(model, batch)
        loss = torch.nn.functional.cross_entropy(logits, labels, ignore_index=_IGNORED, reduction="sum") / rows_of_step
        loss.backward()
        collect_gradients(flat_params)
        return loss.detach()

    # Two rounds outside of the recording: they compile, choose kernels and allocate workspaces, none of which can be
    # recorded. On a stream of their own, as PyTorch requires of what precedes a capture.
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            forward_backward()
    torch.cuda.current_stream().wait_stream(side)
    # The recording itself computes nothing; tensors that it allocates, such as the loss, are what each replay writes to.
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        loss = forward_backward()
    # The warm-up drew dropout. A resumed training records at other steps than the first one did and must draw the same.
    torch.cuda.set_rng_state(generator_state)
    return _CapturedStep(graph, batch, labels, rows_of_step, loss)
