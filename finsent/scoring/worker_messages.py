"""What a worker process, or an actor on Ray, says of itself: that it has loaded the model, or why it cannot go on."""

import traceback
from dataclasses import dataclass

from finsent.errors import DeviceError
from finsent.models.manifest import Manifest
from finsent.scoring.predictor import EngineInfo


@dataclass(frozen=True)
class ModelReady:
    """The model is loaded."""

    engine: EngineInfo
    manifest: Manifest


@dataclass(frozen=True)
class WorkerFailure:
    """An exception, as plain text: its type may not exist on the other side."""

    error: str
    trace: str


def describe_failure(error: Exception) -> WorkerFailure:
    """The exception that is being handled."""
    return WorkerFailure(f"{type(error).__name__}: {error}", traceback.format_exc())


def interrupted(what: str, trace: str = "") -> DeviceError:
    """The error that ends the run, after chunks that were committed; `trace` is of the other side."""
    error = DeviceError(f"{what}. What was committed stands; run this again to go on.")
    error.__cause__ = RuntimeError(trace) if trace else None
    return error
