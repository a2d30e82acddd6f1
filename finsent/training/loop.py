"""One training loop, from set-up to a saved adapter, top to bottom. Knows nothing of MLflow, Prefect or tables."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config, Recipe
from finsent.errors import ConfigError, FinsentError, InputError
from finsent.home import Home
from finsent.labels import LABELS
from finsent.model.adapter import attach, load_tokenizer, save_adapter
from finsent.model.base import BaseFolder, load_base, locate_base, pick_device
from finsent.model.engine import pad, tokenise
from finsent.progress import track
from finsent.training.batches import drop_tokens, epoch_steps, steps_in_total
from finsent.training.checkpoint import complete_checkpoints, load_checkpoint, save_checkpoint
from finsent.training.optimizer import learning_rate, make_optimizer
from finsent.training.preflight import verify_settings

OnMetrics = Callable[[int, dict[str, float]], None]
BatchOf = Callable[..., tuple[Any, Any, Any]]
"""Rows, and the seed of this batch, to input_ids, attention_mask [rows, longest] and labels [rows]."""


@dataclass(frozen=True)
class Rows:
    """Labelled texts; labels int64 [N]."""

    texts: Sequence[str]
    labels: NDArray[np.int64]


@dataclass(frozen=True)
class Trained:
    """What a training left behind."""

    adapter: Path
    base: BaseFolder
    pad_token_id: int
    rows: int
    steps: int
    resumed_from: int
    """Optimiser step of the checkpoint that this went on from; 0 for a training from the start."""
    seconds: float
    rows_per_second: float
    final_loss: float
    trainable_parameters: int
    quantized_modules: int
    mixed_precision: str


def train(config: Config, home: Home, train_rows: Rows, validation: Rows, folder: Path, on_metrics: OnMetrics) -> Trained:
    """Train an adapter into `folder`/adapter, going on from the newest checkpoint in `folder` if there is one.

    `on_metrics(step, values)` gets loss (mean over the step's rows), learning_rate, grad_norm (before clipping),
    rows_per_second, tokens_per_second, padding_share after every optimiser step, and validation_* after each epoch.

    Raises:
        InputError: no rows, or only one class in them.
        BaseModelError: the base cannot be reached.
        ConfigError: launched on several processes.
        FinsentError: the loss became infinite or not a number, memory ran out, or the pre-flight check failed.
    """
    _check_rows(train_rows)
    recipe = config.recipe
    run = _set_up(config, home, train_rows)
    checkpoints = complete_checkpoints(folder)
    if not checkpoints:
        longest = sorted(range(len(run.lengths)), key=lambda i: -run.lengths[i])[: recipe.batch_size]
        with _memory_explained(config):
            verify_settings(
                run.plain, run.batch_of(longest), recipe.learning_rate, run.precision, folder / "preflight", run.device
            )
    first = load_checkpoint(checkpoints[-1], run.plain, run.optimizer, run.accelerator.scaler) if checkpoints else 0

    rows_per_step = recipe.batch_size * recipe.accumulation
    per_epoch = math.ceil(len(run.lengths) / rows_per_step)
    total = steps_in_total(len(run.lengths), rows_per_step, recipe.epochs)
    rows_of = _schedule(run.lengths, rows_per_step, recipe)
    run.model.train()
    loss, seen, started = math.nan, 0, time.perf_counter()
    for step in track(range(first, total), description="training", total=total - first, unit="step"):
        rows = rows_of(step)
        with _memory_explained(config):
            values = _optimise(run, recipe, rows, step, total)
        on_metrics(step + 1, values)
        loss, seen = values["loss"], seen + len(rows)
        if recipe.evaluate_every_epoch and (step + 1) % per_epoch == 0 and len(validation.texts):
            on_metrics(step + 1, validate(run.plain, run.tokenizer, validation, config, run.device))
            run.model.train()
        if (step + 1) % recipe.checkpoint_every == 0 and step + 1 < total:
            save_checkpoint(folder, step + 1, run.plain, run.optimizer, run.accelerator.scaler)
    seconds = time.perf_counter() - started

    # the caller evaluates a fresh load of what lies here, never this model
    save_adapter(run.plain, run.tokenizer, folder / "adapter")
    return Trained(
        adapter=folder / "adapter",
        base=run.base,
        pad_token_id=int(run.tokenizer.pad_token_id),
        rows=len(run.lengths),
        steps=total,
        resumed_from=first,
        seconds=seconds,
        rows_per_second=seen / seconds if seconds else 0.0,
        final_loss=loss,
        trainable_parameters=sum(parameter.numel() for parameter in run.trainable),
        quantized_modules=sum(_is_quantized(module) for module in run.plain.modules()),
        mixed_precision=run.precision,
    )


@dataclass(frozen=True)
class _Run:
    """What set-up made and the steps use."""

    accelerator: Any
    model: Any
    plain: Any
    """The model without Accelerate's wrapper: what is saved."""
    tokenizer: Any
    optimizer: Any
    trainable: list[Any]
    lengths: list[int]
    batch_of: BatchOf
    base: BaseFolder
    device: str
    precision: str


def _set_up(config: Config, home: Home, train_rows: Rows) -> _Run:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    recipe, device = config.recipe, pick_device()
    # Accelerate keeps the first training's precision for the whole process and refuses another one
    AcceleratorState._reset_state(reset_partial_state=False)  # noqa: SLF001 - it offers no public way
    precision = resolve_precision(recipe.mixed_precision, device)
    accelerator = Accelerator(mixed_precision="no" if precision == "none" else precision, cpu=device == "cpu")
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"training was launched on {accelerator.num_processes} processes, and it runs on one. Start it without a launcher."
        )
    set_seed(recipe.seed)
    base = locate_base(config.model, home)
    tokenizer = load_tokenizer(base, config.model, list(train_rows.texts))
    model = load_base(base, config.model, device)
    model.config.pad_token_id = tokenizer.pad_token_id
    if recipe.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model = attach(model, config.lora, config.model.name)
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = make_optimizer(recipe, trainable, device)
    model, optimizer = accelerator.prepare(model, optimizer)
    tokens = tokenise(tokenizer, train_rows.texts, config.model.max_length)
    return _Run(
        accelerator=accelerator,
        model=model,
        plain=accelerator.unwrap_model(model),
        tokenizer=tokenizer,
        optimizer=optimizer,
        trainable=trainable,
        lengths=[len(ids) for ids in tokens],
        batch_of=_collator(tokens, train_rows.labels, int(tokenizer.pad_token_id), config, device),
        base=base,
        device=device,
        precision=precision,
    )


