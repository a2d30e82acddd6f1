"""A version's evidence on the held-out test split."""

from prefect import flow
from prefect.artifacts import create_link_artifact, create_table_artifact

from finsent.pipeline.evaluate import EvaluationResult
from flows import links
from flows.artifacts import metrics_rows
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step()
def evaluate_version(setup: Setup, version: str | None) -> EvaluationResult:
    """Score the test split with a fresh load of the version; publish scores beside the floor's and the champion's."""
    from finsent.pipeline.evaluate import evaluate as run

    context = setup.load()
    result = run(context, version=version)
    create_table_artifact(
        metrics_rows(result.evidence),
        key="metrics",
        description=f"Version {result.model_version}, {result.evidence.n_test} test rows",
    )
    page = links.version_page(context.workspace, context.registry.name, result.model_version)
    if page:
        create_link_artifact(page, link_text=f"Version {result.model_version} of {context.registry.name}", key="mlflow-model")
    return result


@flow(name="evaluate", log_prints=False)
def evaluate(version: str | None = None, setup: Setup = FROM_ENVIRONMENT) -> EvaluationResult:
    """Gather a version's evidence; the gate reads it later.

    Args:
        version: Registered version; left out, the newest.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return evaluate_version(setup, version)
