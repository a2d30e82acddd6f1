"""Model cards: README.md of an adapter version or a merged checkpoint, and a card as an HTML page.

The metadata block is huggingface_hub's, the body comes from templates. What was not measured is marked as such.
"""

import re
from importlib.metadata import version
from pathlib import Path, PurePath
from typing import Any, Final

from finsent.evaluation.baselines import BASELINE_NAMES
from finsent.evaluation.evidence import Evidence
from finsent.evaluation.power import format_power
from finsent.models.abstention import abstain_threshold
from finsent.models.manifest import Manifest
from finsent.reporting.pages import render
from finsent.reporting.summaries import DecisionSummary, iter_slices

_LLAMA: Final = re.compile(r"meta-llama/(?:Meta-)?Llama-(3(?:\.\d)?)(?:-|$)")
_LICENCES: Final = {"sentence-transformers/": "apache-2.0", "embedded": "apache-2.0"}
"""Licence by the start of the base's name."""


def render_model_card(
    manifest: Manifest,
    evidence: Evidence | None = None,
    *,
    embedded_base: str = "../adapter-base",
    decision: DecisionSummary | None = None,
) -> str:
    """README.md of an adapter: settings, data, evidence, decision, limits, licence, and code that loads it.

    Args:
        manifest: The version's.
        evidence: What was measured; None: not evaluated.
        embedded_base: Path of an embedded base, relative to the adapter's folder.
        decision: The decision on the version, or what the gate would decide.
    """
    loading_base, loading_note = manifest.base_name, ""
    if manifest.embedded is not None:
        loading_base, loading_note = embedded_base, "`finsent export` writes the embedded base beside the adapter's folder"
    elif is_local(manifest.base_name):
        loading_note = "a folder on the machine of the training: put there where yours is"
    body = render(
        "model_card.md.j2",
        **_shared_values(manifest, evidence),
        decision=decision,
        baseline_names=BASELINE_NAMES,
        power=format_power(evidence.champion["power"]) if evidence and evidence.champion else None,
        loading_base=loading_base,
        loading_note=loading_note,
    )
    tags = ["lora", "peft", "finance", "sentiment-analysis", "tweets"]
    return _with_metadata(body, manifest, "peft", "adapter", tags, evidence)


def render_merged_card(manifest: Manifest, precision: str, fidelity: str, evidence: Evidence | None = None) -> str:
    """README.md of a merged checkpoint; `manifest` is its adapter's, `fidelity` a sentence on how close it is to that."""
    body = render("merged_card.md.j2", **_shared_values(manifest, evidence), precision=precision, fidelity=fidelity)
    return _with_metadata(body, manifest, "transformers", "finetune", ["finance", "sentiment-analysis", "tweets", "merged-lora"])


def render_card_page(markdown: str) -> str:
    """A card's Markdown as a self-contained HTML page; HTML in it is escaped, its metadata is folded away."""
    from huggingface_hub import ModelCard
    from markdown_it import MarkdownIt
    from markupsafe import Markup

    card = ModelCard(markdown)
    found = re.search(r"^# (.+)$", card.text, re.MULTILINE)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(card.text)
    return render(
        "card_page.html.j2",
        title=found[1].replace("`", "") if found else "Model card",
        body=Markup(body),  # noqa: S704 - rendered with HTML off
        metadata=card.data.to_yaml(),
    )


def _shared_values(manifest: Manifest, evidence: Evidence | None) -> dict[str, Any]:
    """What base_card.md.j2 needs."""
    min_slice_rows = manifest.config.get("gate", {}).get("min_slice_rows", 200)
    llama = _LLAMA.match(manifest.base_name)
    uris = manifest.sources or ()  # not the configuration's: others may have been read
    slices = iter_slices(evidence) if evidence else ()
    return {
        "manifest": manifest,
        "evidence": evidence,
        "trained_here": manifest.data_version is not None,
        "base": _base_title(manifest),
        "threshold": abstain_threshold(manifest),
        "sources": [public_name(uri) for uri in uris],
        "min_slice_rows": min_slice_rows,
        "slices": [found for found in slices if found[0] == "source" or found[2]["n"] >= min_slice_rows],
        "languages": _languages(manifest),
        "licence": licence(manifest),
        "llama": llama[1] if llama else None,
        "finsent_version": version("finsent"),
        "hub_datasets": [_hub_dataset(uri) for uri in dict.fromkeys(uris) if uri.startswith("hf://")],
    }


def _with_metadata(
    body: str, manifest: Manifest, library: str, relation: str, tags: list[str], evidence: Evidence | None = None
) -> str:
    """The card with the Hub's metadata block, whose model index has the held-out scores."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    metrics = evidence.metrics if evidence else None
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type="custom",
            dataset_name=f"finsent tweets, version {manifest.data_version}, held-out test split",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in (
            (("accuracy", "Accuracy", metrics["accuracy"]), ("f1", "Macro-F1", metrics["macro_f1"])) if metrics else ()
        )
    ]
    on_hub = manifest.embedded is None and not is_local(manifest.base_name)
    data = ModelCardData(
        library_name=library,
        pipeline_tag="text-classification",
        language=list(_languages(manifest)) or None,
        license=licence(manifest),
        tags=tags,
        base_model=manifest.base_name if on_hub else None,
        base_model_relation=relation if on_hub else None,
        eval_results=results or None,
        model_name=evidence.model_name if evidence and results else None,
    )
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"))


def _languages(manifest: Manifest) -> tuple[str, ...]:
    """Languages that the training restricted its data to; empty where it did not, or trained elsewhere."""
    return tuple(manifest.config["data"].get("languages", ())) if manifest.data_version is not None else ()


def licence(manifest: Manifest) -> str:
    """Licence of the base by its Hub identifier, which an adapter of it inherits; `other` if not known."""
    if found := _LLAMA.match(manifest.base_name):
        return f"llama{found[1]}"
    return next((named for start, named in _LICENCES.items() if manifest.base_name.startswith(start)), "other")


def is_local(name: str) -> bool:
    """Whether a base's name is a path, which means nothing on another machine, and not a Hub id."""
    return name.startswith((".", "~", "/")) or name.count("/") > 1 or Path(name).is_dir()


def public_name(name: str) -> str:
    """A base's or source's name without folders: of a local path the last part alone."""
    return name if "://" in name or not is_local(name) else PurePath(name).name


def _base_title(manifest: Manifest) -> str:
    embedded = "finsent's embedded base (a small Llama, built from a seed)"
    return f"`{public_name(manifest.base_name)}`" if manifest.embedded is None else embedded


def _hub_dataset(uri: str) -> dict[str, str]:
    """BibTeX key, name and owner of a Hub dataset."""
    owner, _, name = uri.removeprefix("hf://").partition("/")
    return {"key": re.sub(r"\W+", "", f"{owner}{name}").lower(), "name": name, "owner": owner}
