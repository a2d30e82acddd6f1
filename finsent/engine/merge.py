"""Dense weights out of 4-bit ones and adapters: merging for inference, dequantising for training, un-nesting constants."""

# NF4 (arXiv:2305.14314) stores 4 bits per weight: an index into 16 fixed values between -1 and 1, the quantiles of a normal
# distribution. Each block of 64 weights is scaled by its largest absolute value, `absmax`:
#
#     weight i  =  NF4 value [index i]  x  absmax [i // 64]
#
# One float32 absmax per 64 weights is half a bit per weight, so double quantisation ("nested") stores the absmax itself
# in 8 bits, in blocks of 256, with constants of its own and an offset: absmax = dequantize(absmax8, state2) + offset.
#
# A LoRA update is small against the steps of that grid. Writing W + s B A back into NF4, as PEFT's merge does, rounds the
# update away: measured, cosine 0.03 between what was added and what was left of it at 1 % of the weight's size. The
# adapter is erased, without any error. So everything here dequantises, adds in float32 and rounds once, to 16 bits.
#
# All of it works in place, layer by layer, and frees what it replaces at once: the peak is the final size plus one layer.

import copy
from typing import Any

import torch

from finsent.errors import ArtifactError

HEADS = ("score", "classifier")
"""Names that sequence classifiers give their head."""


def merged_weight(module: Any, dtype: Any) -> Any:
    """The weight [out, in] that a linear layer multiplies with, in `dtype`: `W + scaling * B @ A`, rounded once.

    `module` is a `torch.nn.Linear`, bitsandbytes' `Linear4bit` or PEFT's LoRA wrapper of either (arXiv:2106.09685, 4.1).

    Raises:
        ArtifactError: the sum would not be what the layer computes: DoRA and other variants, several active adapters, an
            adapter that is merged already, a weight that bitsandbytes repacked for the CPU, another kind of layer.
    """
    _require_mergeable(module)
    base, adapter = _base_layer(module), _active_adapter(module)
    # Autocast is switched off, or addmm would run in bfloat16 and round the product before it is added.
    with torch.no_grad(), torch.autocast(base.weight.device.type, enabled=False):
        weight = _dequantized_weight(base)
        if adapter is None:
            return weight.to(dtype)
        lora_a, lora_b = module.lora_A[adapter].weight, module.lora_B[adapter].weight
        return torch.addmm(weight.float(), lora_b.float(), lora_a.float(), alpha=float(module.scaling[adapter])).to(dtype)


def merge_adapter(model: Any, dtype: Any) -> Any:
    """The plain transformers classifier that a PEFT model computes, all of it in `dtype` but the trained head, in float32.

    `model` is used up: its layers are replaced one by one. Wholly trained modules take the place of the originals. The
    head's input is cast as in the PEFT model, so a float32 head on a bfloat16 body works.

    Raises:
        ArtifactError: a layer cannot be merged right (see `merged_weight`); nothing has been changed then.
    """
    from accelerate.hooks import remove_hook_from_module

    plain = model.get_base_model()
    names = _modules_to_replace(plain)
    for name in names:  # all checks come before the first change
        _require_mergeable(plain.get_submodule(name))
    for name in names:
        module = plain.get_submodule(name)
        if _is_module_to_save(module):
            plain.set_submodule(name, module.modules_to_save[module.active_adapters[0]])
        else:
            plain.set_submodule(name, _plain_linear(module, dtype))
            _release_weight(_base_layer(module))
        del module  # or the last layer's old weights would stay until the loop ends
    for name, parameter in plain.named_parameters():
        head = any(part in HEADS for part in name.split("."))
        parameter.data = parameter.data.float() if head else parameter.data.to(dtype)
    remove_hook_from_module(plain, recurse=True)
    _clear_quantization_metadata(plain)
    plain.config.dtype = str(dtype).removeprefix("torch.")
    plain.requires_grad_(requires_grad=False)
    return plain.eval()


def merge_unsupported_reason(model: Any) -> str | None:
    """Why the adapters of a PEFT model cannot be merged, see `merged_weight`; None where `merge_adapter` can."""
    plain = model.get_base_model()
    return next(filter(None, map(_unmergeable_reason, map(plain.get_submodule, _modules_to_replace(plain)))), None)


def dequantize_base(model: Any) -> Any:
    """Turn every `Linear4bit` of a base without adapters into a frozen `torch.nn.Linear` with the very values it stands for.

    Adapters added afterwards train as they would on the 4-bit base: the weights are those that a 4-bit pass multiplies with,
    now dequantised once and not in every pass. `Linear4bit` takes any input type and gives it back; a plain layer wants its
    own, so the residual stream must be in the compute type, or the forward pass under autocast.

    Raises:
        ArtifactError: the model carries adapters already, or a weight was repacked for the CPU; nothing is changed then.
    """
    if any(_is_lora(module) for module in model.modules()):
        raise ArtifactError("this model carries adapters already. Dequantise the base before they are attached.")
    names = _modules_to_replace(model)
    for name in names:
        _require_mergeable(model.get_submodule(name))
    for name in names:
        module = model.get_submodule(name)
        model.set_submodule(name, _plain_linear(module, None))
        _release_weight(module)
        del module
    _clear_quantization_metadata(model)
    return model


