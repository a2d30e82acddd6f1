"""Maintenance: remove what nothing needs any more, compact and vacuum the tables."""

from typing import Annotated

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.states import Failed
from pydantic import Field

from finsent.errors import escape_control
from finsent.steps import maintain as step
from finsent.steps.context import Context
from finsent.steps.maintain import MaintenanceResult
from flows.artifacts import maintenance_report
from flows.settings import FROM_ENVIRONMENT, FlowSettings, resolved, run_name
from flows.tasks import missing_champion, retrying_task, show, skipped

Days = Annotated[int, Field(ge=1, le=36_500)]  # a century: more days would leave the calendar


@retrying_task("maintain workspace")
def maintain_workspace(context: Context, days: int, inbox_days: int | None, retention_days: int) -> MaintenanceResult:
    """Remove, compact and vacuum. Idempotent: a second run finds nothing to do."""
    return step.maintain(context, days=days, inbox_days=inbox_days, retention_days=retention_days)


@retrying_task("show maintenance")
def show_maintenance(done: MaintenanceResult) -> None:
    """Publish what was done."""
    about = f"{len(done.problems)} tables could not be looked after" if done.problems else f"{done.bytes:,} bytes freed"
    create_markdown_artifact(maintenance_report(done), key="maintenance", description=about)


@flow(name="maintain", flow_run_name=run_name("maintain {model}"), log_prints=False)
def maintain(
    days: Days = 30,
    inbox_days: Days | None = None,
    retention_days: Days = 7,
    settings: FlowSettings = FROM_ENVIRONMENT,
) -> MaintenanceResult | State[MaintenanceResult]:
    """Remove what nothing needs, and look after the tables. Skipped where nothing is to be done; failed where a table is broken.

    Trainings, scoring and ingestion may run meanwhile: what they use is locked, or younger than what is removed.

    Args:
        days: Leave files and folders that were changed since then.
        inbox_days: Remove scored inbox rows received earlier, too; left out, none. Before the first promotion none is scored.
        retention_days: Leave files of earlier table versions so long, for whoever reads them. `tweets` keeps all of its versions.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context:
        if inbox_days is not None and missing_champion(context):
            inbox_days = None
        done = maintain_workspace(context, days, inbox_days, retention_days)
        if not done.is_empty:
            show(show_maintenance, done)
    if done.problems:
        return Failed(name="Not all maintained", message=escape_control("; ".join(done.problems)), data=done)
    return skipped("Nothing to remove, compact or vacuum.", done) if done.is_empty else done
