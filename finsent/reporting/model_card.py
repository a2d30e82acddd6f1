"""The model card: README.md of a version, in the form of a published adapter's, with its evidence or "not evaluated"."""

import re
from pathlib import Path, PurePath
from typing import Any, Final

import yaml

from finsent.evaluation import html
from finsent.evaluation.evidence import Evidence
from finsent.model.manifest import Manifest, abstain_threshold
from finsent.registry.card_licence import citation, licence, licence_in_words
from finsent.registry.card_scores import comparisons, confidence, gate, naive, robustness, scores, speed, table
from finsent.registry.card_snippets import loading_an_adapter, loading_merged
from finsent.reporting.summaries import DecisionSummary, always_answers


def render_model_card(
    manifest: Manifest,
    evidence: Evidence | None = None,
    *,
    embedded_base: str = "../adapter-base",
    decision: DecisionSummary | None = None,
) -> str:
    """README.md with the Hub's metadata block: settings, data, all that the evidence shows, the decision, limits, how to load.

    Args:
        manifest: The version's.
        evidence: What it has shown; None: not evaluated.
        embedded_base: Where an embedded base lies, seen from the adapter's folder.
        decision: What was decided on it, or what the gate would say.
    """
    least = manifest.config.get("gate", {}).get("min_slice_rows", 200)
    sections = (
        _summary(manifest),
        settings(manifest),
        data(manifest, evidence),
        scores(evidence, least=least),
        comparisons(evidence),
        confidence(manifest, evidence),
        robustness(evidence),
        naive(evidence),
        speed(evidence),
        gate(decision) if evidence is not None else "",
        limits(manifest),
        licence_in_words(manifest),
        _loading(manifest, embedded_base),
        citation(manifest),
    )
    return f"---\n{_metadata(manifest, evidence)}---\n\n" + "\n\n".join(part for part in sections if part) + "\n"


def _metadata(manifest: Manifest, evidence: Evidence | None) -> str:
    block: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-classification",
        "language": ["en"],
        "license": licence(manifest),
        "tags": ["lora", "peft", "finance", "sentiment-analysis", "tweets"],
    }
    if manifest.embedded is None and not is_local(manifest.base_name):
        block |= {"base_model": manifest.base_name, "base_model_relation": "adapter"}
    if evidence is not None and evidence.metrics is not None:
        metrics = [
            {"type": kind, "name": name, "value": round(evidence.metrics[key], 4)}  # type: ignore[literal-required]
            for kind, name, key in (("accuracy", "Accuracy", "accuracy"), ("f1", "Macro-F1", "macro_f1"))
        ]
        result = {
            "task": {"type": "text-classification"},
            "dataset": {"type": "custom", "name": f"finsent tweets, version {manifest.data_version}, held-out test split"},
            "metrics": metrics,
        }
        block["model-index"] = [{"name": evidence.model_name, "results": [result]}]
    return yaml.safe_dump(block, sort_keys=False, allow_unicode=True)


def _summary(manifest: Manifest) -> str:
    classes = ", ".join(f"`{index}` {label}" for index, label in enumerate(manifest.labels))
    base = base_in_words(manifest)
    return (
        f"# Financial-tweet sentiment: LoRA adapter on {base}\n\n"
        f"Classifies a financial tweet as {classes}. This folder holds the adapter, the trained classification head and the "
        "tokenizer; the base model is loaded beside it. `manifest.json` lists the SHA-256 of every file and what the "
        "adapter was made from."
    )


def base_in_words(manifest: Manifest) -> str:
    """The base's name, without any path."""
    return (
        f"`{public_name(manifest.base_name)}`"
        if manifest.embedded is None
        else "finsent's embedded base (a small Llama, built from a seed)"
    )


def settings(manifest: Manifest) -> str:
    """What a version's identity is, and how it was trained."""
    lora, recipe, q = manifest.config["lora"], manifest.config["recipe"], manifest.quantization
    threshold = abstain_threshold(manifest)
    quantised = f"NF4{', double quantisation' if q.double else ''}, computes in {q.compute_dtype}"
    identity = [
        ("base revision", manifest.base_revision or "as found at training"),
        ("base weights", quantised if q.kind == "nf4" else f"not quantised, {q.compute_dtype}"),
        ("longest input", f"{manifest.max_length} tokens, the rest is cut"),
        ("padding", f"{manifest.padding_side}, token id {manifest.pad_token_id}; pooled: {manifest.pooling}"),
        ("calibration temperature", f"{manifest.temperature:.4g}"),
        ("abstains below", "never: always answers" if always_answers(threshold) else f"{threshold:.4g}"),
    ]
    if manifest.data_version is None:
        return f"## Settings\n\n{table(('setting', 'value'), identity)}\n\nTrained elsewhere: how is not known to finsent."
    rows = [
        *identity,
        ("LoRA", f"r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']}, bias {lora['bias']}"),
        ("target modules", ", ".join(lora["targets"])),
        ("trained whole", ", ".join(["classification head", *lora["modules_to_save"]])),
        ("epochs", recipe["epochs"]),
        ("rows per step", f"{recipe['batch_size']} x {recipe['accumulation']}"),
        ("learning rate", f"{recipe['learning_rate']:g}, {recipe['schedule']}, warm-up {recipe['warmup_ratio']:g}"),
        ("optimiser", f"{recipe['optimizer']}, weight decay {recipe['weight_decay']:g}"),
        ("mixed precision", _precision(recipe["mixed_precision"])),
        ("seed", recipe["seed"]),
    ]
    notes = "".join(f"\n- {note}" for note in manifest.config.get("notes", ()))
    return f"## Training\n\n{table(('setting', 'value'), rows)}" + (
        f"\n\nDeviations from the reference:\n{notes}" if notes else ""
    )