def unnest_absmax(model: Any) -> Any:
    """Undo the double quantisation of absmax, once instead of in every pass; outputs stay equal bit by bit.

    The model is changed in place and returned.
    """
    from bitsandbytes.functional import dequantize_blockwise

    # Costs 0.048 bytes per weight (0.33 GB for 8B parameters), saves two kernels and an allocation in each layer and pass.
    for module in model.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None and state.nested:
            # the very sum, in the very types, that bitsandbytes forms at every call
            state.absmax = (dequantize_blockwise(state.absmax, state.state2) + state.offset).float()
            state.nested, state.state2, state.offset = False, None, None
    return model


def _is_lora(module: Any) -> bool:
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def _is_module_to_save(module: Any) -> bool:
    from peft.utils.other import ModulesToSaveWrapper

    return isinstance(module, ModulesToSaveWrapper)


def _is_four_bit(module: Any) -> bool:
    from bitsandbytes.nn import Linear4bit

    return isinstance(module, Linear4bit)


def _modules_to_replace(model: Any) -> list[str]:
    """Names of the outermost modules of PEFT and bitsandbytes; not the modules: a list of those would keep their weights."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    names: list[str] = []
    for name, module in model.named_modules():
        if names and name.startswith(f"{names[-1]}."):  # inside the last one: its children follow it
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper) or _is_four_bit(module):
            names.append(name)
    return names


def _base_layer(module: Any) -> Any:
    return module.get_base_layer() if _is_lora(module) else module


def _active_adapter(module: Any) -> str | None:
    """Name of the one adapter that acts on the layer, if any."""
    if not _is_lora(module) or module.disable_adapters:
        return None
    return next((name for name in module.active_adapters if name in module.lora_A), None)


def _require_mergeable(module: Any) -> None:
    if reason := _unmergeable_reason(module):
        raise ArtifactError(
            f"a layer of kind {type(module).__name__!r} cannot be merged: {reason}. Keep the adapter live on its base."
        )


def _unmergeable_reason(module: Any) -> str | None:
    """Why `W + scaling * B @ A` would not be what the layer computes; None where it is."""
    if _is_module_to_save(module):
        active = module.modules_to_save[module.active_adapters[0]] if len(module.active_adapters) == 1 else None
        plain = active is not None and not _modules_to_replace(active)
        return None if plain and not module.disable_adapters else "its trained copy is not active, or not a plain module"
    if _is_lora(module) and (reason := _unmergeable_adapter_reason(module)):
        return reason
    base = _base_layer(module)
    if not _is_four_bit(base):
        kind = type(base)
        return None if kind is torch.nn.Linear else f"its base is a {kind.__name__!r}, not a linear layer or Linear4bit"
    state = getattr(base.weight, "quant_state", None)
    if state is None:
        return "its weight is not quantised yet; move the model to its device first"
    if getattr(state, "packing_format_for_cpu", False):
        # At the first eval pass bitsandbytes reorders the bytes for an AVX-512 kernel, and dequantize_4bit knows nothing of it.
        return (
            "bitsandbytes repacked its weight for the CPU, and that dequantises to garbage; load it anew (disable_cpu_repacking)"
        )
    return None


def _unmergeable_adapter_reason(module: Any) -> str | None:
    acting = [name for name in module.active_adapters if name in module.lora_A]
    if module.merged_adapters:
        return f"adapter {module.merged_adapters[0]!r} is merged into it already"
    if len(acting) > 1:
        return f"several adapters act on it: {', '.join(map(repr, acting))}"
    variant = module.lora_variant.get(acting[0]) if acting else None
    if variant is not None:
        return f"its adapter is no plain LoRA but a {type(variant).__name__!r}"
    if acting and module.lora_bias.get(acting[0]):
        return "its adapter has a bias of its own"
    return "its weight is stored transposed (fan_in_fan_out)" if module.fan_in_fan_out else None


def _dequantized_weight(base: Any) -> Any:
    """Weight [out, in] in the type that the layer multiplies in."""
    if not _is_four_bit(base):
        return base.weight.data
    from bitsandbytes.functional import dequantize_4bit

    # The forward pass asks its kernel for compute_dtype: float32 values rounded later would differ from what was trained on.
    state = copy.copy(base.weight.quant_state)
    state.dtype = base.compute_dtype or state.dtype
    return dequantize_4bit(base.weight.data.view(-1, 1), state)


def _plain_linear(module: Any, dtype: Any | None) -> Any:
    """A frozen `torch.nn.Linear` that computes what `module` does; `dtype` None keeps the type it computes in."""
    base = _base_layer(module)
    weight = merged_weight(module, dtype) if dtype is not None else _dequantized_weight(base)
    with torch.device("meta"):  # allocates and initialises nothing
        linear = torch.nn.Linear(base.in_features, base.out_features, bias=base.bias is not None)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    if base.bias is not None:
        linear.bias = torch.nn.Parameter(base.bias.data.to(weight.dtype), requires_grad=False)
    return linear.train(mode=module.training)


def _release_weight(base: Any) -> None:
    """Drop a quantised weight at once: it and its layer refer to each other and would wait for the garbage collector."""
    base.weight = None
    if hasattr(base, "quant_state"):
        base.quant_state = None


def _clear_quantization_metadata(model: Any) -> None:
    """Remove what would make transformers' `save_pretrained` and `to` take the model for a quantised one."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(model)
    for name in ("is_loaded_in_4bit", "peft_config"):
        if hasattr(model, name):
            delattr(model, name)
