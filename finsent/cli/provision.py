"""Program that puts finsent's work pools, training limit and automations on a Prefect server.

Run by `finsent up`, and by hand for other servers.

`python -m finsent.cli.provision automations.yaml cpu gpu`, idempotent, on the server that PREFECT_API_URL names. `prefect deploy`
creates the deployments.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finsent.config.loader import mask_passwords, read_file
from finsent.errors import FinsentError, InputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def provision(automations: Path, pools: Sequence[str]) -> None:
    """Create the work pools and the training limit that are missing, and create or update the automations of the file.

    Raises:
        InputError: `prefect.yaml` beside the file holds a password, which the server would store.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    _refuse_passwords(automations.with_name("prefect.yaml"))
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        existing = {pool.name for pool in client.read_work_pools()}
        for name in pools:
            if name not in existing:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        require_training_limit(client)
        for described in read_file(automations)["automations"]:
            _put_automation(client, described)


def _refuse_passwords(project: Path) -> None:
    lines = project.read_text(encoding="utf-8").splitlines() if project.is_file() else []
    for number, line in enumerate(lines, start=1):
        if (masked := mask_passwords(line)) != line:
            raise InputError(
                f"{str(project)!r}, line {number}: {masked.strip()!r} holds a password, which the Prefect server would store and "
                "show. Write `${NAME}` in its place, and set that environment variable for the workers. Nothing was deployed."
            )


def require_training_limit(client: "SyncPrefectClient") -> None:
    """Create the limit with one place, for one GPU. One that is there is left as it is: it may have been raised by hand."""
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
    from prefect.exceptions import ObjectNotFound

    from flows.gpu import TRAINING_LIMIT

    try:
        client.read_global_concurrency_limit_by_name(TRAINING_LIMIT)
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=TRAINING_LIMIT, limit=1))


def _put_automation(client: "SyncPrefectClient", described: dict[str, Any]) -> None:
    from prefect.events.schemas.automations import AutomationCore

    wanted = AutomationCore.model_validate(described)
    existing = client.read_automations_by_name(name=wanted.name)
    if existing:
        client.update_automation(existing[0].id, wanted)
    else:
        client.create_automation(wanted)


if __name__ == "__main__":
    try:
        provision(Path(sys.argv[1]), sys.argv[2:])
    except FinsentError as error:
        sys.exit(f"error: {error}")
