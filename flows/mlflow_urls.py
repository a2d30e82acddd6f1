"""Where a person looks at a run or a version in MLflow."""

from finsent.registry.tracking import public_uri
from finsent.workspace import Workspace


def run_page(home: Workspace, run_id: str) -> str | None:
    """URL of a run's page, or None when MLflow is a store without a server."""
    if not home.tracking_uri.startswith("http"):
        return None
    from mlflow import MlflowClient

    experiment = MlflowClient(home.tracking_uri).get_run(run_id).info.experiment_id
    return f"{public_uri(home.tracking_uri).rstrip('/')}/#/experiments/{experiment}/runs/{run_id}"


def version_page(home: Workspace, model: str, version: str) -> str | None:
    """URL of a registered version's page, or None when MLflow is a store without a server."""
    if not home.tracking_uri.startswith("http"):
        return None
    return f"{public_uri(home.tracking_uri).rstrip('/')}/#/models/{model}/versions/{version}"


def how_to_open(home: Workspace) -> str:
    """The command that opens MLflow's pages on a store without a server."""
    return f"mlflow ui --backend-store-uri {public_uri(home.tracking_uri)}"
