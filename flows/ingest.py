"""Labelled sources into the table `tweets`."""

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from finsent.config import Source
from finsent.data.ingest_report import IngestReport
from flows import links
from flows.artifacts import data_report
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step()
def ingest_sources(setup: Setup, sources: tuple[Source, ...]) -> IngestReport:
    """Read, check, deduplicate, split and commit."""
    from finsent.steps.ingest import ingest as run

    config, home = setup.load()
    return run(config, home, sources)


@step()
def report_version(setup: Setup, report: IngestReport) -> None:
    """Write the page of a new version, log it to MLflow and show it here. A task of its own: MLflow may be away for a while."""
    from finsent.pipeline.data_report import report_ingestion

    config, home = setup.load()
    published = report_ingestion(config, home, report)
    facts = published.facts if published else None
    create_markdown_artifact(data_report(report, facts), key="data-report", description=f"Data version {report.version}")
    page = links.run_page(home, published.run_id) if published and published.run_id else None
    if page:
        create_link_artifact(page, link_text=f"Data version {report.version} in MLflow", key="mlflow-data")


@flow(name="ingest", log_prints=False)
def ingest(sources: tuple[Source, ...] = (), setup: Setup = FROM_ENVIRONMENT) -> IngestReport:
    """Read labelled sources into a new data version.

    Args:
        sources: What to read; left empty, the configured `data.sources`.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    report = ingest_sources(setup, sources)
    report_version(setup, report)
    return report
