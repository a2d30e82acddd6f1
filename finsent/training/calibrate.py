"""After training: load the saved adapter afresh, fit temperature and abstain threshold, record the probe, seal the manifest."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.config import Config
from finsent.evaluation.calibration import fit_abstain_threshold, fit_temperature
from finsent.labels import LABELS
from finsent.models.abstention import ABSTAIN_BELOW
from finsent.models.manifest import PROBE, Manifest, write_manifest
from finsent.provenance import git_sha, lock_hash
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from finsent.training.trainer import LabelledRows, TrainingResult

_log = logging.getLogger(__name__)

PROBE_TEXTS = 16
"""Validation texts whose logits are recorded with the adapter, for the round-trip check."""


def calibrate_adapter(
    config: Config,
    workspace: Workspace,
    data: tuple[int, str],
    trained: "TrainingResult",
    validation: "LabelledRows",
    groups: Sequence[str],
) -> "tuple[NDArray[np.float32], Manifest]":
    """Calibrate a fresh load of what was saved on its validation logits, and write probe and manifest beside it.

    Args:
        config: Settings of the training.
        workspace: Where bases are cached.
        data: Version and fingerprint of the data that it was trained on.
        trained: What the training loop left.
        validation: Validation rows.
        groups: Near-duplicate group of each of them; rows of a group count as one when the threshold is fitted.

    Returns:
        Validation logits [rows, 3] of the fresh load, and the manifest with temperature and threshold; its files are not
        listed yet, since the model card is still to come: `write_manifest` seals it.
    """
    from finsent.models.adapter import head_sha256, load_adapter
    from finsent.models.load import prepare_for_inference
    from finsent.models.predict import predict_logits, probabilities

    manifest = make_manifest(config, *data, trained)
    write_manifest(trained.adapter, manifest)
    loaded = load_adapter(trained.adapter, workspace)
    texts = list(validation.texts[:PROBE_TEXTS])
    # by the reference engine, which the round-trip check uses too
    probe = {"texts": texts, "logits": predict_logits(loaded, texts).tolist(), "head_sha256": head_sha256(loaded.model)}
    Path(trained.adapter / PROBE).write_text(json.dumps(probe), encoding="utf-8")
    loaded = prepare_for_inference(loaded, config.engine, rows=len(validation.texts))
    logits = predict_logits(loaded, validation.texts, token_budget=config.scoring.token_budget, progress=True)
    temperature = fit_temperature(logits, validation.labels)
    target = config.evaluation.target_precision
    threshold = fit_abstain_threshold(probabilities(logits, temperature), validation.labels, target, groups)
    if threshold is None:
        _log.warning(
            "no confidence threshold is shown to reach a precision of %g on %d validation rows: the version abstains below %g",
            target,
            len(validation.labels),
            ABSTAIN_BELOW,
        )
    return logits, manifest.model_copy(update={"temperature": temperature, "abstain_below": threshold})


def make_manifest(config: Config, data_version: int, data_fingerprint: str, trained: "TrainingResult") -> "Manifest":
    """Manifest of a newly trained adapter; its files are not listed yet."""
    return Manifest(
        base_name=config.model.name,
        base_revision=trained.base.revision,
        base_fingerprint=trained.base.fingerprint,
        embedded=config.model.embedded,
        quantization=config.model.quantization,
        labels=LABELS,
        max_length=config.model.max_length,
        padding_side=config.model.padding_side,
        pad_token_id=trained.pad_token_id,
        data_version=data_version,
        data_fingerprint=data_fingerprint,
        split_rule="not on record",
        config=config.model_dump(mode="json"),
        git_sha=git_sha(),
        lock_hash=lock_hash(),
    )
