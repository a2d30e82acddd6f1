"""The evaluation step: everything that the gate will want to know of a version, measured on a fresh load and written down."""

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config, Source
from finsent.errors import InputError
from finsent.evaluation.build_evidence import ModelScores, compared_with_champion, compared_with_floors, evidence_of, scores
from finsent.evaluation.evidence import Evidence
from finsent.home import Home
from finsent.steps.context import Context

if TYPE_CHECKING:
    from finsent.data.dataset import DataVersion, Split
    from finsent.data.splits import SplitName
    from finsent.evaluation.evidence import NaiveSplitRecord
    from finsent.model.adapter import Loaded
    from finsent.model.manifest import Manifest
    from finsent.pipeline.lineage import KnownLeaks
    from finsent.registry.verification import RoundTrip

_TRAINING_ROWS = 500  # scored to estimate the accuracy on training rows: within about 4 points, and little work


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured."""

    run_id: str
    """MLflow run that holds the artifacts."""
    model_version: str
    evidence: Evidence
    seconds: float
    rows_per_second: float
    """Rows through the model, tokenising included."""
    model_seconds: float
    """That scoring took: by this version and, on other loads, by the champion and the round-trip proof."""
    candidate: bool | None = None
    """Whether it beats every floor significantly and so may be promoted at all; None where that was not asked."""
    data: str | None = None
    """File or split that was scored instead of the test split."""
    n_in_training: int | None = None
    """Rows of that file whose text is in this home's training split: on those the model may have been trained."""
    skipped: dict[str, int] = field(default_factory=dict)
    """Rows of that file that could not be read and were not scored, by reason."""


def evaluate(
    context: Context,
    *,
    version: str | None = None,
    data: Source | None = None,
    data_version: int | None = None,
    split: "SplitName" = "test",
) -> EvaluationResult:
    """Measure a version (the newest by default) on the held-out test split, beside floors and champion on the same rows.

    With `data`, a labelled file is scored instead, with `data_version` or another `split` those rows of the table: for the
    record, in a run of its own; such figures are no evidence.

    Raises:
        InputError: no such version, no data, or the file cannot be read.
        ArtifactError: the version is not what was registered.
        Refused: a new process cannot load the version from the registry, or the ledger does not agree with the registry.
    """
    version = version or context.registry.latest_version()
    if data is not None:
        return _on_file(context, version, data)
    if data_version is not None or split != "test":
        return _on_split(context, version, data_version, split)
    return _on_test_split(context, version)


def _on_test_split(context: Context, version: str) -> EvaluationResult:
    from finsent.data.dataset import data_version, fingerprint_split, load_split
    from finsent.model.base import free_earlier_models
    from finsent.registry.evidence_store import test_set_uses
    from finsent.registry.gate import rules_digest
    from finsent.registry.verification import round_trip_check
    from finsent.steps.report import publish_evaluation

    started = time.perf_counter()
    config, home, registry = context.config, context.workspace, context.registry
    record = registry.get_version(version)
    facts = data_version(home)
    test = load_split(home, "test", facts.version)
    if not test.texts:
        raise InputError(f"data version {facts.version} has no test rows. Ingest more.")
    incumbent = registry.champion()
    with round_trip_check(registry, version) as prove:
        own, leaks = _of_version(context, version, test, facts)
        rival = _measure(context, incumbent, test) if incumbent is not None and incumbent != version else None
        free_earlier_models()
        scored = time.perf_counter()
        # the proof is a process of its own: it runs beside the floors, which are work for the other core
        with ThreadPoolExecutor(1) as pool:
            proof: Future[RoundTrip] = pool.submit(prove)
            floors = _floors(home, own.manifest, leaks, facts, test)
            sections = scores(config, test, own, rival, floors["tfidf"])
            compared = compared_with_floors(test, own.labels, floors)
            round_trip = proof.result()
    test_fingerprint = fingerprint_split(home, "test", facts.version)
    at_these_rows, at_any_rows = test_set_uses(registry, test_fingerprint)
    evidence = evidence_of(
        {
            **sections,
            "data_version": facts.version,
            "data_fingerprint": facts.fingerprint,
            "test_fingerprint": test_fingerprint,
            "leaks": leaks.pairs,
            "leaks_unknown_because": leaks.unknown_because,
            "floors": compared,
            "champion_version": incumbent,
            "champion_compared": rival is not None,
            "champion": compared_with_champion(config, test, own.labels, rival.labels) if rival is not None else None,
            "round_trip": round_trip,
            "naive_split": own.naive,
            "manifest_sha256": record.tags.get("manifest_sha256"),
            "rules_sha256": rules_digest(config.gate),
            "looks": {"at_these_rows": at_these_rows + 1, "at_any_rows": at_any_rows + 1},
        }
    )
    candidate = publish_evaluation(context, evidence, test, own, rival)
    seconds = time.perf_counter() - started
    return EvaluationResult(
        run_id=record.run_id,
        model_version=version,
        evidence=evidence,
        seconds=seconds,
        rows_per_second=len(test.texts) / own.seconds,
        model_seconds=scored - started,
        candidate=candidate,
    )