def _optimise(run: _Run, recipe: Recipe, rows: list[int], step: int, total: int) -> dict[str, float]:
    """One optimiser step over `rows`, in micro-batches of the recipe's size; its figures."""
    import torch

    started = time.perf_counter()
    torch.manual_seed(recipe.seed * 1_000_003 + step)  # dropout depends on the step alone, so a resumed run repeats it
    rate = learning_rate(recipe, step, total)
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    total_loss, padded, real = torch.zeros((), device=run.device), 0, 0
    for start in range(0, len(rows), recipe.batch_size):
        ids, mask, labels = run.batch_of(rows[start : start + recipe.batch_size], (recipe.seed, step, start))
        logits = run.model(input_ids=ids, attention_mask=mask).logits
        # summed and divided by the rows of the whole step: transformers' own loss is too large under accumulation
        loss = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="sum") / len(rows)
        run.accelerator.backward(loss)
        total_loss += loss.detach()
        padded, real = padded + ids.numel(), real + int(mask.sum())
    norm = run.accelerator.clip_grad_norm_(run.trainable, recipe.max_grad_norm)
    run.optimizer.step()
    run.optimizer.zero_grad()
    value = float(total_loss)
    if not math.isfinite(value):
        raise FinsentError(
            f"loss is {value!r} at step {step + 1}. Lower recipe.learning_rate ({recipe.learning_rate}), or use bf16."
        )
    took = time.perf_counter() - started
    return {
        "loss": value,
        "learning_rate": rate,
        "grad_norm": float(norm),
        "rows_per_second": len(rows) / took,
        "tokens_per_second": real / took,
        "padding_share": 1 - real / padded,
    }


