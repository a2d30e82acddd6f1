"""Label a few texts at once, without touching any table."""

from collections.abc import Sequence
from dataclasses import dataclass

from finsent.steps.context import Context


@dataclass(frozen=True)
class Prediction:
    """One text's label."""

    text: str
    label: str
    confidence: float
    """Calibrated probability of the label."""
    abstained: bool
    """Whether the confidence is below the version's threshold, or `scoring.abstain_below` where that is set."""
    probabilities: dict[str, float]
    """Calibrated probability of each class."""


@dataclass(frozen=True)
class PredictResult:
    """Labels and who gave them."""

    model_name: str
    model_version: str
    predictions: tuple[Prediction, ...]


def predict(context: Context, texts: Sequence[str], *, version: str | None = None) -> PredictResult:
    """Label texts by a version, the champion if none is named.

    Raises:
        NoChampionError: there is no champion yet.
        InputError: there is no such version.
        ArtifactError: the adapter does not match its manifest.
    """
    from finsent.models.abstention import abstain_threshold, abstains
    from finsent.models.predict import predict_logits, probabilities
    from finsent.scoring.predictor import load_with_fp8_check

    config, registry = context.config, context.registry
    version = version or registry.require_champion()
    loaded = load_with_fp8_check(config.engine, context.workspace, registry.adapter_path(version), rows=len(texts))
    labels, threshold = loaded.manifest.labels, abstain_threshold(loaded.manifest, config.scoring.abstain_below)
    rows = probabilities(predict_logits(loaded, texts), loaded.manifest.temperature)
    found = []
    for text, row in zip(texts, rows.tolist(), strict=True):
        by_label = dict(zip(labels, row, strict=True))
        label = max(by_label, key=lambda name: by_label[name])
        found.append(Prediction(text, label, by_label[label], abstains(by_label[label], threshold), by_label))
    return PredictResult(config.registered_model, version, tuple(found))
