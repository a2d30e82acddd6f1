"""The training loop, from set-up to a saved adapter: steps, metrics, validation, checkpoints, back-off on low memory.

Loss and its normalisation by the rows of a step: `finsent.engine.train_step`.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from finsent.config import Config, Recipe
from finsent.engine.flat_params import refresh_copies, using_master_weights
from finsent.engine.packing import balance_micro_batches, pack_batches
from finsent.errors import FinsentError, InputError
from finsent.labels import LABELS
from finsent.logging_setup import track
from finsent.models.adapter import save_adapter
from finsent.models.base_model import BaseFolder
from finsent.models.predict import tokenise
from finsent.training import distributed
from finsent.training.batches import apply_token_dropout, step_schedule, steps_in_total
from finsent.training.checkpoint import (
    explain_disk_errors,
    require_disk_space,
    require_finite,
    resume_from_newest,
    save_checkpoint,
)
from finsent.training.optimizer import learning_rate, optimizer_step
from finsent.training.preflight import run_preflight
from finsent.training.setup import TrainingRun, set_up
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

MetricsCallback = Callable[[int, dict[str, float]], None]
_SYNC_EVERY = 10
"""Steps on a GPU between reads of its metrics; reading a number waits for the device."""


class LabelledRows(Protocol):
    """Rows to train on or to validate with: a split of the data, or plain `LabelledTexts`."""

    @property
    def texts(self) -> Sequence[str]:
        """Texts [N]."""

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label ids [N]."""


