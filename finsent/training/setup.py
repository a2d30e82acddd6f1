"""Sets up a training: base, LoRA, flat parameters, optimiser, and the engine that the plan chooses."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from finsent.config import Config, LoraConfig, Recipe
from finsent.engine.flat_params import FlatParams, flatten_params
from finsent.engine.memory_planner import ModelShape, TrainingPlan, plan_training, read_shape, usable_bytes
from finsent.engine.merge import dequantize_base, unnest_absmax
from finsent.engine.packed_forward import build_packed_model, can_fuse, packing_unsupported_reason
from finsent.engine.train_step import (
    BackwardFn,
    LogitsFn,
    cuda_graph_backward,
    eager_backward,
    packed_logits_fn,
    padded_logits_fn,
)
from finsent.errors import BaseModelError, ConfigError, one_line
from finsent.models.adapter import add_lora, load_tokenizer
from finsent.models.base_model import BaseFolder, cpu_supports_bf16, load_base, locate_base, pick_device
from finsent.models.peft_support import unknown_token_reason
from finsent.models.predict import tokenise
from finsent.training import distributed
from finsent.training.distributed import World
from finsent.training.optimizer import make_optimizer
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

_MIN_ROWS_PER_PROCESS = 16
"""Rows per step and process (about 500 tokens of tweets) below which a GPU mostly reads weights."""


@dataclass
class MicroBatchBudget:
    """Size of a micro-batch; smaller after memory ran out."""

    rows: int
    tokens: int | None
    """None: the stock engine, which goes by rows alone."""


@dataclass(frozen=True)
class TrainingRun:
    """What a training step uses."""

    accelerator: Any
    model: Any
    """PEFT's model; its trainable parameters are views of `flat_params`."""
    flat_params: FlatParams
    optimizer: Any
    tokenizer: Any
    tokens: list[list[int]]
    lengths: list[int]
    backward: BackwardFn
    logits: LogitsFn
    """For validation: launched kernel by kernel."""
    plan: TrainingPlan
    budget: MicroBatchBudget
    world: World
    base: BaseFolder
    device: str
    precision: str


