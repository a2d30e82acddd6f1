"""The trained classification head: where it is, and a hash by which a loaded model can be told to have it."""

import hashlib
from collections.abc import Iterable
from typing import Any

from finsent.errors import ArtifactError

HEADS = ("score", "classifier")
"""What sequence classifiers call their head."""
_TRAINED = ".modules_to_save.default."


def head_sha256(model: Any) -> str:
    """Hash of the trained head's weights in a loaded PEFT model.

    Training records it in the probe, and whoever loads the version later must find the same.

    Raises:
        ArtifactError: the model has no trained head.
    """
    return hash_weights(
        (name.replace(_TRAINED, "."), parameter)
        for name, parameter in model.named_parameters()
        if _TRAINED in name and "lora_" not in name and any(part in HEADS for part in name.split("."))
    )


def hash_weights(weights: Iterable[tuple[str, Any]]) -> str:
    """SHA-256 over names, shapes and float32 bytes, in the order of the names.

    Raises:
        ArtifactError: there are no weights.
    """
    found = sorted(weights, key=lambda item: item[0])
    if not found:  # two empty hashes would agree and prove nothing
        raise ArtifactError(f"no trained classification head among {HEADS}: this adapter cannot classify. Refused.")
    digest = hashlib.sha256()
    for name, tensor in found:
        values = tensor.detach().float().cpu().numpy()
        digest.update(f"{name}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
