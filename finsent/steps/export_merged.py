"""A version as a whole checkpoint for model servers: its adapter merged into its base, nothing of PEFT or 4 bits left."""

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from finsent.config import Config, Quantization
from finsent.errors import ArtifactError
from finsent.models.manifest import MANIFEST, PROBE, Manifest, file_sha256
from finsent.steps.context import Context
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
class ExportedMerged:
    """A merged checkpoint on disk."""

    model_version: str
    folder: Path
    files: dict[str, int]
    """Bytes by file name."""
    precision: str
    logit_error: float
    """See `MergedManifest`."""
    label_agreement: float


def export_merged(
    context: Context, folder: Path, *, version: str | None = None, precision: Precision = "bfloat16"
) -> ExportedMerged:
    """Write a version (the champion by default) as a checkpoint that `AutoModelForSequenceClassification` loads by itself.

    What was written is loaded once more, as its card says, and its logits on the version's probe texts are held against the
    live adapter's.

    Raises:
        InputError: `folder` exists and is not empty.
        NoChampionError: no version is named and there is no champion.
        ArtifactError: the registered adapter is not what it was, cannot be merged right, or the checkpoint's logits are not
            finite or further from the adapter's than `engine.max_logit_error`.
    """
    from finsent.registry.evidence_store import load_evidence
    from finsent.reporting.model_card import render_merged_card
    from finsent.steps.import_export import move_into_place, require_empty_dir

    require_empty_dir(folder)
    config, registry = context.config, context.registry
    version = version or registry.require_champion()
    source = registry.adapter_path(version)
    evidence = load_evidence(registry, version)
    texts = json.loads((source / PROBE).read_text(encoding="utf-8"))["texts"]
    whole = folder.resolve()
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{whole.name}.", dir=whole.parent) as scratch:
        made = Path(scratch) / "merged"
        live, adapter = _write_checkpoint(context.workspace, source, made, texts, precision)
        error, agreement = _difference(live, _reloaded(made, adapter, texts, precision))
        if not error <= config.engine.max_logit_error:  # NaN is no number that may pass
            advice = "" if precision == "float32" else "Use --precision float32. "
            raise ArtifactError(
                f"merged in {precision}, the logits of version {version!r} differ from its adapter's by {error:.3g} standard "
                f"deviations, and engine.max_logit_error is {config.engine.max_logit_error}. {advice}Refused."
            )
        manifest = _manifest(config, version, source, adapter, precision, error, agreement, len(texts))
        card = render_merged_card(adapter, precision, _in_words(manifest), evidence)
        (made / "README.md").write_text(card, encoding="utf-8")
        _seal(made, manifest)
        move_into_place(made, whole)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return ExportedMerged(version, folder, sizes, precision, error, agreement)


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


def _write_checkpoint(home: Workspace, source: Path, made: Path, texts: list[str], precision: Precision) -> tuple[Any, Manifest]:
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


def _reloaded(made: Path, adapter: Manifest, texts: list[str], precision: Precision) -> Any:
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
    return predict_logits(LoadedAdapter(model, AutoTokenizer.from_pretrained(made), adapter, device), texts)


def _difference(live: Any, merged: Any) -> tuple[float, float]:
    """Root-mean-square difference in standard deviations of the live logits, and the share of equal labels."""
    import numpy as np

    error = float(np.sqrt(np.square(merged - live).mean()) / live.std())
    return error, float((merged.argmax(axis=1) == live.argmax(axis=1)).mean())


def _in_words(manifest: MergedManifest) -> str:
    return (
        f"Loaded again as below, its logits differ from the adapter's by {manifest.logit_error:.2g} standard deviations "
        f"(root mean square, {manifest.probes} texts), and {manifest.label_agreement:.0%} of the labels are equal."
    )


def _manifest(
    config: Config,
    version: str,
    source: Path,
    adapter: Manifest,
    precision: Precision,
    error: float,
    agreement: float,
    probes: int,
) -> MergedManifest:
    from finsent.provenance import git_sha
    from finsent.reporting.model_card import public_name

    same = ("base_revision", "base_fingerprint", "quantization", "labels", "max_length", "padding_side", "pad_token_id")
    return MergedManifest(
        precision=precision,
        model_name=config.registered_model,
        model_version=version,
        adapter_manifest_sha256=file_sha256(source / MANIFEST),
        base_name=public_name(adapter.base_name),
        temperature=adapter.temperature,
        logit_error=error,
        label_agreement=agreement,
        probes=probes,
        finsent_git_sha=git_sha(),
        **{key: getattr(adapter, key) for key in same},
    )


def _seal(made: Path, manifest: MergedManifest) -> None:
    files = {path.name: file_sha256(path) for path in sorted(made.iterdir())}
    (made / MANIFEST).write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=2), encoding="utf-8")
    verify_merged(made)