def data(manifest: Manifest, evidence: Evidence | None) -> str:
    """What it was trained on, and whether its test rows are new to it."""
    if manifest.data_version is None:
        return (
            "## Data\n\nTrained elsewhere: on what is not known to finsent, nor whether the rows that it is "
            "evaluated on were among it. Take its scores as an upper bound."
        )
    named_table = f"(fingerprint `{manifest.data_fingerprint}`)"
    if evidence is not None and evidence.leaks_unknown_because:
        return f"## Data\n\nVersion {manifest.data_version} of a table `tweets` {named_table}. {evidence.leaks_unknown_because}"
    leaks = "not audited" if evidence is None or evidence.leaks is None else str(evidence.leaks)
    sources = [public_name(source["uri"]) for source in manifest.config["data"]["sources"]]
    named = f"Sources: {', '.join(f'`{uri}`' for uri in sources)}. " if sources else ""
    return (
        f"## Data\n\n{named}Version {manifest.data_version} of the table `tweets` {named_table}. "
        f"Split rule: {manifest.split_rule}. Near-duplicate groups are never divided between splits; "
        f"exact or near-duplicate pairs found across splits: {leaks}. The test split was not trained on."
    )


def limits(manifest: Manifest, precision: str = "The adapter means what it says only on this base in this precision") -> str:
    """What not to expect; `precision` says on what its meaning rests."""
    return (
        "## Limits\n\n"
        "- Labels are opinions of the sources' annotators; sources disagree on what is bullish, and scores differ by source.\n"
        "- English tweets about listed companies and crypto assets; other text is out of its domain. "
        f"Texts beyond {manifest.max_length} tokens are cut.\n"
        f"- {precision}: another changes logits and some labels.\n"
        "- Not financial advice, and not a forecast of prices."
    )


def _loading(manifest: Manifest, embedded_base: str) -> str:
    base, comment = manifest.base_name, ""
    if manifest.embedded is not None:
        base, comment = embedded_base, "`finsent export` writes the embedded base beside the adapter's folder"
    elif is_local(manifest.base_name):
        comment = "a folder on the machine of the training: put there where yours is"
    return f"## Loading and inference\n\n{loading_an_adapter(manifest, base, comment)}"


def is_local(name: str) -> bool:
    """Whether a base's name is a folder's path, which means nothing on another machine, and no Hub id."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or Path(name).is_dir()


def public_name(name: str) -> str:
    """A base's or source's name as a card may tell it: of a local path the last part alone, so that it tells of no machine."""
    return name if "://" in name or not is_local(name) else PurePath(name).name


def _precision(wanted: str) -> str:
    """What was asked for: the processor decides what it computes in, and the training run keeps that."""
    return wanted if wanted == "none" else f"{wanted} asked for; what ran is `mixed_precision_used` of the training run"


# merged from finsent.reporting.model_card: A card as a page, for those who look at it in MLflow.

_HEADER: Final = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


def render_card_page(markdown: str) -> str:
    """A card's Markdown as a self-contained HTML page; HTML in it is shown and not obeyed, its metadata is folded away."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    header = _HEADER.match(markdown)
    body = markdown[header.end() :] if header else markdown
    found = re.search(r"^# (.+)$", body, re.MULTILINE)
    title = found[1].replace("`", "") if found else "Model card"
    sections = [parser.render(body)]
    if header:
        sections.append(html.folded("Metadata of the card", f"<pre>{html.markup(header[1])}</pre>"))
    return html.page(title, sections)


# merged from finsent.reporting.model_card: The card of a merged checkpoint: how it came to be, how near it is to its adapter, how to load it.


def render_merged_card(manifest: Manifest, precision: str, fidelity: str, evidence: Evidence | None = None) -> str:
    """README.md of a merged checkpoint; `manifest` is its adapter's, `fidelity` a sentence on how near it is to that."""
    sections = (
        _merged_summary(manifest, precision),
        _origin(manifest, precision, fidelity),
        settings(manifest),
        data(manifest, evidence),
        scores(evidence, "the adapter on its base, before they were merged"),
        limits(manifest, "The model means what it says only in this precision"),
        licence_in_words(manifest),
        _merged_loading(manifest, precision),
        citation(manifest),
    )
    return f"---\n{_merged_metadata(manifest)}---\n\n" + "\n\n".join(sections) + "\n"


def _merged_metadata(manifest: Manifest) -> str:
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


def _merged_summary(manifest: Manifest, precision: str) -> str:
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


def _merged_loading(manifest: Manifest, precision: str) -> str:
    return (
        f"## Loading and inference\n\n{loading_merged(manifest, precision)}\n\n"
        "A server that takes transformers' sequence classifiers takes this folder. Have it cut texts at "
        f"{manifest.max_length} tokens; its scores are calibrated once logits are divided by {manifest.temperature:.4g}."
    )
