"""Labelled sources into the table `tweets`: read each source, group, commit, report."""

from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.client.schemas.objects import State
from prefect.utilities.annotations import opaque

from finsent.config import Source
from finsent.data.existing_rows import Grouping, ReadRows
from finsent.data.ingest_report import IngestReport
from finsent.data.sources.reading import ResolvedSource
from finsent.steps import ingest as step
from finsent.steps.context import Context
from finsent.steps.data_report import DataReport, report_ingestion
from flows import artifacts
from flows.artifacts import data_report
from flows.settings import FROM_ENVIRONMENT, FlowSettings, describe_run, resolved, run_name
from flows.tasks import retrying_task, show, skipped


@retrying_task("resolve sources")
def resolve_sources(context: Context, sources: tuple[Source, ...]) -> list[list[ResolvedSource]]:
    """Find the files behind each source."""
    return step.resolve_sources(context, sources)


@retrying_task("read {name}")
def read_source(context: Context, name: str, staging: Any, source: Any) -> ReadRows:  # noqa: ARG001 - names the run
    """Read and check one source into the staging area."""
    return step.read_source(context, staging, source)


@retrying_task("group near duplicates")
def group_near_duplicates(context: Context, parts: Any) -> Grouping:
    """Group all rows read with those of the table."""
    return step.group_near_duplicates(context, parts)


@retrying_task("commit")
def commit(context: Context, grouping: Any) -> IngestReport:
    """Assign splits, audit for leaks, and write tweets, quarantine and signatures."""
    return step.commit(context, grouping)


@retrying_task("write report of data-v{committed.version}")
def write_report(context: Context, grouping: Any, committed: IngestReport) -> IngestReport:
    """Write the report file. Apart from `commit`, which finds no new row when it runs again."""
    return step.write_report(context, grouping, committed)


@retrying_task("report data-v{report.version}")
def report_version(context: Context, report: IngestReport) -> DataReport | None:
    """Write the page of a new version and log it to MLflow. A task of its own: MLflow may be away for a while."""
    return report_ingestion(context, report)


@retrying_task("show data-v{report.version}")
def show_version(context: Context, report: IngestReport, published: Any) -> None:
    """Publish where every row went, and the link to the data version in MLflow."""
    facts = published.facts if published else None
    create_markdown_artifact(data_report(report, facts), key="data-report", description=f"Data version {report.version}")
    page = artifacts.run_page(context.workspace, published.run_id) if published and published.run_id else None
    if page:
        create_link_artifact(page, link_text=f"Data version {report.version} in MLflow", key="mlflow-data")


@flow(name="ingest", flow_run_name=run_name("ingest, {data} so far"), log_prints=False)
def ingest(sources: tuple[Source, ...] = (), settings: FlowSettings = FROM_ENVIRONMENT) -> IngestReport | State[IngestReport]:
    """Read labelled sources into a new data version. Skipped where there are none.

    Args:
        sources: What to read; left empty, the configured `data.sources`.
        settings: Configuration and home; left empty, the worker's environment decides.
    """
    with resolved(settings) as context, step.staging_area(context) as staging:
        if not sources and not context.config.data.sources:
            return skipped("Nothing to ingest: `data.sources` of the configuration is empty, and no source was named.")
        resolved_sources = resolve_sources(context, sources)
        parts = [
            read_source(
                context, ", ".join(dict.fromkeys(file.name for _, files in source for file in files)), staging, opaque(source)
            )
            for source in resolved_sources
        ]
        grouping = group_near_duplicates(context, opaque(parts))
        committed = commit(context, opaque(grouping))
        report = write_report(context, opaque(grouping), committed)
        linked = describe_run(context, f"ingest data-v{report.version}", data=report.version)
        published = report_version(linked, report)
        show(show_version, context, report, opaque(published))
    return report
