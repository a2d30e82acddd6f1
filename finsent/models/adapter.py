"""LoRA adapters with their trained head: created, saved and loaded in PEFT's format, and the head's hash."""

import hashlib
import json
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finsent.config import LoraConfig, ModelConfig
from finsent.engine.merge import HEADS
from finsent.engine.packed_forward import PackedModel
from finsent.errors import ArtifactError, BaseModelError, ConfigError, one_line
from finsent.models.base_model import BaseFolder, load_base, locate_base, pick_device
from finsent.models.embedded_base import train_tokenizer
from finsent.models.fingerprint import is_same_base
from finsent.models.manifest import Manifest, verify_manifest
from finsent.models.peft_support import (
    read_tokenizer,
    require_all_loaded,
    require_sound_weights,
    unknown_token_reason,
    unsupported_reason,
)
from finsent.workspace import Workspace

_TRAINED_COPY = ".modules_to_save.default."
"""Part of the name of every wholly trained parameter in a PEFT model."""


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter on its base, ready to score."""

    model: Any
    """PEFT's model, or a plain transformers model where the adapter is merged."""
    tokenizer: Any
    manifest: Manifest
    device: str
    packed: PackedModel | None = None
    """The packed engine over `model`; None: the stock one."""
    batch_tokens: int | None = None
    """Tokens in one pass of the packed engine; None: the caller's budget."""
    precision: str = "as loaded"
    """`as loaded`, or the type of merged weights: `bf16`, `fp8`, ..."""
    plan: str = "the reference"
    """Reasons for the choice of engine and precision."""

    @property
    def engine(self) -> str:
        """`packed` or `stock`."""
        return "stock" if self.packed is None else "packed"


def load_tokenizer(base: BaseFolder, config: ModelConfig, texts: list[str]) -> Any:
    """The base's tokenizer; for the embedded base, one trained on `texts`. Without a padding token, end-of-text pads."""
    if config.embedded is not None:
        tokenizer = train_tokenizer(texts, config.embedded.vocab_size, config.max_length)
    else:
        tokenizer = read_tokenizer(base.folder, BaseModelError)
    tokenizer.padding_side = config.padding_side
    return tokenizer


def add_lora(model: Any, lora: LoraConfig, name: str) -> Any:
    """Put LoRA on a frozen base, by PEFT; trainable parameters become float32, as mixed precision wants its masters.

    Raises:
        ConfigError: a target names no module of this base.
    """
    from peft import LoraConfig as PeftLora
    from peft import get_peft_model

    peft_config = PeftLora(
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        bias=lora.bias,
        target_modules=list(lora.targets),
        modules_to_save=list(lora.modules_to_save) or None,
        task_type="SEQ_CLS",
    )
    missing = [t for t in lora.targets if not any(n == t or n.endswith(f".{t}") for n, _ in model.named_modules())]
    if missing:
        raise ConfigError(f"lora.targets: {missing[0]!r} is no module of {name!r}. Name linear layers of this base.")
    peft_model = get_peft_model(model, peft_config)
    # The name that users know: PEFT would write a path of the training machine into adapter_config.json.
    peft_model.peft_config["default"].base_model_name_or_path = name
    for parameter in peft_model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    _cast_head_inputs(peft_model)
    if not any(head in n for head in HEADS for n, p in peft_model.named_parameters() if p.requires_grad):
        raise ConfigError(f"base {name!r} has no trainable head among {HEADS}: not a sequence classifier.")
    return peft_model


