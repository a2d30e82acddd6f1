"""Program that puts finsent's work pools, training limit, automations and deployments on a Prefect server.

Run by `finsent up`, and by hand for other servers: `python -m finsent.cli.provision automations.yaml cpu gpu`, idempotent, on the
server that PREFECT_API_URL names. Deployments are those of `prefect.yaml` beside `automations.yaml`. It says what it deployed and
what it left as it is on the server.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finsent.cli.deployments import deploy, merge, read_record, write_record
from finsent.config.loader import mask_passwords, read_file
from finsent.errors import FinsentError, InputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def provision(automations: Path, pools: Sequence[str]) -> list[str]:
    """Create what is missing, and update what the files changed since the last time; sentences about what was done and kept.

    Raises:
        InputError: `prefect.yaml` beside the file holds a password, which the server would store, or what is not deployed here.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    project = automations.with_name("prefect.yaml")
    _refuse_passwords(project)
    template = ProcessWorker.get_default_base_job_template()
    with get_client(sync_client=True) as client:
        existing = {pool.name for pool in client.read_work_pools()}
        for name in pools:
            if name not in existing:
                client.create_work_pool(WorkPoolCreate(name=name, type="process", base_job_template=template))
        require_training_limit(client)
        said = [line for described in read_file(automations)["automations"] for line in _put_automation(client, described)]
        return said + (deploy(client, project) if project.is_file() else [])


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


def _put_automation(client: "SyncPrefectClient", described: dict[str, Any]) -> list[str]:
    """Create an automation, or update it where the file changed since the last time. What was done or kept, as sentences.

    Only where it differs from the server's: an update gives the trigger a new id, and the server forgets which runs it watches.
    """
    from prefect.events.schemas.automations import AutomationCore

    wanted, name = AutomationCore.model_validate(described), f"automation {described['name']}"
    old = read_record(client, name)
    found = next(iter(client.read_automations_by_name(name=wanted.name)), None)
    said = []
    if found is None or old != described:
        if found is None:
            client.create_automation(wanted)
        else:
            wanted.enabled = merge(old.get("enabled", wanted.enabled), wanted.enabled, found.enabled)
            if AutomationCore.model_validate(found.model_dump()) != wanted:
                client.update_automation(found.id, wanted)
        write_record(client, name, described)
        said = [f"deployed: {name}."]
    if found and found.enabled != described.get("enabled", True):
        said.append(f"kept as it is on the server: {name}, which is switched {'on' if found.enabled else 'off'}.")
    return said


if __name__ == "__main__":
    try:
        for line in provision(Path(sys.argv[1]), sys.argv[2:]):
            sys.stdout.write(f"{line}\n")
    except FinsentError as error:
        sys.exit(f"error: {error}")
