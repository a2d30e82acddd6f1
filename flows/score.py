"""Batch inference by the champion."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from finsent.pipeline.score import ScoreReport
from flows.artifacts import predictions_report
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step()
def score_inbox(setup: Setup, files: tuple[str, ...]) -> ScoreReport:
    """Score what has no prediction of the champion's yet; a second run finds nothing to do."""
    from finsent.pipeline.score import score as run

    context = setup.load()
    report = run(context, files=tuple(Path(file) for file in files))
    create_markdown_artifact(predictions_report(report), key="predictions", description=f"{report.scored} scored")
    return report


@flow(name="score", log_prints=False)
def score(files: tuple[str, ...] = (), setup: Setup = FROM_ENVIRONMENT) -> ScoreReport:
    """Score the inbox.

    Args:
        files: Files of unlabelled tweets to put into the inbox first.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return score_inbox(setup, files)