def _of_version(context: Context, version: str, test: "Split", facts: "DataVersion") -> "tuple[ModelScores, KnownLeaks]":
    """The version on the test rows, on a sample of its training rows, and what is known of leaks; its memory is free again."""
    from finsent.pipeline.lineage import known_leaks

    config, home = context.config, context.workspace
    loaded = _open(context, version, len(test.texts))
    own = _score(config, loaded, version, test, speed=True)
    leaks = known_leaks(home, loaded.manifest, facts)
    if leaks.pairs is not None and facts.naive_leak is not None:
        held_out = float((own.labels == test.labels).mean())
        own = replace(own, naive=_naive_split(config, home, loaded, held_out, facts.naive_leak))
    return own, leaks


def _measure(context: Context, version: str, rows: "Split", *, speed: bool = False) -> ModelScores:
    return _score(context.config, _open(context, version, len(rows.texts)), version, rows, speed=speed)


def _open(context: Context, version: str, rows: int) -> "Loaded":
    from finsent.scoring.opening import open_folder

    return open_folder(context.config.engine, context.workspace, context.registry.adapter_path(version), rows=rows)


def _score(config: Config, loaded: "Loaded", version: str, rows: "Split", *, speed: bool) -> ModelScores:
    """Score rows, their changed texts for the robustness suite and, with `speed`, some one by one."""
    from finsent.evaluation.robustness import run_suite
    from finsent.evaluation.speed import measure_speed

    settings = config.evaluation
    logits, seconds = _logits(config, loaded, rows.texts)

    def label(texts: Sequence[str]) -> NDArray[np.int64]:
        predicted: NDArray[np.int64] = _logits(config, loaded, texts)[0].argmax(axis=1)
        return predicted

    checks = run_suite(label, rows.texts, rows.labels, logits.argmax(axis=1), rows.groups, rows=settings.robustness_rows)
    timed = None
    if speed:
        timed = measure_speed(
            label,
            rows.texts,
            rows=len(rows.texts),
            seconds=seconds,
            texts_one_by_one=settings.latency_texts,
            device=_device_in_words(loaded.device),
            price_per_hour=settings.price_per_hour,
        )
    return ModelScores(version, loaded.manifest, logits, checks, f"{loaded.engine}, {loaded.precision}", seconds, timed)


def _logits(config: Config, loaded: "Loaded", texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    """Logits [texts, 3], and the seconds that they took."""
    from finsent.model.engine import predict_logits

    started = time.perf_counter()
    logits = predict_logits(loaded, texts, token_budget=config.scoring.token_budget, progress=len(texts) > 1)
    return logits, time.perf_counter() - started


def _device_in_words(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))


