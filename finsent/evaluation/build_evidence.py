"""From a loaded model and labelled rows to evidence: scores, intervals, slices, calibration, robustness, speed, comparisons."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config
from finsent.data.validation.text_cleaning import mask_raw_handles
from finsent.evaluation.evidence import (
    BaselineRecord,
    ChampionRecord,
    Evidence,
    NaiveSplitRecord,
    RobustnessRecord,
    SpeedRecord,
)

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.models.adapter import LoadedAdapter
    from finsent.models.manifest import Manifest

Labels = NDArray[np.int64]

_TRAINING_ROWS = 500  # scored to estimate the accuracy on training rows: within about 4 points at 95 %, and little work


@dataclass(frozen=True)
class ModelScores:
    """What a fresh load of a version predicts on the evaluated rows."""

    version: str
    manifest: "Manifest"
    logits: NDArray[np.float32]
    """Of the evaluated rows [rows, 3]."""
    checks: dict[str, RobustnessRecord]
    """The robustness suite."""
    scored_with: str
    """Engine and type of weights."""
    seconds: float
    """Time of the logits, tokenisation included."""
    total_seconds: float
    """The robustness suite and the timing of single texts included."""
    speed: SpeedRecord | None = None
    naive: NaiveSplitRecord | None = None

    @property
    def labels(self) -> Labels:
        """Predicted label ids [rows]."""
        predicted: Labels = self.logits.argmax(axis=1)
        return predicted


def score_model(config: Config, model: "LoadedAdapter", version: str, rows: "Split", *, speed: bool = False) -> ModelScores:
    """Score rows and their perturbed texts for the robustness suite; with `speed`, time some of them one by one."""
    from finsent.evaluation.robustness.suite import run_suite
    from finsent.evaluation.speed import measure_speed

    started, settings = time.perf_counter(), config.evaluation
    logits, seconds = timed_logits(config, model, rows.texts)

    def label(texts: Sequence[str]) -> Labels:
        predicted: Labels = timed_logits(config, model, texts)[0].argmax(axis=1)
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
            device=_device_name(model.device),
            price_per_hour=settings.price_per_hour,
            currency=settings.currency,
        )
    return ModelScores(
        version=version,
        manifest=model.manifest,
        logits=logits,
        checks=checks,
        scored_with=f"{model.engine}, {model.precision}",
        seconds=seconds,
        total_seconds=time.perf_counter() - started,
        speed=timed,
    )


def timed_logits(config: Config, model: "LoadedAdapter", texts: Sequence[str]) -> tuple[NDArray[np.float32], float]:
    """Logits [texts, 3], and the seconds that they took."""
    from finsent.models.predict import predict_logits

    started = time.perf_counter()
    logits = predict_logits(model, texts, token_budget=config.scoring.token_budget, progress=len(texts) > 1)
    return logits, time.perf_counter() - started


def measure_naive_split(
    config: Config, model: "LoadedAdapter", trained: "Split", held_out: float, leak: float
) -> "NaiveSplitRecord | None":
    """The score that a random split would have claimed, from a fixed sample of the training rows; None if there is none.

    `held_out` and `leak` are those of `naive_split_estimate`.
    """
    from finsent.evaluation.baselines import naive_split_estimate

    chosen = np.random.default_rng(0).permutation(len(trained.texts))[:_TRAINING_ROWS]
    if not len(chosen):
        return None
    logits, _ = timed_logits(config, model, [trained.texts[row] for row in chosen])
    training = float((logits.argmax(axis=1) == trained.labels[chosen]).mean())
    return naive_split_estimate(held_out, training, len(chosen), leak)


def build_test_evidence(
    config: Config,
    rows: "Split",
    own: ModelScores,
    champion: ModelScores | None,
    baselines: dict[str, Labels],
    origin: dict[str, Any],
) -> Evidence:
    """Evidence of a version on the held-out test rows, beside the champion and each baseline's predictions [rows].

    `origin` holds the sections that do not follow from predictions: data, leakage, round trip, digests.
    """
    return Evidence.model_validate(
        {
            **_own_sections(config, rows, own, champion, baselines["tfidf"]),
            "baselines": _against_baselines(rows, own.labels, baselines),
            "champion_compared": champion is not None,
            "champion": _against_champion(config, rows, own.labels, champion.labels) if champion is not None else None,
            "naive_split": own.naive,
            **origin,
        }
    )


def build_ad_hoc_evidence(config: Config, rows: "Split", own: ModelScores, origin: dict[str, Any]) -> Evidence:
    """The same figures for any labelled rows, without comparisons; the gate refuses it as incomplete."""
    return Evidence.model_validate({**_own_sections(config, rows, own, None, None), **origin})


def _own_sections(
    config: Config, rows: "Split", own: ModelScores, champion: ModelScores | None, baseline: Labels | None
) -> dict[str, Any]:
    from finsent.evaluation.calibration import calibration, expected_calibration_error
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.slices import score_slices, slice_rows
    from finsent.evaluation.statistics import bootstrap
    from finsent.models.predict import probabilities

    resamples, manifest = config.gate.bootstrap_resamples, own.manifest
    calibrated, intervals = calibration(
        own.logits,
        rows.labels,
        rows.groups,
        manifest.temperature,
        manifest.abstain_below,
        # the precision that the threshold was fitted to, which today's configuration may no longer say
        manifest.config.get("evaluation", {}).get("target_precision", config.evaluation.target_precision),
        resamples,
    )
    slices = slice_rows(rows.texts, rows.sources, rows.created_at)
    champion_labels = champion.labels if champion else None
    return {
        "model_name": config.registered_model,
        "model_version": own.version,
        "n_test": len(rows.texts),
        "metrics": compute_metrics(rows.labels, own.labels),
        "intervals": {**bootstrap(rows.labels, own.labels, rows.groups, resamples), **intervals},
        "slices": score_slices(slices, rows.labels, own.labels, baseline, rows.groups, champion_labels),
        "ece": expected_calibration_error(probabilities(own.logits, manifest.temperature), rows.labels),
        "temperature": manifest.temperature,
        "calibration": calibrated,
        "robustness": _robustness(own, champion, masked=config.data.mask_handles),
        "speed": own.speed,
        "scored_with": own.scored_with,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _against_baselines(rows: "Split", own: Labels, baselines: dict[str, Labels]) -> dict[str, BaselineRecord]:
    """Each baseline's scores, and the paired test against it."""
    from finsent.evaluation.statistics import class_f1, confusion_matrix, mcnemar

    return {
        name: {
            "accuracy": float((predicted == rows.labels).mean()),
            "macro_f1": float(class_f1(confusion_matrix(rows.labels, predicted)).mean()),
            "mcnemar": mcnemar(rows.labels, own, predicted, rows.groups),
        }
        for name, predicted in baselines.items()
    }