@dataclass(frozen=True)
class LabelledTexts:
    """Labelled texts; labels int64 [N]."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class TrainingResult:
    """Result and figures of a training."""

    adapter: Path
    base: BaseFolder
    pad_token_id: int
    rows: int
    steps: int
    resumed_from: int
    """Optimiser step of the checkpoint that was resumed; 0 for a training from the start."""
    seconds: float
    """In the steps, recording of CUDA graphs and compilation included."""
    preparation_seconds: float
    """Loading and pre-flight check, with the compilation done there."""
    rows_per_second: float
    final_loss: float
    trainable_parameters: int
    quantized_modules: int
    mixed_precision: str
    engine: str
    plan: str
    """Reasons for the choice of engine, see `finsent.engine.memory_planner`."""
    processes: int

    def settings(self) -> dict[str, str]:
        """What was used, for the parameters of the MLflow run."""
        used = {
            "trainable_parameters": self.trainable_parameters,
            "quantized_modules": self.quantized_modules,
            "mixed_precision_used": self.mixed_precision,
            "training_engine": self.engine,
            "training_plan": self.plan,
            "processes": self.processes,
            "optimizer_steps": self.steps,
            "base_fingerprint": self.base.fingerprint,
        }
        return {key: str(value) for key, value in used.items()}


def train(
    config: Config,
    home: Workspace,
    train_rows: LabelledRows,
    validation: LabelledRows,
    folder: Path,
    on_metrics: MetricsCallback,
) -> TrainingResult:
    """Train an adapter into `folder`/adapter, resuming from the newest checkpoint in `folder` if there is one.

    `on_metrics(step, values)` gets loss (mean over the step's rows), learning_rate, grad_norm (before clipping),
    rows_per_second, tokens_per_second and padding_share of every optimiser step, and validation_* after each epoch; in order,
    on a GPU some steps late. Under a launcher every process calls this, and only the main one writes and reports.

    Raises:
        InputError: no rows, or only one class in them.
        BaseModelError: the base cannot be reached.
        DeviceError: the disk is too small, full or fails.
        FinsentError: the loss became infinite or NaN, memory does not hold a single row, or the pre-flight check
            failed.
    """
    _check_rows(train_rows)
    started = time.perf_counter()
    run = set_up(config, home, train_rows.texts)
    if run.world.is_main:
        require_disk_space(folder, run.flat_params.master.numel())
    first = _preflight_or_resume(run, config, train_rows.labels, folder)
    preparation, started = time.perf_counter() - started, time.perf_counter()
    total = steps_in_total(len(run.lengths), config.recipe.batch_size * config.recipe.accumulation, config.recipe.epochs)
    steps = range(first, total)
    loss, seen = _run_steps(run, config, steps, train_rows.labels, validation, folder, on_metrics)
    seconds = time.perf_counter() - started

    # The caller evaluates a fresh load of what is saved here, never this model.
    with using_master_weights(run.flat_params), explain_disk_errors("the trained adapter", folder):
        require_finite({name: p for name, p in run.model.named_parameters() if p.requires_grad}, f"step {total}, the last")
        if run.world.is_main:
            save_adapter(run.model, run.tokenizer, folder / "adapter")
    distributed.barrier(run.world)
    return TrainingResult(
        adapter=folder / "adapter",
        base=run.base,
        pad_token_id=int(run.tokenizer.pad_token_id),
        rows=len(run.lengths),
        steps=total,
        resumed_from=first,
        seconds=seconds,
        preparation_seconds=preparation,
        rows_per_second=seen / seconds if seconds else 0.0,
        final_loss=loss,
        trainable_parameters=sum(parameter.numel() for parameter in run.model.parameters() if parameter.requires_grad),
        quantized_modules=sum(_is_quantized(module) for module in run.model.modules()),
        mixed_precision=run.precision,
        engine=run.plan.engine,
        plan=run.plan.reason,
        processes=run.world.size,
    )


def _run_steps(
    run: TrainingRun,
    config: Config,
    steps: range,
    labels: NDArray[np.int64],
    validation: LabelledRows,
    folder: Path,
    on_metrics: MetricsCallback,
) -> tuple[float, int]:
    """Run the optimiser steps `steps`, whose end is the training's; report, validate and save checkpoints as configured.

    Returns:
        The last step's loss, NaN if there was no step, and the rows seen.
    """
    recipe, total = config.recipe, steps.stop
    per_epoch = math.ceil(len(run.lengths) / (recipe.batch_size * recipe.accumulation))
    rows_of = step_schedule(run.lengths, recipe.batch_size * recipe.accumulation, recipe)
    report = on_metrics if run.world.is_main else lambda *_: None
    run.model.train()
    pending: list[_StepMetrics] = []
    loss, seen = math.nan, 0
    for step in track(steps, description="training", total=len(steps), unit="step") if run.world.is_main else steps:
        rows = rows_of(step)
        with _explain_out_of_memory(config):
            pending.append(_training_step(run, recipe, rows, labels, step, total))
        seen += len(rows)
        validates = recipe.evaluate_every_epoch and (step + 1) % per_epoch == 0 and len(validation.texts) > 0
        saves = (step + 1) % recipe.checkpoint_every == 0 and step + 1 < total
        if run.device == "cpu" or len(pending) == _SYNC_EVERY or validates or saves or step + 1 == total:
            loss = _flush_metrics(run, recipe, pending, report)
        if validates and run.world.is_main:
            report(step + 1, validate(run, validation, config))
        if saves and run.world.is_main:
            with using_master_weights(run.flat_params):
                save_checkpoint(folder, step + 1, *_checkpointed(run))
    return loss, seen


def _checkpointed(run: TrainingRun) -> tuple[Any, Any, Any, str, str]:
    return run.model, run.optimizer, run.accelerator.scaler, run.flat_params.layout, run.base.fingerprint


def _preflight_or_resume(run: TrainingRun, config: Config, labels: NDArray[np.int64], folder: Path) -> int:
    """Load the newest checkpoint, or run the pre-flight check where there is none; the step to start at."""
    with using_master_weights(run.flat_params):
        first = resume_from_newest(folder, *_checkpointed(run))
    main = distributed.broadcast(run.world, first)
    if main != first:  # their collective operations would wait for each other for ever
        raise FinsentError(
            f"process {run.world.rank} starts at step {first}, the main one at {main}: it does not see the checkpoints in "
            f"{str(folder)!r}. Let all machines share FINSENT_HOME."
        )
    if not first:
        with _explain_out_of_memory(config):
            _preflight(run, config, labels, folder)
    return first


def _preflight(run: TrainingRun, config: Config, labels: NDArray[np.int64], folder: Path) -> None:
    """The pre-flight check on the rows that need most memory; where it runs out, training starts with smaller passes."""
    recipe = config.recipe
    # A packed pass holds whatever rows of a step fit its tokens, however batch_size and accumulation divide them.
    most = run.budget.rows if run.budget.tokens is None else -(-recipe.batch_size * recipe.accumulation // run.world.size)
    longest = sorted(range(len(run.lengths)), key=lambda i: -run.lengths[i])[:most]
    while True:
        part = _micro_batches(run, longest)[0]
        rows, wanted = [run.tokens[row] for row in part], [int(labels[row]) for row in part]
        try:
            run_preflight(run, rows, wanted, recipe.learning_rate, folder / f"preflight-{run.world.rank}")
        except torch.OutOfMemoryError as error:
            _back_off(run, part, error)
        else:
            return


@dataclass(frozen=True)
class _StepMetrics:
    """Metrics of a step, some of them still on the device."""

    step: int
    loss: Any
    norm: Any
    rate: float
    rows: int
    tokens: int
    padded: int
    started: float


def _training_step(
    run: TrainingRun, recipe: Recipe, rows: list[int], labels: NDArray[np.int64], step: int, total: int
) -> _StepMetrics:
    """One optimiser step over `rows`; where memory runs out, the same step again in smaller micro-batches."""
    started = time.perf_counter()
    rate = learning_rate(recipe, step, total)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    mine = distributed.shard(rows, run.lengths, run.world)
    while True:
        try:
            # Dropout depends on the step (and on how it is cut into passes), so a resumed run repeats it.
            torch.manual_seed(recipe.seed * 1_000_003 + step + 7_919 * run.world.rank)
            loss, tokens, padded = _accumulate_gradients(run, recipe, mine, labels, step, len(rows))
            break
        except torch.OutOfMemoryError as error:
            _back_off(run, mine, error)
    distributed.all_reduce_sum(run.world, run.flat_params.gradient, loss)
    norm = run.accelerator.clip_grad_norm_(run.flat_params.optimizer_params, recipe.max_grad_norm)
    optimizer_step(run.optimizer, in_flight=run.device != "cpu" and run.accelerator.scaler is None)
    run.flat_params.gradient.zero_()
    refresh_copies(run.flat_params)
    return _StepMetrics(step, loss, norm, rate, len(rows), tokens, padded, started)


def _accumulate_gradients(
    run: TrainingRun, recipe: Recipe, rows: list[int], labels: NDArray[np.int64], step: int, rows_of_step: int
) -> tuple[Any, int, int]:
    """Add the step's gradients to the masters; the loss, on the device, and the counts of tokens without and with padding."""
    loss, real, padded = torch.zeros((), device=run.device), 0, 0
    for part in _micro_batches(run, rows):
        tokens = apply_token_dropout(run.tokens, part, recipe, step)
        loss += run.backward(tokens, [int(labels[row]) for row in part], rows_of_step)
        lengths = [len(ids) for ids in tokens]
        real += sum(lengths)
        padded += sum(lengths) if run.budget.tokens is not None else len(lengths) * max(lengths)
    return loss, real, padded


def _micro_batches(run: TrainingRun, rows: list[int]) -> list[list[int]]:
    if run.budget.tokens is not None:
        return balance_micro_batches(rows, run.lengths, run.budget.tokens) if rows else []
    return [rows[start : start + run.budget.rows] for start in range(0, len(rows), run.budget.rows)]


def _back_off(run: TrainingRun, rows: list[int], error: Exception) -> None:
    """Halve the micro-batches after one failed on `rows`, and clear its gradients.

    Raises:
        torch.OutOfMemoryError: `error`, where a single row does not fit.
    """
    budget = run.budget
    if budget.tokens is not None:
        smaller = min(budget.tokens, sum(run.lengths[row] for row in rows)) // 2
        if smaller < max(run.lengths) // 2:
            raise error
        budget.tokens = smaller
    elif min(budget.rows, len(rows)) == 1:
        raise error
    else:
        budget.rows = min(budget.rows, len(rows)) // 2
    for parameter in run.model.parameters():
        parameter.grad = None
    run.flat_params.gradient.zero_()
    torch.cuda.empty_cache()
    now = f"{budget.tokens} tokens" if budget.tokens is not None else f"{budget.rows} rows"
    _log.warning("GPU memory ran out: the same rows again, in passes of at most %s", now)


def _flush_metrics(run: TrainingRun, recipe: Recipe, pending: list[_StepMetrics], on_metrics: MetricsCallback) -> float:
    """Report the metrics of finished steps, oldest first, with the mean speed of all of them; returns the newest loss."""
    losses = [float(metrics.loss) for metrics in pending]  # waits for the device
    took = time.perf_counter() - pending[0].started
    rows, tokens = sum(step.rows for step in pending), sum(step.tokens for step in pending)
    ready = list(pending)
    pending.clear()
    for metrics, value in zip(ready, losses, strict=True):
        norm = float(metrics.norm)
        if not math.isfinite(value) or (not math.isfinite(norm) and run.accelerator.scaler is None):
            # the loss scaler of fp16 skips steps whose gradient overflows
            wrong = f"loss is {value!r}" if not math.isfinite(value) else f"gradient norm is {norm!r}"
            other = ", or set recipe.mixed_precision=bf16" if run.precision == "fp16" else ""
            raise FinsentError(f"{wrong} at step {metrics.step + 1}. Lower recipe.learning_rate ({recipe.learning_rate}){other}.")
        on_metrics(
            metrics.step + 1,
            {
                "loss": value,
                "learning_rate": metrics.rate,
                "grad_norm": norm,
                "rows_per_second": rows / took,
                "tokens_per_second": tokens * run.world.size / took,
                "padding_share": 1 - metrics.tokens / metrics.padded if metrics.padded else 0.0,
            },
        )
    return losses[-1]


def validate(run: TrainingRun, rows: LabelledRows, config: Config) -> dict[str, float]:
    """Loss and accuracy of the model in training on `rows`, for the learning curve; not the evaluation."""
    run.model.eval()
    tokens = tokenise(run.tokenizer, rows.texts, config.model.max_length)
    loss, right = 0.0, 0
    with torch.no_grad(), run.accelerator.autocast(), torch.compiler.set_stance("force_eager"):
        # Half a training pass at a time: recorded CUDA graphs keep their memory, and validation needs its own.
        for part in pack_batches([len(ids) for ids in tokens], max(256, min(run.budget.tokens or 4096, 4096) // 2)):
            logits = run.logits([tokens[row] for row in part]).float().cpu()
            labels = torch.from_numpy(rows.labels[part])
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(-1) == labels).sum())
    run.model.train()
    if not math.isfinite(loss):  # no comparison with it holds: it would be kept as the best, or never pruned
        raise FinsentError(f"validation loss is {loss!r}: the training diverged. Lower recipe.learning_rate.")
    return {"validation_loss": loss / len(tokens), "validation_accuracy": right / len(tokens)}


@contextmanager
def _explain_out_of_memory(config: Config) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise FinsentError(
            f"GPU memory does not hold the training pass of a single row of up to {config.model.max_length} tokens. Free GPU "
            f"memory, raise engine.memory_gib ({config.engine.memory_gib}), set engine.residency=nf4, lower model.max_length, or "
            "set engine.training=stock with recipe.gradient_checkpointing=true."
        ) from error


def _is_quantized(module: Any) -> bool:
    """Whether this is a 4-bit layer itself; PEFT's wrapper around it has the same class name and does not count."""
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes")


def _check_rows(rows: LabelledRows) -> None:
    if not len(rows.texts):
        raise InputError("there are no rows to train on. Run `finsent ingest` first.")
    present = [LABELS[i] for i in sorted(set(rows.labels.tolist()))]
    if len(present) < 2:
        raise InputError(
            f"all {len(rows.texts)} training rows are {present[0]!r}: nothing to tell apart. Ingest rows of the other classes."
        )
