"""The events that chain deployments; `prefect.yaml` holds the triggers that wait for them."""

from prefect.events import emit_event

PROMOTED = "finsent.model.promoted"
APPROVAL_REQUESTED = "finsent.approval.requested"
RETRAIN_REQUESTED = "finsent.retrain.requested"


def emit_promoted(model: str, version: str, before: str | None) -> None:
    """Say that `version` now carries the alias champion: scoring starts."""
    emit_event(
        PROMOTED,
        resource={"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model},
        payload={"version": version, "champion_before": before},
    )


def emit_approval_requested(model: str, version: str, champion: str | None, reasons: list[str]) -> None:
    """Say that `version` passed the gate and waits for a person: the approve deployment asks."""
    emit_event(
        APPROVAL_REQUESTED,
        resource={"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model},
        payload={"version": version, "champion": champion, "reasons": reasons},
    )


def emit_retrain_requested(model: str, reasons: list[str]) -> None:
    """Say that monitoring calls for a new training: the retrain deployment starts."""
    emit_event(
        RETRAIN_REQUESTED,
        resource={"prefect.resource.id": f"finsent.model.{model}", "prefect.resource.name": model},
        payload={"reasons": reasons},
    )
