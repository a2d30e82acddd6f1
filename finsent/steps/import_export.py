"""The import and export steps: adapters into and out of the registry, as PEFT loads them, and versions as merged checkpoints."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finsent.data import tables
from finsent.data.dataset import data_version
from finsent.errors import ArtifactError
from finsent.files import move_into_place, require_empty_dir
from finsent.models.import_export import (
    convert_peft_adapter,
    copy_embedded_base,
    copy_sealed_adapter,
    locate_adapter,
    require_label_order,
)
from finsent.models.manifest import MANIFEST, verify_manifest, write_manifest
from finsent.models.merged import seal_merged, write_merged_checkpoint
from finsent.registry import promotion
from finsent.registry.champion import require_champion
from finsent.registry.client import version_number
from finsent.registry.evidence_store import load_evidence
from finsent.registry.gate import Decision
from finsent.registry.tracking import start_run
from finsent.steps.context import Context

if TYPE_CHECKING:
    from finsent.models.merged import Precision
    from finsent.steps.evaluate import EvaluationResult


@dataclass(frozen=True)
class Exported:
    """A version's adapter on disk."""

    model_version: str
    folder: Path
    files: dict[str, int]
    """Bytes by file name."""
    base: Path | None
    """Folder of the embedded base, beside the adapter's; None where the base is on the Hub or in a folder of the user's."""


@dataclass(frozen=True)
class ExportedMerged:
    """A merged checkpoint on disk."""

    model_version: str
    folder: Path
    files: dict[str, int]
    """Bytes by file name."""
    precision: str
    logit_error: float
    """Root-mean-square difference to the adapter's logits on the probe texts, in standard deviations of those."""
    label_agreement: float


@dataclass(frozen=True)
class Imported:
    """A registered adapter from elsewhere."""

    model_version: str
    run_id: str
    base: str
    origin: str
    """Name of its folder, or Hub id and commit."""


@dataclass(frozen=True)
class ImportEvaluation:
    """Evaluation and gate's decision (for now) on an imported version; both None where there is nothing to evaluate it on."""

    evaluation: "EvaluationResult | None"
    verdict: Decision | None
    not_evaluated_because: str | None


def export_adapter(context: Context, folder: Path, *, version: str | None = None) -> Exported:
    """Copy a version's adapter (the champion's by default) to `folder`, with its card and a manifest that covers it.

    An embedded base is on no hub, so it goes along, as `<folder>-base`: the card's snippet loads both.

    Raises:
        InputError: a folder to be written exists and is not empty.
        NoChampionError: no version is named and there is no champion.
        CheckFailed: none is named, and the alias is not where the audit log's decisions put it.
        ArtifactError: the registered adapter does not match its manifest.
    """
    from finsent.reporting.model_card import render_model_card

    require_empty_dir(folder)
    registry = context.registry
    version = version_number(version) or require_champion(registry)
    source = registry.adapter_path(version)
    manifest = verify_manifest(source)
    whole = folder.resolve()  # `.` and `..` have no name of their own
    base = whole.with_name(f"{whole.name}-base") if manifest.embedded is not None else None
    if base is not None:
        require_empty_dir(base)
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{whole.name}.", dir=whole.parent) as scratch:
        copy = Path(scratch) / "adapter"
        shutil.copytree(source, copy)
        card = render_model_card(manifest, load_evidence(registry, version), embedded_base=f"../{whole.name}-base")
        (copy / "README.md").write_text(card, encoding="utf-8")
        write_manifest(copy, manifest)
        verify_manifest(copy)
        if base is not None:
            move_into_place(copy_embedded_base(context.workspace, manifest, Path(scratch) / "base"), base)
        move_into_place(copy, whole)  # last: where the adapter is, the export is complete
    return Exported(version, folder, {path.name: path.stat().st_size for path in sorted(folder.iterdir())}, base)


