"""The prediction step: a version labels a few texts at once; nothing is stored."""

from collections.abc import Sequence
from dataclasses import dataclass

from finsent.errors import escape_invalid
from finsent.models.abstention import abstain_threshold
from finsent.registry.champion import require_champion
from finsent.registry.client import version_number
from finsent.steps.context import Context


@dataclass(frozen=True)
class Prediction:
    """One text's label."""

    text: str
    label: str | None
    """None where scoring would quarantine the text: `reason` says why."""
    confidence: float | None
    """Calibrated probability of the label."""
    abstained: bool
    """Whether the confidence is below the version's threshold, or `scoring.abstain_below` where that is set."""
    probabilities: dict[str, float]
    """Calibrated probability of each class."""
    reason: str | None = None


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
        CheckFailed: the alias is not where the audit log's decisions put it.
        InputError: there is no such version.
        ArtifactError: the adapter does not match its manifest.
    """
    from finsent.models.predict import predict_rows
    from finsent.scoring.predictor import load_with_fp8_check

    config, registry = context.config, context.registry
    version = version_number(version) or require_champion(registry)
    loaded = load_with_fp8_check(config.engine, context.workspace, registry.adapter_path(version), rows=len(texts))
    threshold = abstain_threshold(loaded.manifest, config.scoring.abstain_below)
    data = config.data
    rules = {"repaired": data.repair_mojibake, "masked": data.mask_handles}
    found = predict_rows(loaded, texts, threshold=threshold, max_characters=data.max_characters, **rules)
    named = (Prediction(escape_invalid(text), **vars(row)) for text, row in zip(texts, found, strict=True))
    return PredictResult(config.registered_model, version, tuple(named))
