"""Labelled sources into the table `tweets`."""

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from finsent.config import Source
from finsent.pipeline.ingest import IngestReport
from flows.artifacts import data_report
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step()
def ingest_sources(setup: Setup, sources: tuple[Source, ...]) -> IngestReport:
    """Read, check, deduplicate, split and commit; publish the data report."""
    from finsent.pipeline.ingest import ingest as run

    config, home = setup.load()
    report = run(config, home, sources)
    create_markdown_artifact(data_report(report), key="data-report", description=f"Data version {report.version}")
    return report


@flow(name="ingest", log_prints=False)
def ingest(sources: tuple[Source, ...] = (), setup: Setup = FROM_ENVIRONMENT) -> IngestReport:
    """Read labelled sources into a new data version.

    Args:
        sources: What to read; left empty, the configured `data.sources`.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return ingest_sources(setup, sources)
