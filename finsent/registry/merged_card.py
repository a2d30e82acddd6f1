"""The card of a merged checkpoint: how it came to be, how near it is to its adapter, how to load it."""

from typing import Any

import yaml

from finsent.evaluation.evidence import Evidence
from finsent.models.manifest import Manifest
from finsent.registry.card import base_in_words, data, is_local, limits, settings
from finsent.registry.card_licence import citation, licence, licence_in_words
from finsent.registry.card_scores import scores
from finsent.registry.card_snippets import loading_merged


def render_merged_card(manifest: Manifest, precision: str, fidelity: str, evidence: Evidence | None = None) -> str:
    """README.md of a merged checkpoint; `manifest` is its adapter's, `fidelity` a sentence on how near it is to that."""
    sections = (
        _summary(manifest, precision),
        _origin(manifest, precision, fidelity),
        settings(manifest),
        data(manifest, evidence),
        scores(evidence, "the adapter on its base, before they were merged"),
        limits(manifest, "The model means what it says only in this precision"),
        licence_in_words(manifest),
        _loading(manifest, precision),
        citation(manifest),
    )
    return f"---\n{_metadata(manifest)}---\n\n" + "\n\n".join(sections) + "\n"


def _metadata(manifest: Manifest) -> str:
    block: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "language": ["en"],
        "license": licence(manifest),
        "tags": ["finance", "sentiment-analysis", "tweets", "merged-lora"],
    }
    if manifest.embedded is None and not is_local(manifest.base_name):
        block |= {"base_model": manifest.base_name, "base_model_relation": "finetune"}
    return yaml.safe_dump(block, sort_keys=False, allow_unicode=True)


def _summary(manifest: Manifest, precision: str) -> str:
    classes = ", ".join(f"`{index}` {label}" for index, label in enumerate(manifest.labels))
    return (
        f"# Financial-tweet sentiment: {base_in_words(manifest)} with its LoRA adapter merged in, {precision}\n\n"
        f"Classifies a financial tweet as {classes}. A whole checkpoint for model servers: it needs neither PEFT nor "
        "bitsandbytes nor the base beside it. `manifest.json` lists the SHA-256 of every file."
    )


def _origin(manifest: Manifest, precision: str, fidelity: str) -> str:
    q = manifest.quantization
    weights = f"NF4, dequantised to {q.compute_dtype}" if q.kind == "nf4" else f"plain {q.compute_dtype}"
    revision = f", revision `{manifest.base_revision}`" if manifest.base_revision else ""
    return (
        f"## How it came to be\n\n`finsent export --merged` made it from a LoRA adapter on {base_in_words(manifest)}{revision}. "
        f"To each linear layer's weight, as the adapter met it in training ({weights}), `scaling * B @ A` was added in float32, "
        f"and the sum rounded once to {precision}. The trained head is stored in float32; loaded as below it is rounded once "
        f"too. The tokenizer's longest text is set to {manifest.max_length} tokens, as in training.\n\n{fidelity}"
    )


def _loading(manifest: Manifest, precision: str) -> str:
    return (
        f"## Loading and inference\n\n{loading_merged(manifest, precision)}\n\n"
        "A server that takes transformers' sequence classifiers takes this folder. Have it cut texts at "
        f"{manifest.max_length} tokens; its scores are calibrated once logits are divided by {manifest.temperature:.4g}."
    )