def _floors(
    home: Home, manifest: "Manifest", leaks: "KnownLeaks", facts: "DataVersion", test: "Split"
) -> dict[str, NDArray[np.int64]]:
    """Floors trained on the rows that the version trained on; where those are not known, on the training split of now."""
    from finsent.data.dataset import load_split
    from finsent.evaluation.baseline import floor_predictions

    known = leaks.unknown_because is None
    train = load_split(home, "train", manifest.data_version if known else facts.version)
    return floor_predictions(train.texts, train.labels, train.sources, test.texts, test.sources)


def _naive_split(config: Config, home: Home, loaded: "Loaded", held_out: float, leak: float) -> "NaiveSplitRecord | None":
    """What a random split would have claimed, from a fixed sample of the rows trained on; None if none of those is here."""
    from finsent.data.dataset import load_split
    from finsent.evaluation.baseline import naive_split_estimate

    trained = load_split(home, "train", loaded.manifest.data_version)  # not rows that came later: those it never saw
    chosen = np.random.default_rng(0).permutation(len(trained.texts))[:_TRAINING_ROWS]
    if not len(chosen):
        return None
    logits, _ = _logits(config, loaded, [trained.texts[row] for row in chosen])
    training = float((logits.argmax(axis=1) == trained.labels[chosen]).mean())
    return naive_split_estimate(held_out, training, len(chosen), leak)


def _on_file(context: Context, version: str, source: Source) -> EvaluationResult:
    from finsent.data.labelled import load_labelled

    rows, skipped = load_labelled(context.config, source)
    counts = _in_splits(context.workspace, rows)
    if counts is not None and counts["test"]:
        from finsent.data import tables
        from finsent.registry.evidence_store import record_test_set_use

        record_test_set_use(context.registry, version, tables.version(context.workspace, "tweets") or 0)
    known = counts["train"] if counts is not None else None
    found = _for_the_record(context, version, rows, source.uri, {})
    return replace(found, n_in_training=known, skipped=skipped)


def _on_split(context: Context, version: str, wanted: int | None, split: "SplitName") -> EvaluationResult:
    """Rows of the table, of any version and split. Where they are test rows, the ledger counts the look."""
    from finsent.data.dataset import data_version, load_split
    from finsent.registry.evidence_store import record_test_set_use

    facts = data_version(context.workspace, wanted)
    rows = load_split(context.workspace, split, facts.version)
    if not rows.texts:
        raise InputError(f"split {split!r} of data version {facts.version} has no rows.")
    if split == "test":
        record_test_set_use(context.registry, version, facts.version)
    origin: dict[str, Any] = {"data_version": facts.version, "data_fingerprint": facts.fingerprint}
    return _for_the_record(context, version, rows, f"{split} split of data version {facts.version}", origin)


def _for_the_record(
    context: Context,
    version: str,
    rows: "Split",
    what: str,
    origin: dict[str, Any],
) -> EvaluationResult:
    """Figures and a report in a run of their own."""
    from finsent.steps.report import publish_ad_hoc_evaluation

    started = time.perf_counter()
    own = _measure(context, version, rows, speed=True)
    scored = time.perf_counter()
    evidence = evidence_of({**scores(context.config, rows, own, None, None), **origin})
    run_id = publish_ad_hoc_evaluation(context, evidence, rows, own, what)
    return EvaluationResult(
        run_id=run_id,
        model_version=version,
        evidence=evidence,
        seconds=time.perf_counter() - started,
        rows_per_second=len(rows.texts) / own.seconds,
        model_seconds=scored - started,
        data=what,
    )


def _in_splits(home: Home, rows: "Split") -> dict[str, int] | None:
    """How many of a file's rows (their groups are the ids of their texts) lie in each split of the data; None without data."""
    from finsent.data import tables
    from finsent.data.splits import SPLITS

    if tables.version(home, "tweets") is None:
        return None
    known = tables.read(home, "tweets", columns=["id", "split"])
    split_of = dict(zip(known["id"].to_pylist(), known["split"].to_pylist(), strict=True))
    found = [split_of.get(group) for group in rows.groups]
    return {split: found.count(split) for split in SPLITS}
