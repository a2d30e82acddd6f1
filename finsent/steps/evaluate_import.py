"""Evaluate a version and ask the gate, without letting anything take effect."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from finsent.steps.context import Context

if TYPE_CHECKING:
    from finsent.pipeline.evaluate import EvaluationResult
    from finsent.registry.gate import Decision


@dataclass(frozen=True)
class ImportEvaluation:
    """What a version is worth; evaluation and verdict are both None where there is nothing to evaluate it on."""

    evaluation: "EvaluationResult | None"
    verdict: "Decision | None"
    """What the gate would decide now. Only `finsent promote` decides."""
    not_evaluated_because: str | None


def dry_run_gate(context: Context, version: str) -> ImportEvaluation:
    """Evaluate `version` on the held-out test split and say what the gate makes of it; moves no alias, writes no ledger.

    A home without test rows is no error: it is said, with what to do.

    Raises:
        InputError: no such version.
        ArtifactError: the version is not what was registered.
        Refused: a new process cannot load the version from the registry.
    """
    from finsent.data import tables
    from finsent.data.dataset import data_version
    from finsent.pipeline.evaluate import evaluate
    from finsent.steps.promote import preview_decision

    missing = None
    if tables.version(context.workspace, "tweets") is None:
        missing = "there is no data in this home yet"
    elif not data_version(context.workspace).rows.get("test"):
        missing = "the data of this home has no test rows"
    if missing is not None:
        return ImportEvaluation(None, None, f"{missing}: run `finsent ingest`, then `finsent evaluate --version {version}`.")
    evaluation = evaluate(context, version=version)
    return ImportEvaluation(evaluation, preview_decision(context, version), None)