def save_adapter(peft_model: Any, tokenizer: Any, folder: Path) -> None:
    """Write adapter, head and tokenizer as safetensors and JSON; `write_manifest` comes after."""
    peft_model.save_pretrained(folder, safe_serialization=True, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    # PEFT writes sets of module names in memory order. Sorted, equal trainings give equal files.
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    for key in ("target_modules", "modules_to_save"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def load_adapter(folder: Path, home: Workspace, device: str | None = None) -> LoadedAdapter:
    """Verify the manifest, load the base it names, put the adapter on it.

    Raises:
        ArtifactError: the folder or the base is not what the manifest says.
        BaseModelError: the base cannot be reached.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    manifest, weights = verify_manifest(folder), folder / "adapter_model.safetensors"
    if reason := unsupported_reason(read_peft_config(folder)):
        raise ArtifactError(f"adapter in {str(folder)!r}: {reason}. Refused.")
    require_sound_weights(weights, len(manifest.labels))
    device = device or pick_device()
    config = ModelConfig(
        name=manifest.base_name,
        revision=manifest.base_revision,
        embedded=manifest.embedded,
        quantization=manifest.quantization,
        max_length=manifest.max_length,
        padding_side="left" if manifest.padding_side == "left" else "right",
    )
    base = locate_base(config, home)
    if not is_same_base(base.folder, base.fingerprint, manifest.base_fingerprint):
        again = " Delete that folder: it is built again at the next use." if manifest.embedded is not None else ""
        raise ArtifactError(
            f"base {manifest.base_name!r} in {str(base.folder)!r} is not the one the adapter was trained on "
            f"(fingerprint {base.fingerprint[:15]}, manifest {manifest.base_fingerprint[:15]}).{again} Refused."
        )
    tokenizer = read_tokenizer(folder, ArtifactError)
    tokenizer.padding_side = manifest.padding_side
    if tokenizer.pad_token_id != manifest.pad_token_id:
        raise ArtifactError(
            f"tokenizer in {str(folder)!r} pads with {tokenizer.pad_token_id!r}, its manifest {manifest.pad_token_id!r}. Refused."
        )
    model = load_base(base, config, device)
    if reason := unknown_token_reason(tokenizer, model):
        raise ArtifactError(f"adapter in {str(folder)!r}: {reason}. Refused.")
    model.config.pad_token_id = manifest.pad_token_id
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # refused below
            peft_model = PeftModel.from_pretrained(model, folder, torch_device=device)
    except torch.OutOfMemoryError:
        raise
    except (SafetensorError, RuntimeError, ValueError, LookupError, TypeError, AttributeError, OverflowError, re.error) as error:
        raise ArtifactError(
            f"adapter in {str(folder)!r} does not load on {manifest.base_name!r}: {one_line(error)}. Refused."
        ) from error
    require_all_loaded(peft_model, weights)
    restore_float32_head(peft_model, folder)
    peft_model.eval()
    return LoadedAdapter(peft_model, tokenizer, manifest, device)


def read_peft_config(folder: Path) -> dict[str, Any]:
    """What `adapter_config.json` holds.

    Raises:
        ArtifactError: it is damaged.
    """
    try:
        return dict(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise ArtifactError(
            f"adapter_config.json in {str(folder)!r} cannot be read ({error}). Fetch the adapter again."
        ) from error


def restore_float32_head(peft_model: Any, folder: Path) -> None:
    """Give wholly trained modules the exact float32 weights that were saved; PEFT loads them in the base's type, rounded."""
    from peft.utils import ModulesToSaveWrapper
    from safetensors import safe_open

    wrappers = {name: module for name, module in peft_model.named_modules() if isinstance(module, ModulesToSaveWrapper)}
    with safe_open(folder / "adapter_model.safetensors", "pt") as saved:
        keys = list(saved.keys())
        for name, wrapper in wrappers.items():
            active = wrapper.modules_to_save["default"]
            for leaf, parameter in active.named_parameters():
                key = f"{name}.{leaf}"
                if key not in keys:
                    raise ArtifactError(f"adapter in {str(folder)!r} lacks {key!r}: its trained head is not there. Refused.")
                parameter.data = saved.get_tensor(key).float().to(parameter.device)
    _cast_head_inputs(peft_model)


def _cast_head_inputs(peft_model: Any) -> None:
    """Cast the input of a float32 head on a bfloat16 body; outside autocast PyTorch refuses the mixed product."""
    for name, module in peft_model.named_modules():
        if name.endswith(tuple(f"{head}.modules_to_save.default" for head in HEADS)) and hasattr(module, "weight"):
            module.register_forward_pre_hook(lambda head, inputs: (inputs[0].to(head.weight.dtype), *inputs[1:]))


def head_sha256(model: Any) -> str:
    """Hash of the trained head's weights in a loaded PEFT model; a loaded version is checked against its probe's.

    Raises:
        ArtifactError: the model has no trained head.
    """
    return hash_weights(
        (name.replace(_TRAINED_COPY, "."), parameter)
        for name, parameter in model.named_parameters()
        if _TRAINED_COPY in name and "lora_" not in name and any(part in HEADS for part in name.split("."))
    )


def hash_weights(weights: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of the names.

    Raises:
        ArtifactError: there are no weights.
    """
    found = sorted(weights, key=lambda item: item[0])
    if not found:  # two hashes of nothing would be equal
        raise ArtifactError(f"no trained classification head among {HEADS}: this adapter cannot classify. Refused.")
    digest = hashlib.sha256()
    for name, tensor in found:
        values = tensor.detach().float().cpu().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
