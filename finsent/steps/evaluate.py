"""The evaluation step: a version, the champion, baselines and the round-trip check on the held-out test split, as evidence."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.data.dataset import DataVersion, data_version, fingerprint_split, load_split
from finsent.data.leakage import LeakageStatus
from finsent.errors import InputError
from finsent.evaluation.baselines import baseline_predictions
from finsent.evaluation.build_evidence import ModelScores, build_test_evidence, measure_naive_split, score_model
from finsent.evaluation.evidence import Evidence, RoundTripRecord
from finsent.models.manifest import verify_manifest
from finsent.registry.champion import current_champion
from finsent.registry.evidence_store import test_set_uses
from finsent.registry.gate import rules_digest
from finsent.registry.verification import require_evaluable, round_trip_check, verified_leakage
from finsent.scoring.predictor import only_model
from finsent.steps.context import Context
from finsent.steps.report import publish_evaluation

if TYPE_CHECKING:
    from finsent.models.adapter import LoadedAdapter


@dataclass(frozen=True)
class EvaluationPlan:
    """What is compared with what, on which rows."""

    version: str
    run_id: str
    """Training run of the version; it takes the artifacts."""
    manifest_sha256: str | None
    champion: str | None
    data: DataVersion
    test_fingerprint: str
    n_test: int


@dataclass(frozen=True)
class VersionScores:
    """The version on the test rows, and whether it can have trained on them."""

    scores: ModelScores
    leakage: LeakageStatus


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured."""

    run_id: str
    """MLflow run that holds the artifacts."""
    model_version: str
    evidence: Evidence
    seconds: float
    rows_per_second: float
    """Rows through the model, tokenisation included."""
    model_seconds: float
    """Of scoring this version and the champion."""
    candidate: bool | None = None
    """Whether it beats every baseline significantly and so may be promoted at all; None where that was not asked."""
    data: str | None = None
    """File or split that was scored instead of the test split."""
    n_in_training: int | None = None
    """Rows of that file whose text is in the training split."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows of that file that could not be read and were not scored, by reason."""


def evaluate(context: Context, *, version: str | None = None) -> EvaluationResult:
    """Measure a version (the newest by default) on the held-out test split, beside baselines and champion on the same rows.

    The round-trip check is a process of its own; it runs beside the champion's scores and the baselines.

    Raises:
        InputError: no such version, or no data.
        ArtifactError: the version is not what was registered.
        CheckFailed: a new process cannot load the version from the registry, or audit log and registry disagree.
    """
    started = time.perf_counter()
    plan = prepare(context, version)
    # where scoring fails, the process ends before the pool is left, which would wait for its answer
    with ThreadPoolExecutor(2) as pool, start_round_trip(context, plan) as replay:
        own = score_version(context, plan)
        baselines = pool.submit(score_baselines, context, plan)
        if proof_needs_free_gpu():
            champion = score_champion(context, plan)
            round_trip = pool.submit(replay)
        else:
            round_trip = pool.submit(replay)
            champion = score_champion(context, plan)
        evidence = build_evidence(context, plan, own, champion, baselines.result(), round_trip.result())
    return publish(context, plan, evidence, own, champion, started=started)


def prepare(context: Context, version: str | None = None) -> EvaluationPlan:
    """Settle on version, champion and test rows, so that every part of the evaluation is about the same.

    Raises:
        InputError: no such version, no data, or no test rows.
        CheckFailed: the alias is not where the audit log's decisions put it, or run or audit log can take no evidence.
    """
    version = context.registry.resolve(version) if version else context.registry.latest_version()
    record = require_evaluable(context.registry, version)
    data = data_version(context.workspace)
    if not data.rows.get("test"):
        raise InputError(f"data version {data.version} has no test rows. Ingest more.")
    return EvaluationPlan(
        version=version,
        run_id=str(record.run_id),
        manifest_sha256=record.tags.get("manifest_sha256"),
        champion=current_champion(context.registry),
        data=data,
        test_fingerprint=fingerprint_split(context.workspace, "test", data.version),
        n_test=data.rows["test"],
    )


