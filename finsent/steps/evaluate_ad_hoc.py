"""Score a version on any labelled file or split, in an MLflow run of its own: figures for people, no evidence for the gate."""

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finsent.config import Source
from finsent.data import tables
from finsent.data.dataset import data_version as find_data_version
from finsent.data.dataset import load_split
from finsent.data.pooled_labels import check_pooled_labels
from finsent.data.sources.file_counts import FileCounts
from finsent.data.sources.labelled_file import load_labelled_file
from finsent.data.splits import SPLITS
from finsent.errors import InputError
from finsent.evaluation.build_evidence import build_ad_hoc_evidence, score_model
from finsent.registry.evidence_store import record_test_set_use
from finsent.scoring.predictor import only_model
from finsent.steps.context import Context
from finsent.steps.evaluate import EvaluationResult
from finsent.steps.report import publish_ad_hoc_evaluation

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.data.splits import SplitName


@dataclass(frozen=True)
class FileEvaluation(EvaluationResult):
    """What was measured on labelled files."""

    files: list[FileCounts] = field(default_factory=list)
    """What became of the rows of each file."""
    left_out: list[str] = field(default_factory=list)
    """Files of a folder whose endings are not read."""


def evaluate_file(context: Context, version: str, *sources: Source) -> FileEvaluation:
    """Score labelled files in an MLflow run of its own. Such figures are no evidence; the audit log counts used test rows.

    Raises:
        InputError: no such version, or a file cannot be read.
        CheckFailed: the labels look mapped wrongly.
        ArtifactError: the version is not what was registered.
    """
    found = load_labelled_file(context.config.data, sources)
    if context.config.data.check_labels:
        check_pooled_labels(context.workspace, found.polarity)
    counts = _in_splits(context, found.rows)
    if counts is not None and counts["test"]:
        record_test_set_use(context.registry, version, tables.version(context.workspace, "tweets") or 0)
    result = _evaluate_rows(context, version, found.rows, ", ".join(source.uri for source in sources), {})
    of_rows = {"n_in_training": counts["train"] if counts is not None else None, "skipped": found.skipped}
    return FileEvaluation(**vars(result) | of_rows, files=found.files, left_out=found.left_out)


def evaluate_split(context: Context, version: str, data_version: int | None, split: "SplitName") -> EvaluationResult:
    """Score any split of any data version in an MLflow run of its own. Such figures are no evidence.

    Raises:
        InputError: no such version of model or data, or no such rows.
        ArtifactError: the version is not what was registered.
    """
    data = find_data_version(context.workspace, data_version)
    rows = load_split(context.workspace, split, data.version)
    if not rows.texts:
        raise InputError(f"split {split!r} of data version {data.version} has no rows.")
    if split == "test":
        record_test_set_use(context.registry, version, data.version)
    origin: dict[str, Any] = {"data_version": data.version, "data_fingerprint": data.fingerprint}
    return _evaluate_rows(context, version, rows, f"{split} split of data version {data.version}", origin)


def _evaluate_rows(context: Context, version: str, rows: "Split", description: str, origin: dict[str, Any]) -> EvaluationResult:

    started = time.perf_counter()
    folder = context.registry.adapter_path(version)
    with only_model(context.config.engine, context.workspace, folder, rows=len(rows.texts)) as model:
        own = score_model(context.config, model, version, rows, speed=True)
    evidence = build_ad_hoc_evidence(context.config, rows, own, origin)
    run_id = publish_ad_hoc_evaluation(context, evidence, rows, own, description)
    return EvaluationResult(
        run_id=run_id,
        model_version=version,
        evidence=evidence,
        seconds=time.perf_counter() - started,
        rows_per_second=len(rows.texts) / own.seconds,
        model_seconds=own.total_seconds,
        data=description,
    )


def _in_splits(context: Context, rows: "Split") -> dict[str, int] | None:
    """Rows of a file by split of the data in which their text (its id is their group) lies; None without data."""
    if tables.version(context.workspace, "tweets") is None:
        return None
    known = tables.read(context.workspace, "tweets", columns=["id", "split"])
    split_of = dict(zip(known["id"].to_pylist(), known["split"].to_pylist(), strict=True))
    found = [split_of.get(group) for group in rows.groups]
    return {split: found.count(split) for split in SPLITS}
