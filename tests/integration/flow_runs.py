"""What flows left on the Prefect API that the tests of a file share."""

import json
from typing import TYPE_CHECKING, Any

from finsent.process_identity import PROCESS_LABEL
from flows.settings import FlowSettings

if TYPE_CHECKING:
    from tests.conftest import Served


def artifacts(key: str) -> list[Any]:
    """Artifacts of a key, newest first."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
    from prefect.client.schemas.sorting import ArtifactSort

    with get_client(sync_client=True) as client:
        chosen = ArtifactFilter(key=ArtifactFilterKey(any_=[key]))
        return client.read_artifacts(artifact_filter=chosen, sort=ArtifactSort.CREATED_DESC)


def rows(artifact: Any) -> list[dict[str, Any]]:
    """What a table artifact shows."""
    found: list[dict[str, Any]] = json.loads(artifact.data)
    return found


def runs(kind: str) -> list[str]:
    """Names of flow runs or task runs, oldest first."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_flow_runs() if kind == "flow" else client.read_task_runs()
        return [run.name for run in sorted(found, key=lambda run: run.start_time or run.created)]


def processes() -> set[object]:
    """The processes that flow runs are labelled with."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return {run.labels.get(PROCESS_LABEL) for run in client.read_flow_runs()}


def setup_of(served: "Served") -> FlowSettings:
    """Settings of flows that work with the home."""
    from tests.conftest import TINY

    return FlowSettings(profile="nano", overrides=TINY, home=str(served.home.root))
