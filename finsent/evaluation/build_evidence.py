"""From logits to evidence: everything that the gate will want to know, put together. Scores nothing itself."""

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config
from finsent.data.masking import mask_shown
from finsent.evaluation.evidence import Evidence

if TYPE_CHECKING:
    from finsent.data.dataset import Split
    from finsent.evaluation.evidence import NaiveSplitRecord
    from finsent.evaluation.robustness import Check
    from finsent.evaluation.speed import Speed
    from finsent.model.manifest import Manifest

Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ModelScores:
    """What scoring a fresh load gave."""

    version: str
    manifest: "Manifest"
    logits: NDArray[np.float32]
    """Of the rows that are evaluated [rows, 3]."""
    checks: "dict[str, Check]"
    """The robustness suite."""
    scored_with: str
    """Engine and type of weights."""
    seconds: float
    """That the logits took, tokenising included."""
    speed: "Speed | None" = None
    naive: "NaiveSplitRecord | None" = None

    @property
    def labels(self) -> Labels:
        """Predicted label ids [rows]."""
        predicted: Labels = self.logits.argmax(axis=1)
        return predicted


def scores(config: Config, rows: "Split", own: ModelScores, rival: ModelScores | None, floor: Labels | None) -> dict[str, Any]:
    """What any labelled rows say of a version: scores with intervals, slices, calibration, robustness, speed.

    `rival` is the champion on the same rows, `floor` the predictions of the TF-IDF floor.
    """
    from finsent.evaluation.calibration import calibration, expected_calibration_error
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.slices import score_slices, slice_rows
    from finsent.evaluation.statistics import bootstrap
    from finsent.model.engine import probabilities

    resamples, manifest = config.gate.bootstrap_resamples, own.manifest
    calibrated, intervals = calibration(
        own.logits,
        rows.labels,
        rows.groups,
        manifest.temperature,
        manifest.abstain_below,
        # what the threshold was fitted to, which the configuration of now may no longer say
        manifest.config.get("evaluation", {}).get("target_precision", config.evaluation.target_precision),
        resamples,
    )
    dimensions = slice_rows(rows.texts, rows.sources, rows.created_at)
    return {
        "model_name": config.registered_model,
        "model_version": own.version,
        "n_test": len(rows.texts),
        "metrics": compute_metrics(rows.labels, own.labels),
        "intervals": {**bootstrap(rows.labels, own.labels, rows.groups, resamples), **intervals},
        "slices": score_slices(dimensions, rows.labels, own.labels, floor, rows.groups, rival.labels if rival else None),
        "ece": expected_calibration_error(probabilities(own.logits, manifest.temperature), rows.labels),
        "temperature": manifest.temperature,
        "calibration": calibrated,
        "robustness": _robustness(own, rival, masked=config.data.mask_handles),
        "speed": own.speed,
        "scored_with": own.scored_with,
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def compared_with_floors(rows: "Split", own: Labels, floors: dict[str, Labels]) -> dict[str, Any]:
    """Each floor's scores, and the paired test against it."""
    from finsent.evaluation.statistics import class_f1, confusion_matrix, mcnemar

    return {
        name: {
            "accuracy": float((guess == rows.labels).mean()),
            "macro_f1": float(class_f1(confusion_matrix(rows.labels, guess)).mean()),
            "mcnemar": mcnemar(rows.labels, own, guess, rows.groups),
        }
        for name, guess in floors.items()
    }


def compared_with_champion(config: Config, rows: "Split", own: Labels, rival: Labels) -> dict[str, Any]:
    """The champion's scores, the paired tests against it, and what they could have seen."""
    from finsent.evaluation.metrics import compute_metrics
    from finsent.evaluation.power import detectable_difference
    from finsent.evaluation.statistics import mcnemar, paired_bootstrap

    test = mcnemar(rows.labels, own, rival, rows.groups)
    return {
        "metrics": compute_metrics(rows.labels, rival),
        "mcnemar": test,
        "paired_bootstrap": paired_bootstrap(rows.labels, own, rival, rows.groups, config.gate.bootstrap_resamples),
        "power": detectable_difference(len(set(rows.groups)), test.only_a + test.only_b, config.gate.alpha, config.gate.power),
    }


def evidence_of(sections: dict[str, Any]) -> Evidence:
    """The typed object."""
    return Evidence.model_validate(sections)


def _robustness(own: ModelScores, rival: ModelScores | None, *, masked: bool) -> dict[str, Any]:
    found = {name: asdict(check) for name, check in own.checks.items()}
    for name, record in found.items():
        if masked:
            shown = ("original", "changed")
            record["examples"] = [example | {key: mask_shown(example[key]) for key in shown} for example in record["examples"]]
        if rival is not None and name in rival.checks:
            record["champion_failure_rate"] = rival.checks[name].failure_rate
    return found