def set_up(config: Config, home: Workspace, texts: Sequence[str]) -> TrainingRun:
    """Load the base, add LoRA and prepare the engine, on this process's device.

    Raises:
        BaseModelError: the base cannot be reached.
        ConfigError: a target names no module of the base, or the base cannot run what `engine` demands.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import set_seed

    recipe, device, world = config.recipe, pick_device(), distributed.init()
    # Accelerate keeps the first training's precision for the whole process and refuses another one.
    AcceleratorState._reset_state(reset_partial_state=False)  # noqa: SLF001 - it offers no public way
    precision = resolve_precision(recipe.mixed_precision, device)
    accelerator = Accelerator(mixed_precision="no" if precision == "none" else precision, cpu=device == "cpu")
    set_seed(recipe.seed)
    base = locate_base(config.model, home)
    tokenizer = load_tokenizer(base, config.model, list(texts))
    tokens = tokenise(tokenizer, texts, config.model.max_length)
    lengths = [len(ids) for ids in tokens]
    pad_id = int(tokenizer.pad_token_id)
    plan = make_plan(config, base, lengths, device, precision, world)
    if world.is_main:
        _log.info("training with the %s engine: %s", plan.engine, plan.reason)
        _warn_small_shards(recipe, world)
    model = _load_model(config, base, tokenizer, plan, device)
    bf16_copies = plan.engine == "packed" and device != "cpu" and _bf16_throughout(config, precision)
    # Before flattening: with several processes on CPUs this moves every parameter to other memory.
    model = accelerator.unwrap_model(accelerator.prepare_model(model, evaluation_mode=True))
    flat_params = flatten_params(model, torch.bfloat16 if bf16_copies else None)
    optimizer = accelerator.prepare_optimizer(make_optimizer(recipe, flat_params.optimizer_params))
    logits, backward = _build_step_functions(config, plan, model, flat_params, accelerator, pad_id, device, world)
    return TrainingRun(
        accelerator=accelerator,
        model=model,
        flat_params=flat_params,
        optimizer=optimizer,
        tokenizer=tokenizer,
        tokens=tokens,
        lengths=lengths,
        backward=backward,
        logits=logits,
        plan=plan,
        budget=MicroBatchBudget(recipe.batch_size, plan.tokens),
        world=world,
        base=base,
        device=device,
        precision=precision,
    )


def _warn_small_shards(recipe: Recipe, world: World) -> None:
    """Warn where several processes will hardly be faster than one."""
    rows = recipe.batch_size * recipe.accumulation
    if world.size > 1 and rows < _MIN_ROWS_PER_PROCESS * world.size:
        _log.warning(
            "%d processes share %d rows a step, too few to gain much: weights move once a step, however many compute it. A "
            "larger step (recipe.batch_size; profile llama-3.1-8b-fast has 128 rows) is another optimisation: evaluate it as one",
            world.size,
            rows,
        )


def make_plan(config: Config, base: BaseFolder, lengths: list[int], device: str, precision: str, world: World) -> TrainingPlan:
    """The plan for this device, from what is free on it now."""
    from transformers import AutoConfig

    recipe = config.recipe
    usable = usable_bytes(device, config.engine) if device != "cpu" else None
    try:
        base_config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BaseModelError(
            f"config.json of base model {config.model.name!r} cannot be used: {one_line(error)}. Fetch it again."
        ) from error
    shape, reason = read_shape(base.folder), packing_unsupported_reason(base_config, config.model.max_length)
    if usable is not None and precision == "fp16":
        reason = reason or "fp16 needs loss scaling, which the packed engine does without"
    rows_per_step = -(-recipe.batch_size * recipe.accumulation // world.size)
    mean = sum(lengths) / len(lengths)
    # Tokens of a usual step, half as many again as the mean; a longer one is cut into several passes.
    step_tokens = min(math.ceil(mean * rows_per_step * 1.5), sum(sorted(lengths)[-rows_per_step:]))
    engine = config.engine
    if engine.training == "packed" and reason:
        raise ConfigError(f"engine.training=packed: {reason}. Set engine.training=auto.")
    if not _bf16_throughout(config, precision):
        # Linear4bit takes any input type; a dense bfloat16 layer does not multiply a float32 residual stream.
        if engine.residency == "bf16" and usable is not None:
            raise ConfigError(
                "engine.residency=bf16 needs recipe.mixed_precision=bf16, model.quantization.compute_dtype=bfloat16 and "
                "embeddings that are not trained. Set it to auto."
            )
        engine = engine.model_copy(update={"residency": "nf4"})
    return plan_training(
        engine,
        config.model,
        shape,
        usable=usable,
        trainable=_estimate_trainable(config.lora, shape),
        step_tokens=step_tokens,
        max_seqlen=max(lengths),
        total_tokens=math.ceil(sum(lengths) * recipe.epochs / world.size),
        unsupported_reason=reason,
    )


def _bf16_throughout(config: Config, precision: str) -> bool:
    """Whether the whole residual stream is bfloat16, as dense bf16 weights and bf16 copies of LoRA need it."""
    quantised = config.model.quantization
    return precision == "bf16" and quantised.compute_dtype == "bfloat16" and "embed_tokens" not in config.lora.modules_to_save


def _estimate_trainable(lora: LoraConfig, shape: ModelShape | None) -> int:
    """Trainable values with adapters on all seven projections, and the embedding where it is trained: an upper estimate."""
    if shape is None:
        return 0
    per_layer = 11 * shape.hidden + 3 * shape.intermediate
    return shape.layers * lora.r * per_layer + (shape.embedding if "embed_tokens" in lora.modules_to_save else 0)


def _load_model(config: Config, base: BaseFolder, tokenizer: Any, plan: TrainingPlan, device: str) -> Any:
    model = load_base(base, config.model, device)
    if reason := unknown_token_reason(tokenizer, model):
        raise BaseModelError(f"base model {config.model.name!r}: {reason}.")
    model.config.pad_token_id = tokenizer.pad_token_id
    if plan.engine == "packed":
        if plan.residency == "bf16":
            model = dequantize_base(model)
        elif plan.residency == "nf4":
            unnest_absmax(model)
    if plan.checkpointing or (plan.engine == "stock" and config.recipe.gradient_checkpointing):
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return add_lora(model, config.lora, config.model.name)


def _build_step_functions(
    config: Config,
    plan: TrainingPlan,
    model: Any,
    flat_params: FlatParams,
    accelerator: Any,
    pad_id: int,
    device: str,
    world: World,
) -> tuple[LogitsFn, BackwardFn]:
    if plan.engine == "stock":
        logits = padded_logits_fn(model, pad_id, config.model.padding_side, device)
        return logits, eager_backward(logits, flat_params, accelerator, device)
    # Checkpointing wraps the call of a layer module, which fused layers go past.
    fuse = bool(flat_params.in_copies) and not plan.checkpointing and can_fuse(model)
    packed = build_packed_model(model, compiled=plan.compiled, fused=fuse)
    if packed.fused is not None:
        flat_params.refresh_hooks.append(packed.fused.refresh)
    logits = packed_logits_fn(packed, pad_id, device)
    if not (plan.graphs and flat_params.in_copies):
        return logits, eager_backward(logits, flat_params, accelerator, device)
    return logits, cuda_graph_backward(
        packed,
        flat_params,
        pad_id,
        device,
        max_rows=-(-config.recipe.batch_size * config.recipe.accumulation // world.size),
        max_seqlen=config.model.max_length,
        on_capture=lambda size, seconds: _log.info("recorded a step of %d tokens in %.1f s", size, seconds),
    )


def resolve_precision(wanted: str, device: str) -> str:
    """The autocast type to use: bf16 for fp16 where the hardware computes in it; on a CPU that does not, none (float32)."""
    if wanted == "none":
        return wanted
    if device == "cpu":
        if cpu_supports_bf16():
            return "bf16"
        _log.info("this processor only emulates bfloat16, which is slow: training computes in float32")
        return "none"
    # Emulated bfloat16 does not count: older cards report it too, and it is slow.
    if wanted == "fp16" and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16"
    return wanted
