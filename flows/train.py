"""One training, registered as a version."""

from prefect import flow
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact

from finsent.pipeline.train import TrainResult
from flows import links
from flows.parameters import FROM_ENVIRONMENT, Setup
from flows.steps import step


@step(retries=1, first_delay=30.0)
def train_version(setup: Setup, resume: str | None) -> TrainResult:
    """Train on the newest data version; publish the figures and the way to the MLflow run."""
    from finsent.pipeline.train import train as run

    context = setup.load()
    result = run(context, resume=resume)
    create_table_artifact(
        [
            {"figure": "rows", "value": result.rows},
            {"figure": "optimiser steps", "value": result.steps},
            {"figure": "seconds", "value": round(result.seconds, 1)},
            {"figure": "rows per second", "value": round(result.rows_per_second, 1)},
            *({"figure": f"validation {name}", "value": round(value, 4)} for name, value in result.validation.items()),
        ],
        key="training",
        description=f"Version {result.model_version} of {context.registry.name}",
    )
    page = links.run_page(context.workspace, result.run_id)
    if page:
        create_link_artifact(page, link_text=f"Training run {result.run_id}", key="mlflow-run")
    else:
        create_markdown_artifact(f"Run `{result.run_id}`: open with `{links.how_to_open(context.workspace)}`", key="mlflow-run")
    return result


@flow(name="train", log_prints=False)
def train(resume: str | None = None, setup: Setup = FROM_ENVIRONMENT) -> TrainResult:
    """Train and register one version. Nothing is promoted.

    Args:
        resume: MLflow run to take up again from its last checkpoint; left out, a new training.
        setup: Configuration and home; left empty, the worker's environment decides.
    """
    return train_version(setup, resume)
