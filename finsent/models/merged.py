"""Merged checkpoints for model servers: an adapter merged into its base, with nothing of PEFT or 4 bits left."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from finsent.config import Quantization
from finsent.errors import ArtifactError
from finsent.models.manifest import MANIFEST, Manifest, file_sha256, read_probe
from finsent.provenance import git_sha
from finsent.workspace import Workspace

Precision = Literal["bfloat16", "float16", "float32"]


class MergedManifest(BaseModel):
    """What a merged checkpoint was made from, how near it is to that, and the SHA-256 of each file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    kind: Literal["merged"] = "merged"
    precision: Precision
    model_name: str
    model_version: str
    adapter_manifest_sha256: str
    base_name: str
    base_revision: str | None
    base_fingerprint: str
    quantization: Quantization
    """How the base's weights were stored when the adapter was trained; these values went into the sum."""
    labels: tuple[str, ...]
    max_length: int
    padding_side: str
    pad_token_id: int
    temperature: float
    logit_error: float
    """Root-mean-square difference to the live adapter's logits on the probe texts, in standard deviations of those."""
    label_agreement: float
    """Share of the probe texts with the live adapter's label."""
    probes: int
    finsent_git_sha: str | None
    files: dict[str, str] = {}


@dataclass(frozen=True)
class MergedCheckpoint:
    """A merged checkpoint that was written and loaded again, not sealed yet."""

    adapter: Manifest
    """Of the adapter that was merged."""
    precision: Precision
    logit_error: float
    """See `MergedManifest`."""
    label_agreement: float
    probes: int

    @property
    def fidelity(self) -> str:
        """How near its logits are to the adapter's, as a sentence."""
        return (
            f"Loaded again as below, its logits differ from the adapter's by {self.logit_error:.2g} standard deviations "
            f"(root mean square, {self.probes} texts), and {self.label_agreement:.0%} of the labels are equal."
        )


def write_merged_checkpoint(home: Workspace, source: Path, made: Path, precision: Precision) -> MergedCheckpoint:
    """Merge the adapter in `source` into its base, save it to `made`, load that, and compare logits on the adapter's probe texts.

    Raises:
        ArtifactError: the adapter cannot be merged.
    """
    import numpy as np

    texts = read_probe(source).texts
    live, adapter = _save_merged(home, source, made, texts, precision)
    merged = _merged_logits(made, adapter, texts, precision)
    error = float(np.sqrt(np.square(merged - live).mean()) / live.std())
    agreement = float((merged.argmax(axis=1) == live.argmax(axis=1)).mean())
    return MergedCheckpoint(adapter, precision, error, agreement, len(texts))


def _save_merged(home: Workspace, source: Path, made: Path, texts: list[str], precision: Precision) -> tuple[Any, Manifest]:
    """Save the merged model and its tokenizer to `made`; returns the live adapter's logits [texts, 3] and its manifest."""
    import torch

    from finsent.engine.merge import merge_adapter
    from finsent.models.adapter import load_adapter
    from finsent.models.predict import predict_logits

    loaded = load_adapter(source, home)
    live = predict_logits(loaded, texts)
    merged = merge_adapter(loaded.model, getattr(torch, precision))
    merged.config.name_or_path = ""  # where the base lay on this machine
    merged.save_pretrained(made)
    loaded.tokenizer.model_max_length = loaded.manifest.max_length
    loaded.tokenizer.save_pretrained(made)
    return live, loaded.manifest


def _merged_logits(made: Path, adapter: Manifest, texts: list[str], precision: Precision) -> Any:
    """Logits [texts, 3] of the checkpoint as its card loads it."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from finsent.models.adapter import LoadedAdapter
    from finsent.models.base_model import pick_device, release_unused_models
    from finsent.models.predict import predict_logits

    release_unused_models()
    device = pick_device()
    model = AutoModelForSequenceClassification.from_pretrained(
        made, dtype=getattr(torch, precision), device_map={"": device}, trust_remote_code=False, use_safetensors=True
    ).eval()
    return predict_logits(LoadedAdapter(model, AutoTokenizer.from_pretrained(made), adapter, device), texts, finite=False)


def seal_merged(made: Path, checkpoint: MergedCheckpoint, *, model_name: str, version: str, source: Path, base_name: str) -> None:
    """Write the manifest of a merged checkpoint, with the hash of every file, and verify it.

    Args:
        made: Folder of the checkpoint, complete but for its manifest.
        checkpoint: What was written there.
        model_name: Registered model.
        version: Its version that was merged.
        source: Folder of that version's adapter.
        base_name: Public name of the base.
    """
    adapter = checkpoint.adapter
    same = ("base_revision", "base_fingerprint", "quantization", "labels", "max_length", "padding_side", "pad_token_id")
    manifest = MergedManifest(
        precision=checkpoint.precision,
        model_name=model_name,
        model_version=version,
        adapter_manifest_sha256=file_sha256(source / MANIFEST),
        base_name=base_name,
        temperature=adapter.temperature,
        logit_error=checkpoint.logit_error,
        label_agreement=checkpoint.label_agreement,
        probes=checkpoint.probes,
        finsent_git_sha=git_sha(),
        files={path.name: file_sha256(path) for path in sorted(made.iterdir())},
        **{key: getattr(adapter, key) for key in same},
    )
    (made / MANIFEST).write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
    verify_merged(made)


def verify_merged(folder: Path) -> MergedManifest:
    """Read a merged checkpoint's manifest and check every file against it.

    Raises:
        ArtifactError: no manifest, another kind of it, or a file missing, added or changed.
    """
    try:
        manifest = MergedManifest.model_validate_json((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{str(folder)!r} holds no {MANIFEST} of a merged checkpoint ({error}). Export it again.") from error
    found = {path.name: file_sha256(path) for path in folder.iterdir() if path.name != MANIFEST}
    if wrong := sorted(name for name in {*found, *manifest.files} if found.get(name) != manifest.files.get(name)):
        raise ArtifactError(f"{wrong[0]!r} in {str(folder)!r} is not as its manifest lists it. Export it again.")
    return manifest