def export_merged(
    context: Context, folder: Path, *, version: str | None = None, precision: "Precision" = "bfloat16"
) -> ExportedMerged:
    """Write a version (the champion by default) as a checkpoint that `AutoModelForSequenceClassification` loads by itself.

    What was written is loaded once more, as its card says, and its logits on the version's probe texts are compared with the
    live adapter's.

    Raises:
        InputError: `folder` exists and is not empty.
        NoChampionError: no version is named and there is no champion.
        CheckFailed: none is named, and the alias is not where the audit log's decisions put it.
        ArtifactError: the registered adapter is not what it was, cannot be merged right, or the checkpoint's logits are not
            finite or further from the adapter's than `engine.max_logit_error`.
    """
    from finsent.reporting.model_card import public_name, render_merged_card

    require_empty_dir(folder)
    registry, limit = context.registry, context.config.engine.max_logit_error
    version = version_number(version) or require_champion(registry)
    source = registry.adapter_path(version)
    evidence = load_evidence(registry, version)
    whole = folder.resolve()
    whole.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{whole.name}.", dir=whole.parent) as scratch:
        made = Path(scratch) / "merged"
        merged = write_merged_checkpoint(context.workspace, source, made, precision)
        if not merged.logit_error <= limit:  # NaN is no number that may pass
            advice = "" if precision == "float32" else "Use --precision float32. "
            raise ArtifactError(
                f"merged in {precision}, the logits of version {version!r} differ from its adapter's by {merged.logit_error:.3g} "
                f"standard deviations, and engine.max_logit_error is {limit}. {advice}Refused."
            )
        card = render_merged_card(merged.adapter, precision, merged.fidelity, evidence)
        (made / "README.md").write_text(card, encoding="utf-8")
        base_name = public_name(merged.adapter.base_name)
        seal_merged(made, merged, model_name=registry.name, version=version, source=source, base_name=base_name)
        move_into_place(made, whole)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    return ExportedMerged(version, folder, sizes, precision, merged.logit_error, merged.label_agreement)


def import_adapter(
    context: Context, source: str | Path, *, labels: Sequence[str] | None = None, revision: str | None = None
) -> Imported:
    """Register an adapter made elsewhere, after loading it on its base and recording its logits on probe texts.

    `source` is a folder, or a Hub id (`owner/name` or `hf://owner/name`, at `revision`). One with a manifest is taken as it
    is. A plain PEFT adapter gets a manifest: base from its `adapter_config.json` (`model.name` where that has none),
    quantisation and text length from the configuration, and `labels` as the stated order of its classes.

    Raises:
        InputError: no such folder, not on the Hub or not reachable, not an adapter, or the order of its classes is not
            stated.
        ArtifactError: a file is damaged, the adapter does not fit its base, or its classes stand in another order.
        BaseModelError: the base cannot be reached.
    """
    from finsent.models.adapter import load_adapter
    from finsent.reporting.model_card import render_model_card

    config, home = context.config, context.workspace
    folder, origin, from_hub = locate_adapter(str(source), revision)
    home.runs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".import.", dir=home.runs) as scratch:
        adapter = Path(scratch) / "adapter"
        if (folder / MANIFEST).is_file():
            if labels is not None:
                require_label_order(folder, labels)  # the manifest's is ours, and a contradiction is not passed over
            copy_sealed_adapter(folder, adapter, from_hub=from_hub)
            load_adapter(adapter, home)
        else:
            convert_peft_adapter(config, home, folder, adapter, labels, render_model_card)
        manifest = verify_manifest(adapter)
        with start_run(config, home, kind="import", tags={"imported_from": origin, **context.run_tags}) as run_id:
            kept = home.runs / run_id / "adapter"
            kept.parent.mkdir(parents=True)
            adapter.rename(kept)
            version = context.registry.register(kept, run_id=run_id, profile=config.profile, tags={"imported": "true"})
    return Imported(version, run_id, manifest.base_name, origin)


def dry_run_gate(context: Context, version: str, evaluate: "Callable[[Context, str], EvaluationResult]") -> ImportEvaluation:
    """Evaluate the version on the held-out test split by `evaluate`, and say what the gate would decide; no alias moves.

    A home without test rows is no error: the result says so, with what to do.

    Raises:
        InputError: no such version.
        ArtifactError: the version is not what was registered.
        CheckFailed: a new process cannot load the version from the registry.
    """
    if tables.version(context.workspace, "tweets") is None:
        missing = "there is no data in this home yet"
    elif not data_version(context.workspace).rows.get("test"):
        missing = "the data of this home has no test rows"
    else:
        evaluated = evaluate(context, version)
        return ImportEvaluation(evaluated, promotion.judge(context.registry, context.config.gate, version).decision, None)
    return ImportEvaluation(None, None, f"{missing}: run `finsent ingest`, then `finsent evaluate --version {version}`.")