def _against_champion(config: Config, rows: "Split", own: Labels, champion: Labels) -> ChampionRecord:
    """The champion's scores, the paired tests against it, and the difference that they could have detected."""
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.power import detectable_difference
    from finsent.evaluation.statistics import mcnemar, paired_bootstrap

    test = mcnemar(rows.labels, own, champion, rows.groups)
    return {
        "metrics": compute_metrics(rows.labels, champion),
        "mcnemar": test,
        "paired_bootstrap": paired_bootstrap(rows.labels, own, champion, rows.groups, config.gate.bootstrap_resamples),
        "power": detectable_difference(
            len(set(rows.groups)), test["only_a"] + test["only_b"], config.gate.alpha, config.gate.power
        ),
    }


def _robustness(own: ModelScores, champion: ModelScores | None, *, masked: bool) -> dict[str, RobustnessRecord]:
    records: dict[str, RobustnessRecord] = {}
    for name, check in own.checks.items():
        record = records[name] = check.copy()
        if masked:
            record["examples"] = [
                {**example, "original": mask_raw_handles(example["original"]), "changed": mask_raw_handles(example["changed"])}
                for example in record["examples"]
            ]
        if champion is not None and name in champion.checks:
            record["champion_failure_rate"] = champion.checks[name]["failure_rate"]
    return records


def _device_name(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return str(torch.cuda.get_device_name(device))
