"""Loads an adapter for inference: chooses the engine by memory, merges where it fits, packs and compiles."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from finsent.config import EngineConfig
from finsent.engine.host_memory import host_memory
from finsent.engine.memory_planner import GIB, plan_inference, shape_from_config, usable_bytes
from finsent.engine.merge import merge_adapter, merge_unsupported_reason, unnest_absmax
from finsent.engine.packed_forward import build_packed_model, can_fuse, packing_unsupported_reason, unwrap_peft
from finsent.errors import ConfigError, DeviceError
from finsent.models.adapter import LoadedAdapter, load_adapter
from finsent.models.base_model import cpu_supports_bf16, pick_device
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)


def load_for_inference(
    folder: Path, home: Workspace, engine: EngineConfig, *, rows: int, device: str | None = None
) -> LoadedAdapter:
    """Load an adapter and prepare it for about `rows` texts on this device.

    Raises:
        ArtifactError: the folder or the base is not what the manifest says.
        BaseModelError: the base cannot be reached.
        ConfigError: an engine is demanded that this base cannot run.
        DeviceError: memory does not hold it.
    """
    device = device or pick_device()
    if device.startswith("cuda"):
        usable_bytes(device, engine)  # sets the cap on memory, which then holds while loading, too
    with _explain_out_of_memory(device):
        return prepare_for_inference(load_adapter(folder, home, device), engine, rows=rows)


@contextmanager
def _explain_out_of_memory(device: str) -> Iterator[None]:
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise DeviceError(
            f"{device} has no memory for the base with its adapter. Free memory there, raise engine.memory_gib if it is set, or "
            "set engine.inference=stock, which merges nothing."
        ) from error


def prepare_for_inference(loaded: LoadedAdapter, engine: EngineConfig, *, rows: int) -> LoadedAdapter:
    """Prepare a loaded adapter for about `rows` texts: packed where the base allows it, merged where memory does.

    Logits agree with the stock engine's up to rounding. Merged weights are rounded once to `merged_dtype`, which costs as
    much as a live adapter's own bfloat16 arithmetic; those of a float32 base are rounded too, and its logits move by up to
    2 % of their standard deviation. `engine.inference=stock` keeps the reference. Merging changes `loaded.model` in place.

    Raises:
        ConfigError: `engine.inference` is `packed`, and this base cannot run packed rows.
    """
    on_gpu = loaded.device.startswith("cuda")
    reason = packing_unsupported_reason(unwrap_peft(loaded.model).config, loaded.manifest.max_length)
    if engine.inference == "packed" and reason:
        raise ConfigError(f"engine.inference=packed: {reason}. Set engine.inference=auto.")
    if on_gpu:
        torch.cuda.empty_cache()
    usable = usable_bytes(loaded.device, engine) if on_gpu else float(host_memory()[1])
    plan = plan_inference(
        engine,
        loaded.manifest.quantization.kind,
        shape_from_config(unwrap_peft(loaded.model).config.to_dict()),
        usable=usable,
        on_gpu=on_gpu,
        rows=rows,
        unsupported_reason=reason,
        unmergeable_reason=merge_unsupported_reason(loaded.model),
    )
    _log.info("scoring with the %s engine: %s", plan.engine, plan.reason)
    model, precision = loaded.model, "as loaded"
    if plan.merged:
        kind = merged_dtype(loaded.device)
        model = merge_adapter(model, getattr(torch, kind))
        precision = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}[kind]
    elif plan.engine == "packed" and loaded.manifest.quantization.kind == "nf4" and on_gpu and usable > 2 * GIB:
        unnest_absmax(model)  # takes a third of a GiB for 8B, so only where 2 are left
    packed = None
    if plan.engine == "packed":
        packed = build_packed_model(model, compiled=plan.compiled, fused=plan.merged and can_fuse(model))
    return replace(loaded, model=model, packed=packed, batch_tokens=plan.tokens, precision=precision, plan=plan.reason)


def merged_dtype(device: str) -> str:
    """The type for merged weights: bfloat16 where the hardware multiplies it, else float16 on a GPU and float32 on a CPU."""
    if device.startswith("cuda"):
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    return "bfloat16" if cpu_supports_bf16() else "float32"
