"""The two events that chain deployments; `prefect.yaml` holds the triggers that wait for them."""

from prefect.events import emit_event

PROMOTED = "finsent.model.promoted"
RETRAIN_REQUESTED = "finsent.retrain.requested"


def emit_promoted(model: str, version: str, before: str | None) -> None:
    """Say that `version` now carries the alias champion: scoring starts."""
    emit_event(
        PROMOTED,
        resource={"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model},
        payload={"version": version, "champion_before": before},
    )


def emit_retrain_requested(model: str, reasons: list[str]) -> None:
    """Say that monitoring calls for a new training: the retrain deployment starts."""
    emit_event(
        RETRAIN_REQUESTED,
        resource={"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model},
        payload={"reasons": reasons},
    )
