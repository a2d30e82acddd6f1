"""Drift of the champion's scoring batches against its training data and its first batch. Reads tables, writes nothing."""

import logging
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from finsent.config import MonitorConfig
from finsent.data import tables
from finsent.data.predictions import ModelIdentity, predicted_by
from finsent.data.table_access import UnreadableVersionError
from finsent.errors import one_line
from finsent.labels import LABELS
from finsent.monitoring.drift import Drift, categorical_drift, numeric_drift
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Window:
    """One scoring run of the champion, held against its reference."""

    run_id: str
    scored_at: datetime
    """First row of the run."""
    rows: int
    psi: dict[str, float]
    """Population stability index by feature; a feature without a reference is left out."""
    p_values: dict[str, float]
    """Chance of such a shift without any drift, by feature."""
    drifted: bool
    """Whether a feature shifted by more than the threshold, and not by chance."""


@dataclass(frozen=True)
class _Batch:
    """What is looked at of a set of rows; an empty array where it is not known."""

    classes: list[int]
    """Rows by class, in label-id order."""
    lengths: NDArray[np.float64]
    """Characters of each text."""
    confidence: NDArray[np.float64]


def batch_drift(home: Workspace, model: ModelIdentity, trained_on: int | None, rules: MonitorConfig) -> tuple[Window, ...]:
    """The latest `monitor.windows` batches that a model scored, oldest first, each compared with its references.

    Features: `class_mix` and `length` against the training and validation rows of data version `trained_on`;
    `class_mix_since_first` and `confidence` against the model's first batch.
    """
    return tuple(_windows(_runs(home, model, rules.windows), _labelled(home, trained_on), rules))


def _windows(runs: "_Runs", labelled: _Batch | None, rules: MonitorConfig) -> list[Window]:
    windows = []
    for run_id, scored_at in runs.latest:
        rows = runs.rows(run_id)
        since_first = None if run_id == runs.first else _batch(runs.rows(runs.first))
        drifts = _drifts(_batch(rows), labelled, since_first)
        windows.append(
            Window(
                run_id=run_id,
                scored_at=scored_at,
                rows=len(rows),
                psi={feature: drift.psi for feature, drift in drifts.items()},
                p_values={feature: drift.p_value for feature, drift in drifts.items()},
                drifted=any(drift.exceeds(rules.psi_threshold) for drift in drifts.values()),
            )
        )
    return windows


def _drifts(batch: _Batch, labelled: _Batch | None, first: _Batch | None) -> dict[str, Drift]:
    drifts = {}
    if labelled:
        drifts["class_mix"] = categorical_drift(labelled.classes, batch.classes)
        if batch.lengths.size:
            drifts["length"] = numeric_drift(labelled.lengths, batch.lengths)
    if first:
        drifts["class_mix_since_first"] = categorical_drift(first.classes, batch.classes)
        drifts["confidence"] = numeric_drift(first.confidence, batch.confidence)
    return drifts


def _labelled(home: Workspace, version: int | None) -> _Batch | None:
    """The rows that the champion was trained and calibrated on; None if they are not in this home, or no longer."""
    import pyarrow.compute as pc

    current = tables.version(home, "tweets")
    if current is None or version is None or version > current:
        return None
    try:
        rows = tables.read(home, "tweets", version=version, columns=["text", "label"], filters=[("split", "!=", "test")])
    except UnreadableVersionError as error:
        _log.warning("class mix and length are not compared with the training: %s", one_line(error))
        return None
    if not len(rows):
        return None
    return _Batch(_class_counts(rows), _numbers(pc.utf8_length(rows["text"])), np.empty(0))


@dataclass(frozen=True)
class _Runs:
    """The champion's scoring runs that are looked at."""

    first: str
    latest: list[tuple[str, datetime]]
    """Run id and start, oldest first."""
    table: "pa.Table"
    """Their rows, each with the length of its text, null where the inbox no longer has it."""

    def rows(self, run_id: str) -> "pa.Table":
        import pyarrow.compute as pc

        return self.table.filter(pc.equal(self.table["run_id"], run_id))


def _runs(home: Workspace, model: ModelIdentity, windows: int) -> _Runs:
    import pyarrow as pa
    import pyarrow.compute as pc

    columns = ["id", "label", "confidence", "run_id", "scored_at"]
    scored = tables.read(home, "predictions", columns=columns, filters=predicted_by(model))
    starts = scored.group_by("run_id").aggregate([("scored_at", "min")])
    order = [("scored_at_min", "ascending"), ("run_id", "ascending")]
    starts = [(row["run_id"], row["scored_at_min"]) for row in starts.sort_by(order).to_pylist()]
    if not starts:
        return _Runs("", [], scored)
    first, latest = starts[0][0], starts[-windows:]
    scored = scored.filter(pc.is_in(scored["run_id"], value_set=pa.array([first, *(run_id for run_id, _ in latest)])))
    inbox = tables.read(home, "inbox", columns=["id", "text"])
    lengths = inbox.append_column("length", pc.utf8_length(inbox["text"])).group_by("id").aggregate([("length", "max")])
    return _Runs(first, latest, scored.join(lengths, "id", join_type="left outer"))


def _batch(rows: "pa.Table") -> _Batch:
    return _Batch(_class_counts(rows), _numbers(rows["length_max"].drop_null()), _numbers(rows["confidence"]))


def _class_counts(rows: "pa.Table") -> list[int]:
    counted = {item["values"]: item["counts"] for item in rows["label"].value_counts().to_pylist()}
    return [int(counted.get(label, 0)) for label in LABELS]


def _numbers(column: "pa.ChunkedArray") -> NDArray[np.float64]:
    return np.asarray(column.to_numpy(), dtype=np.float64)
