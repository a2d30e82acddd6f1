"""Which of PEFT's options an adapter may use here, and whether its weights and its tokenizer fit a base; refused at import."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from finsent.errors import ArtifactError, FinsentError, one_line, quoted

_PLAIN: Final = {
    *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern"),  # PEFT makes them each layer's own scale
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),  # which layers have an adapter
    *("modules_to_save", "bias", "lora_dropout"),
    # right with the adapter live; `finsent.engine.merge` says why it cannot be merged, and scoring keeps it live then
    *("use_dora", "lora_bias", "fan_in_fan_out", "trainable_token_indices"),
    # of the start or the course of a training, or of how PEFT loads
    *("init_lora_weights", "corda_config", "eva_config", "loftq_config", "lora_ga_config", "velora_config"),
    *("runtime_config", "megatron_core", "qalora_group_size", "ensure_weight_tying", "inference_mode", "auto_mapping"),
    *("base_model_name_or_path", "revision", "task_type", "peft_type", "peft_version"),
}
"""Options that are right in every engine, held by tests/models/test_peft_support.py."""
_NAMING: Final = ("target_modules", "exclude_modules", "layers_pattern", "modules_to_save", "rank_pattern", "alpha_pattern")
"""Options that name modules, in which PEFT takes regular expressions: a crafted one would keep `re` busy for ever."""
_NAME: Final = re.compile(r"[\w.-]+")
_CHANGES_BASE: Final = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Beginnings of the `init_lora_weights` that move part of the base's weights into the adapter."""
_HEADS: Final = ("score.weight", "classifier.weight", "classifier.out_proj.weight")


def unsupported_reason(described: Mapping[str, Any]) -> str | None:
    """Why an adapter of this `adapter_config.json` would not compute here what it does in PEFT; None where it does."""
    if described.get("peft_type") != "LORA":
        return f"its method is {described.get('peft_type')!r}, and finsent takes LoRA"
    start = described.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        return (
            f"init_lora_weights={start!r} changed the base's weights, which its file does not hold. Convert it to a plain LoRA "
            "with PEFT: save_pretrained(..., path_initial_model_for_weight_conversion=...)"
        )
    # An option that this PEFT does not know, it ignores: the adapter would load and compute something else.
    if other := sorted(key for key, value in described.items() if key not in _PLAIN and value):
        return f"it uses PEFT's option {other[0]!r}, which finsent does not take. Train it without"
    for option in _NAMING:
        given = described.get(option) or ()
        for name in given if isinstance(given, tuple | list | dict) else (given,):
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                return (
                    f"its {option} has {quoted(name)}, and finsent takes names of modules (letters, digits, '_', '.', '-') there "
                    "and no regular expressions. Name the modules one by one"
                )
    return None


def require_sound_weights(file: Path, classes: int) -> None:
    """Check the weights of an adapter: all finite, and a head of as many classes.

    Raises:
        ArtifactError: they are not, or the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as saved:
            for name in saved.keys():  # noqa: SIM118 - it is no mapping
                weights = saved.get_tensor(name)
                if not weights.float().isfinite().all():
                    raise ArtifactError(
                        f"{name!r} in {str(file)!r} is not finite: its training diverged. Train it again. Refused."
                    )
                if name.endswith(_HEADS) and (weights.ndim != 2 or len(weights) != classes):
                    raise ArtifactError(
                        f"the head {name!r} in {str(file)!r} has the shape {list(weights.shape)}, and finsent has {classes} "
                        "classes. Refused."
                    )
    except (SafetensorError, OSError, RuntimeError, TypeError, AttributeError) as error:  # torch lacks some types or operations
        raise ArtifactError(
            f"adapter in {str(file)!r} does not load: {one_line(error)}. Fetch or train it again. Refused."
        ) from error


def require_all_loaded(model: Any, file: Path) -> None:
    """Check that PEFT put every tensor of the file into the model, and that no adapter weight kept its random start.

    Raises:
        ArtifactError: names differ: the adapter is of another base, whatever its configuration says. PEFT only warns.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(file, "pt") as saved:
        there = set(saved.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    unread = there - wanted - {name for name, _ in model.named_parameters()}  # whole embeddings are the base's own
    if wrong := sorted((wanted - there) or unread):
        what = "lacks" if wanted - there else "holds"
        raise ArtifactError(
            f"{str(file)!r} {what} {wrong[0]!r} ({len(wrong)} such), unlike an adapter of this base and configuration. Refused."
        )


def unknown_token_reason(tokenizer: Any, model: Any) -> str | None:
    """Why the base has no embedding for a token of this tokenizer; None where it has all."""
    size = model.get_input_embeddings().num_embeddings
    if tokenizer.pad_token_id >= size:
        return (
            f"its tokenizer pads with {tokenizer.pad_token!r}, number {tokenizer.pad_token_id}, and its base has embeddings for "
            f"0 to {size - 1}. Set pad_token in tokenizer_config.json to a token that the base knows, such as its end-of-text"
        )
    token, number = max(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return (
        f"its tokenizer has {token!r}, number {number}, and its base has embeddings for 0 to {size - 1}"
        if number >= size
        else None
    )


def read_tokenizer(folder: Path, error: type[FinsentError]) -> Any:
    """The tokenizer in a folder; end-of-text pads where it names no padding token.

    Raises:
        FinsentError: as `error`: it is missing or damaged, or has neither token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as cause:  # `tokenizers` raises bare exceptions
        reason = (str(cause).splitlines() or [type(cause).__name__])[0]
        raise error(f"no tokenizer can be read from {str(folder)!r}: {reason}. Add its files, or fetch them again.") from cause
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise error(
            f"the tokenizer in {str(folder)!r} has neither a padding nor an end-of-text token. Name one in its configuration."
        )
    return tokenizer
