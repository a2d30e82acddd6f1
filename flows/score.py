"""Batch inference by the champion: receive what arrived, score what is pending."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Completed

from finsent.config import InboxSource
from finsent.steps import score as step
from finsent.steps.context import Context
from finsent.steps.score import ScoreReport
from flows.artifacts import not_read_message, predictions_report
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import missing_champion, retrying_task, show, skipped


@retrying_task("score pending rows")
def score_pending(context: Context, files: tuple[str, ...]) -> ScoreReport:
    """Score what has no prediction of the champion yet. Idempotent: a second run finds nothing to do."""
    return step.score(context, files=tuple(InboxSource(uri=file) for file in files))


@retrying_task("show {report.scored} predictions")
def show_predictions(report: ScoreReport) -> None:
    """Publish counts and class mix."""
    create_markdown_artifact(predictions_report(report), key="predictions", description=f"{report.scored} scored")


@flow(name="score", flow_run_name=run_name("score inbox with {model}"), log_prints=False)
def score(files: tuple[str, ...] = (), settings: FlowSettings = FROM_ENVIRONMENT) -> ScoreReport | State[ScoreReport]:
    """Score the inbox. Skipped until the first promotion, except where files are given: they would not be received.

    Completed with the state "Not all read" where a file of `scoring.sources` is set aside or a source could not be reached: the
    rest was received and scored, and somebody has to look.

    Args:
        files: Files of unlabelled tweets to put into the inbox first; left out, what is new in `scoring.sources`.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        if not files and (reason := missing_champion(context)):
            return skipped(reason)
        report = score_pending(context, files)
        nothing = not (report.scored or report.received or report.quarantined or report.not_read)
        about = "nothing to score" if nothing else f"score {report.scored:,} tweets"
        name = f"{about} with version {report.model_version} of {context.config.registered_model}"
        describe_run(context, name, version=report.model_version)
        if not nothing:
            show(show_predictions, report)
    if report.not_read:
        return Completed(name="Not all read", message=not_read_message(report), data=report)
    return skipped("No tweet was waiting.", report) if nothing else report
