"""The model card: README.md of a version, in the form of a published adapter's, with its evidence or "not evaluated"."""

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from typing import Any

import yaml

from finsent.evaluation.evidence import Evidence
from finsent.labels import LABELS
from finsent.model.manifest import Manifest
from finsent.registry.card_snippets import loading_an_adapter

_BASE_LICENCES = {"meta-llama/Llama-3.1": "llama3.1", "sentence-transformers/": "apache-2.0", "embedded": "apache-2.0"}


def render_card(manifest: Manifest, evidence: Evidence | None = None, *, embedded_base: str = "../adapter-base") -> str:
    """README.md with the Hub's metadata block: settings, data, scores with intervals, limits, how to load.

    `embedded_base` is where an embedded base lies, seen from the adapter's folder.
    """
    sections = (
        _summary(manifest),
        settings(manifest),
        data(manifest, evidence),
        scores(evidence),
        limits(manifest),
        _loading(manifest, embedded_base),
    )
    return f"---\n{_metadata(manifest, evidence)}---\n\n" + "\n\n".join(sections) + "\n"


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


def licence(manifest: Manifest) -> str:
    """Licence of the base, which what is made from it inherits."""
    return next((licence for start, licence in _BASE_LICENCES.items() if manifest.base_name.startswith(start)), "other")


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
        f"`{shown(manifest.base_name)}`"
        if manifest.embedded is None
        else "finsent's embedded base (a small Llama, built from a seed)"
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def settings(manifest: Manifest) -> str:
    """What a version's identity is, and how it was trained."""
    lora, recipe, q = manifest.config["lora"], manifest.config["recipe"], manifest.quantization
    quantised = f"NF4{', double quantisation' if q.double else ''}, computes in {q.compute_dtype}"
    identity = [
        ("base revision", manifest.base_revision or "as found at training"),
        ("base weights", quantised if q.kind == "nf4" else f"not quantised, {q.compute_dtype}"),
        ("longest input", f"{manifest.max_length} tokens, the rest is cut"),
        ("padding", f"{manifest.padding_side}, token id {manifest.pad_token_id}; pooled: {manifest.pooling}"),
        ("calibration temperature", f"{manifest.temperature:.4g}"),
    ]
    if manifest.data_version is None:
        return f"## Settings\n\n{_table(('setting', 'value'), identity)}\n\nTrained elsewhere: how is not known to finsent."
    rows = [
        *identity,
        ("LoRA", f"r {lora['r']}, alpha {lora['alpha']}, dropout {lora['dropout']}, bias {lora['bias']}"),
        ("target modules", ", ".join(lora["targets"])),
        ("trained whole", ", ".join(["classification head", *lora["modules_to_save"]])),
        ("epochs", recipe["epochs"]),
        ("rows per step", f"{recipe['batch_size']} x {recipe['accumulation']}"),
        ("learning rate", f"{recipe['learning_rate']:g}, {recipe['schedule']}, warm-up {recipe['warmup_ratio']:g}"),
        ("optimiser", f"{recipe['optimizer']}, weight decay {recipe['weight_decay']:g}"),
        ("mixed precision", recipe["mixed_precision"]),
        ("seed", recipe["seed"]),
    ]
    notes = "".join(f"\n- {note}" for note in manifest.config.get("notes", ()))
    return f"## Training\n\n{_table(('setting', 'value'), rows)}" + (
        f"\n\nDeviations from the reference:\n{notes}" if notes else ""
    )


def data(manifest: Manifest, evidence: Evidence | None) -> str:
    """What it was trained on, and whether its test rows are new to it."""
    if manifest.data_version is None:
        return (
            "## Data\n\nTrained elsewhere: on what is not known to finsent, nor whether the rows that it is "
            "evaluated on were among it. Take its scores as an upper bound."
        )
    table = f"(fingerprint `{manifest.data_fingerprint}`)"
    if evidence is not None and evidence.leaks_unknown_because:
        return f"## Data\n\nVersion {manifest.data_version} of a table `tweets` {table}. {evidence.leaks_unknown_because}"
    leaks = "not audited" if evidence is None or evidence.leaks is None else str(evidence.leaks)
    sources = [shown(source["uri"]) for source in manifest.config["data"]["sources"]]
    named = f"Sources: {', '.join(f'`{uri}`' for uri in sources)}. " if sources else ""
    return (
        f"## Data\n\n{named}Version {manifest.data_version} of the table `tweets` {table}. "
        f"Split rule: {manifest.split_rule}. Near-duplicate groups are never divided between splits; "
        f"exact or near-duplicate pairs found across splits: {leaks}. The test split was not trained on."
    )


def scores(evidence: Evidence | None, of: str = "this adapter") -> str:
    """Scores with intervals, by class and by source; `of` is what they were measured on."""
    if evidence is None or evidence.metrics is None:
        return "## Scores\n\nNot evaluated yet: `finsent evaluate` measures a version, and its evidence goes to the MLflow run."
    metrics, intervals = evidence.metrics, evidence.intervals or {}

    def interval(key: str) -> str:
        found = intervals.get(key)
        return f"{found['low']:.4f} to {found['high']:.4f}" if found else "not measured"

    rows: list[Sequence[object]] = [
        ("accuracy", f"{metrics['accuracy']:.4f}", interval("accuracy"), _of_floor(evidence, "accuracy")),
        ("macro-F1", f"{metrics['macro_f1']:.4f}", interval("macro_f1"), _of_floor(evidence, "macro_f1")),
        ("MCC", f"{metrics['mcc']:.4f}", "", ""),
        ("calibration error (15 bins)", "not measured" if evidence.ece is None else f"{evidence.ece:.4f}", "", ""),
    ]
    level = next((f"{100 * found['level']:.0f} %" for found in intervals.values()), "")
    classes = [
        (
            label,
            *(f"{metrics['per_class'][label][key]:.4f}" for key in ("precision", "recall", "f1")),
            metrics["per_class"][label]["support"],
        )
        for label in LABELS
        if label in metrics["per_class"]
    ]
    text = (
        f"## Scores\n\nOn {metrics['n']:,} held-out test rows, from a fresh load of {of}. "
        "Intervals are bootstrapped by near-duplicate group.\n\n"
        f"{_table(('metric', 'value', f'{level} interval'.strip(), 'TF-IDF floor'), rows)}\n\n"
        f"{_table(('class', 'precision', 'recall', 'F1', 'rows'), classes)}"
    )
    if evidence.per_source:
        by_source = [
            (name, s["n"], f"{s['accuracy']:.4f}", f"{s['macro_f1']:.4f}", f"{s['baseline_accuracy']:.4f}")
            for name, s in sorted(evidence.per_source.items())
        ]
        text += f"\n\n{_table(('source', 'rows', 'accuracy', 'macro-F1', 'floor accuracy'), by_source)}"
    return text


def _of_floor(evidence: Evidence, key: str) -> str:
    return "not measured" if evidence.baseline is None else f"{evidence.baseline[key]:.4f}"  # type: ignore[literal-required]


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


def shown(name: str) -> str:
    """A base's or source's name as a card may tell it: of a local path the last part alone, so that it tells of no machine."""
    return name if "://" in name or not is_local(name) else PurePath(name).name