def score_version(context: Context, plan: EvaluationPlan) -> VersionScores:
    """The version on the test rows and on a sample of its training rows, and what is known of leakage.

    Raises:
        ArtifactError: the version is not what was registered.
        BaseModelError: its base cannot be loaded.
    """
    test = load_split(context.workspace, "test", plan.data.version)
    with _only_model(context, plan.version, rows=len(test.texts)) as model:
        scores = score_model(context.config, model, plan.version, test, speed=True)
        leakage = verified_leakage(context.registry, plan.version, model.manifest, plan.data)
        if leakage.pairs is not None and plan.data.naive_leak is not None:
            held_out = float((scores.labels == test.labels).mean())
            trained = load_split(context.workspace, "train", model.manifest.data_version)  # later rows it never saw
            naive = measure_naive_split(context.config, model, trained, held_out, plan.data.naive_leak)
            scores = replace(scores, naive=naive)
    return VersionScores(scores, leakage)


def score_champion(context: Context, plan: EvaluationPlan) -> ModelScores | None:
    """The champion on the same rows; None where there is none, or where it is the version itself."""
    if plan.champion is None or plan.champion == plan.version:
        return None
    test = load_split(context.workspace, "test", plan.data.version)
    with _only_model(context, plan.champion, rows=len(test.texts)) as model:
        return score_model(context.config, model, plan.champion, test)


def score_baselines(context: Context, plan: EvaluationPlan) -> dict[str, NDArray[np.int64]]:
    """Predictions [test rows] of each baseline, trained on the rows that the version trained on.

    Where those are not known, on the training split as it is now.
    """
    manifest = verify_manifest(context.registry.adapter_path(plan.version))
    known = verified_leakage(context.registry, plan.version, manifest, plan.data).unknown_reason is None
    train = load_split(context.workspace, "train", manifest.data_version if known else plan.data.version)
    test = load_split(context.workspace, "test", plan.data.version)
    return baseline_predictions(train.texts, train.labels, train.sources, test.texts, test.sources)


@contextmanager
def start_round_trip(context: Context, plan: EvaluationPlan) -> Iterator[Callable[[], "RoundTripRecord"]]:
    """Start the process that will load the version from the registry: it imports while the models score.

    Yields a function that compares its results with training's record, and raises CheckFailed where it cannot load the version.
    """
    from finsent.models.base_model import release_unused_models

    with round_trip_check(context.registry, plan.version) as check:

        def replay() -> "RoundTripRecord":
            if proof_needs_free_gpu():
                release_unused_models()
            return check()

        yield replay


def proof_needs_free_gpu() -> bool:
    """Whether the round-trip check has to wait until the models of this process have left the GPU."""
    from finsent.models.base_model import pick_device

    return pick_device() != "cpu"


def build_evidence(
    context: Context,
    plan: EvaluationPlan,
    own: VersionScores,
    champion: ModelScores | None,
    baselines: dict[str, NDArray[np.int64]],
    round_trip: "RoundTripRecord",
) -> Evidence:
    """Everything measured as one typed record: what the gate will read."""
    at_these_rows, at_any_rows = test_set_uses(context.registry, plan.test_fingerprint)
    return build_test_evidence(
        context.config,
        load_split(context.workspace, "test", plan.data.version),
        own.scores,
        champion,
        baselines,
        {
            "data_version": plan.data.version,
            "data_fingerprint": plan.data.fingerprint,
            "test_fingerprint": plan.test_fingerprint,
            "leaks": own.leakage.pairs,
            "leaks_unknown_reason": own.leakage.unknown_reason,
            "champion_version": plan.champion,
            "round_trip": round_trip,
            "manifest_sha256": plan.manifest_sha256,
            "rules_sha256": rules_digest(context.config.gate),
            "test_set_uses": {"at_these_rows": at_these_rows + 1, "at_any_rows": at_any_rows + 1},
        },
    )


def publish(
    context: Context,
    plan: EvaluationPlan,
    evidence: Evidence,
    own: VersionScores,
    champion: ModelScores | None,
    *,
    started: float,
) -> EvaluationResult:
    """Audit log first, then artifacts, metrics, report and tags in MLflow.

    Raises:
        ServiceError: MLflow does not answer.
    """
    test = load_split(context.workspace, "test", plan.data.version)
    candidate = publish_evaluation(context, evidence, test, own.scores, champion)
    return EvaluationResult(
        run_id=plan.run_id,
        model_version=plan.version,
        evidence=evidence,
        seconds=time.perf_counter() - started,
        rows_per_second=plan.n_test / own.scores.seconds,
        model_seconds=own.scores.total_seconds + (champion.total_seconds if champion else 0.0),
        candidate=candidate,
    )


def _only_model(context: Context, version: str, *, rows: int) -> AbstractContextManager["LoadedAdapter"]:
    return only_model(context.config.engine, context.workspace, context.registry.adapter_path(version), rows=rows)
