"""Drift, and the decision whether to retrain: compare, decide, announce."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State

from finsent.steps import monitor as step
from finsent.steps.context import Context
from finsent.steps.monitor import BatchDrift, MonitorReport
from flows.approve import close_forms
from flows.artifacts import monitor_report
from flows.second_try import try_again
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import emit_retrain_requested, missing_champion, retrying_task, show, skipped


@retrying_task("compare latest batches")
def compare_batches(context: Context) -> BatchDrift:
    """Compare the champion's latest scoring batches with its training data and its first batch."""
    return step.compare_batches(context)


@retrying_task("decide on retraining")
def decide(context: Context, found: BatchDrift) -> MonitorReport:
    """Apply the retraining policy."""
    return step.decide(context, found)


@retrying_task("announce {report.decision}")
def announce(model: str, report: MonitorReport) -> None:
    """Emit the event that starts the retrain deployment where the policy asks for it."""
    if report.decision == "retrain":
        emit_retrain_requested(model, list(report.reasons))


@retrying_task("show drift of version {report.model_version}")
def show_drift(report: MonitorReport) -> None:
    """Publish drift by feature and the decision."""
    create_markdown_artifact(monitor_report(report), key="drift", description=f"Decision: {report.decision}")


@flow(name="monitor", flow_run_name=run_name("monitor {model}"), log_prints=False)
def monitor(settings: FlowSettings = FROM_ENVIRONMENT) -> MonitorReport | State[MonitorReport]:
    """Look for drift; an event starts the retrain deployment when the decision is to retrain. Skipped until the first promotion.

    A retraining that failed is tried again, see `second_try`.

    Args:
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        show(close_forms, context)
        try_again()
        if reason := missing_champion(context):
            return skipped(reason)
        report = decide(context, compare_batches(context))
        announce(context.config.registered_model, report)
        name = f"monitor version {report.model_version} of {context.config.registered_model}: {report.decision}"
        describe_run(context, name, version=report.model_version)
        show(show_drift, report)
    return report
