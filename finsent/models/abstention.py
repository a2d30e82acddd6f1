"""The abstain rule: a prediction whose calibrated confidence is below the version's threshold counts as no answer.

The threshold is fitted to `evaluation.target_precision` on validation rows (`finsent.evaluation.calibration`) and kept in the
manifest; `scoring.abstain_below` overrides it.
"""

from typing import Any, Final

import numpy as np

from finsent.models.manifest import Manifest

ABSTAIN_BELOW: Final = 0.5
"""Threshold of a version that has none of its own."""


def abstain_threshold(manifest: Manifest, override: float | None = None) -> float:
    """Confidence below which a prediction abstains: `override`, else the version's own, else `ABSTAIN_BELOW`."""
    own = ABSTAIN_BELOW if manifest.abstain_below is None else manifest.abstain_below
    return own if override is None else override


def abstains(confidence: Any, threshold: float) -> Any:
    """Whether predictions of this confidence, a number or an array of them, abstain; what is no number does."""
    return ~(np.asarray(confidence) >= threshold)