def validate(model: Any, tokenizer: Any, rows: Rows, config: Config, device: str) -> dict[str, float]:
    """Loss and accuracy of the model in training on `rows`: a look on the way, not the evaluation."""
    import torch

    model.eval()
    tokens = tokenise(tokenizer, rows.texts, config.model.max_length)
    order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
    loss, right = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(order), 64):
            chosen = order[start : start + 64]
            ids, mask = pad([tokens[i] for i in chosen], tokenizer.pad_token_id, config.model.padding_side)
            logits = model(input_ids=ids.to(device), attention_mask=mask.to(device)).logits.float().cpu()
            labels = torch.from_numpy(rows.labels[chosen])
            loss += float(torch.nn.functional.cross_entropy(logits, labels, reduction="sum"))
            right += int((logits.argmax(-1) == labels).sum())
    return {"validation_loss": loss / len(order), "validation_accuracy": right / len(order)}


@contextmanager
def _memory_explained(config: Config) -> Iterator[None]:
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        recipe = config.recipe
        raise FinsentError(
            f"GPU memory does not hold {recipe.batch_size} rows of {config.model.max_length} tokens. Lower recipe.batch_size and "
            f"raise recipe.accumulation ({recipe.accumulation}) by as much, or set recipe.gradient_checkpointing=true."
        ) from error


def _is_quantized(module: Any) -> bool:
    """PEFT's wrapper of a 4-bit layer has the layer's class name too; only the layer counts."""
    return type(module).__name__ == "Linear4bit" and type(module).__module__.startswith("bitsandbytes")


def resolve_precision(wanted: str, device: str) -> str:
    """The autocast type to use: fp16 becomes bf16 where the hardware computes in it (a CPU always can)."""
    import torch

    # emulated bfloat16 does not count: older cards report it too, and it is slow
    if wanted == "fp16" and (device == "cpu" or torch.cuda.is_bf16_supported(including_emulation=False)):
        return "bf16"
    return wanted


def _collator(tokens: list[list[int]], labels: NDArray[np.int64], pad_id: int, config: Config, device: str) -> BatchOf:
    import torch

    share = config.recipe.token_dropout

    def collate(rows: list[int], seed: tuple[int, ...] | None = None) -> tuple[Any, Any, Any]:
        chosen = [tokens[i] for i in rows]
        if share and seed is not None:
            generator = np.random.default_rng(seed)
            chosen = [drop_tokens(ids, generator.random(len(ids)) >= share) for ids in chosen]
        ids, mask = pad(chosen, pad_id, config.model.padding_side)
        return ids.to(device), mask.to(device), torch.from_numpy(labels[rows]).to(device)

    return collate


def _schedule(lengths: list[int], rows_per_step: int, recipe: Recipe) -> Callable[[int], list[int]]:
    per_epoch = math.ceil(len(lengths) / rows_per_step)
    cache: dict[int, list[list[int]]] = {}

    def rows_of(step: int) -> list[int]:
        epoch = step // per_epoch
        if epoch not in cache:
            cache.clear()
            cache[epoch] = epoch_steps(
                lengths, rows_per_step, seed=recipe.seed, epoch=epoch, group_by_length=recipe.group_by_length
            )
        return cache[epoch][step % per_epoch]

    return rows_of


def _check_rows(rows: Rows) -> None:
    if not len(rows.texts):
        raise InputError("there are no rows to train on. Run `finsent ingest` first.")
    present = [LABELS[i] for i in sorted(set(rows.labels.tolist()))]
    if len(present) < 2:
        raise InputError(
            f"all {len(rows.texts)} training rows are {present[0]!r}: nothing to tell apart. Ingest rows of the other classes."
        )
