"""Drift, and the decision whether to retrain."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from finsent.pipeline.monitor import MonitorReport
from flows.artifacts import monitor_report
from flows.events import emit_retrain_requested
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step()
def monitor_batches(setup: Setup) -> MonitorReport:
    """Compare the latest scoring batches with the champion's training data; ask for retraining when the rules say so."""
    from finsent.pipeline.monitor import monitor as run

    context = setup.load()
    report = run(context)
    create_markdown_artifact(monitor_report(report), key="drift", description=f"Decision: {report.decision}")
    if report.decision == "retrain":
        emit_retrain_requested(context.registry.name, list(report.reasons))
    return report


@flow(name="monitor", log_prints=False)
def monitor(setup: Setup = FROM_ENVIRONMENT) -> MonitorReport:
    """Look for drift; an event starts the retrain deployment when the decision is to retrain.

    Args:
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return monitor_batches(setup)
