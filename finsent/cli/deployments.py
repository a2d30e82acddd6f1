"""Puts the deployments of `prefect.yaml` on a Prefect server, and leaves to operators what they decided there.

What was deployed last is recorded on the server, in a Prefect variable for each deployment. Where the file says what it said
then, the deployment is left alone. Where it says something else, what the file changed is applied, and all else stays as it is
on the server: a three-way merge.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo

from finsent.config.loader import read_file
from finsent.errors import InputError

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.responses import DeploymentResponse

RECORD: Final = "finsent_deployed_"
"""Beginning of the names of the Prefect variables that hold what was deployed last."""
_KEYS: Final = {
    "name", "entrypoint", "description", "tags", "parameters", "paused", "work_pool", "concurrency_limit", "schedules",
    "triggers", "enforce_parameter_schema",
}  # fmt: skip
_DEFAULTS: Final = {"paused": False, "active": True, "enabled": True, "enforce_parameter_schema": True, "day_or": True}
_FILLED_IN: Final = ("anchor_date", "timezone")  # by Prefect, at schedules that do not say them
_ABSENT: Final[Any] = object()

Definition = dict[str, Any]
"""A deployment as `prefect.yaml` describes it, its schedules and triggers by name, without what is the default anyway."""


def merge(base: Any, wanted: Any, found: Any) -> Any:
    """Three-way merge of nested dictionaries: what the file changed between `base` and `wanted`, all else as it was found."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        before = base if isinstance(base, dict) else {}
        merged = {
            key: merge(before.get(key, _ABSENT), wanted.get(key, _ABSENT), found.get(key, _ABSENT)) for key in {**wanted, **found}
        }
        return {key: value for key, value in merged.items() if value is not _ABSENT}
    return found if wanted == base else wanted


def differences(wanted: Definition, found: Definition, place: str = "") -> list[str]:
    """Where the server differs from the file, such as `schedules.weekly.active is False`."""
    said = []
    for key in sorted({**wanted, **found}):
        default = _DEFAULTS.get(key, _ABSENT)
        here, there = wanted.get(key, default), found.get(key, default)
        if isinstance(here, dict) and isinstance(there, dict):
            said += differences(here, there, f"{place}{key}.")
        elif here is _ABSENT and key in _FILLED_IN and place.startswith("schedules."):
            continue
        elif here != there:
            is_what = "is removed" if there is _ABSENT else "is added" if here is _ABSENT else f"is {there!r}"
            said.append(f"{place}{key} {is_what}")
    return said


def describe(entry: Mapping[str, Any], where: str) -> Definition:
    """One of `prefect.yaml`'s deployments.

    Raises:
        InputError: it has a key that is not deployed here, or a schedule without a name or with another's.
    """
    if unknown := sorted(set(entry) - _KEYS):
        raise _not_deployed(where, unknown[0])
    limit = entry.get("concurrency_limit")
    schedules: Definition = {}
    for item in entry.get("schedules") or []:
        if not item.get("slug") or item["slug"] in schedules:
            raise InputError(
                f"{where}: the schedule {item!r} has no slug of its own, by which it is found again on the server. Give it one, "
                "such as `slug: nightly`. Nothing was deployed."
            )
        schedules[item["slug"]] = _schedule_item(item)
    triggers = {
        item.get("name") or f"{entry['name']}__automation_{n}": _plain(item)
        for n, item in enumerate(entry.get("triggers") or [], 1)
    }
    limit = {"limit": limit} if isinstance(limit, int) else limit
    # both also where they are empty: a file that drops its last schedule does not speak of those that were added on the server
    sections = {"schedules": schedules, "parameters": entry.get("parameters") or {}}
    return {**_plain({**entry, "concurrency_limit": limit, "triggers": triggers}), **sections}


def _not_deployed(where: str, key: str) -> InputError:
    return InputError(
        f"{where}: {key!r} is not deployed by finsent. Leave it out, or keep what needs it in another file and deploy that with "
        "`prefect deploy --all --prefect-file FILE`. Nothing was deployed."
    )


def _plain(item: Mapping[str, Any]) -> Definition:
    """Without what is empty or holds anyway, so that saying it is no difference."""
    return {key: value for key, value in item.items() if value not in (None, {}, []) and value != _DEFAULTS.get(key, _ABSENT)}


def _schedule_item(item: Mapping[str, Any]) -> Definition:
    """A schedule with its moments and seconds in one spelling."""
    plain = _plain(item)
    if "anchor_date" in plain:
        with suppress(ValueError):  # Prefect says what is wrong with it
            anchor = datetime.fromisoformat(str(plain["anchor_date"]))
            zone = ZoneInfo(plain.get("timezone") or "UTC")
            plain["anchor_date"] = (anchor if anchor.tzinfo else anchor.replace(tzinfo=zone)).astimezone(UTC).isoformat()
    if isinstance(plain.get("interval"), int):
        plain["interval"] = float(plain["interval"])
    return plain


def deployed(deployment: "DeploymentResponse") -> Definition:
    """The same of a deployment that is on the server, without its triggers, which are automations there."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    own = deployment.model_dump(mode="json", include={*_KEYS} - {"work_pool", "concurrency_limit", "schedules", "triggers"})
    pool = deployment.model_dump(mode="json", include={"work_queue_name", "job_variables"}) | {"name": deployment.work_pool_name}
    concurrency = {"limit": limit.limit, **(options.model_dump(mode="json") if options else {})} if limit else {}
    schedules = {}
    for item in deployment.schedules:
        settings = item.model_dump(mode="json", include={"active", "parameters", "slug", "max_scheduled_runs"})
        when = item.schedule.model_dump(mode="json")
        words = when.get("cron") or when.get("rrule") or when.get("interval")
        schedules[item.slug or f"{words} ({str(item.id)[:8]})"] = _schedule_item(when | settings)
    sections = {"schedules": schedules, "parameters": deployment.parameters}
    return {**_plain({**own, "work_pool": _plain(pool), "concurrency_limit": _plain(concurrency)}), **sections}


def deploy(client: "SyncPrefectClient", project: Path) -> list[str]:
    """Deploy what the file changed since the last time; sentences that say what was deployed, and what is kept.

    Raises:
        InputError: see `describe`.
    """
    file = read_file(project)
    for step in ("build", "push", "pull"):
        if file.get(step):
            raise _not_deployed(repr(str(project)), step)
    entries = [describe(entry, f"{str(project)!r}, deployment {entry.get('name')!r}") for entry in file["deployments"]]
    automations = {automation.name: automation.enabled for automation in client.read_automations()}
    changed, said, names = [], [], set()
    for entry in entries:
        name, is_new, kept = _deploy(client, entry, automations)
        names.add(name)
        changed += [name] if is_new else []
        said += [f"kept as it is on the server: {name}, where {', '.join(kept)}."] if kept else []
    for name in sorted(_recorded(client) - names):
        if _find(client, name):
            remedy = f"`prefect deployment delete {name}` removes it"
            said.append(f"no longer in {project.name}, and left on the server: {name}. {remedy}.")
    return [f"deployed: {', '.join(changed)}.", *said] if changed else said


def _deploy(client: "SyncPrefectClient", entry: Definition, automations: Mapping[str, bool]) -> tuple[str, bool, list[str]]:
    """The deployment's full name, whether it was deployed, and where the server goes on to differ from the file."""
    from prefect.flows import load_flow_from_entrypoint
    from prefect.utilities.callables import parameter_schema

    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    name = f"{flow.name}/{entry['name']}"
    schema = parameter_schema(flow).model_dump(exclude_unset=True)  # changes with the code, when the file does not
    digest = hashlib.sha256(json.dumps(schema, sort_keys=True, default=str).encode()).hexdigest()[:16]
    triggers, wanted = entry.get("triggers", {}), {key: value for key, value in entry.items() if key != "triggers"}
    record, old = {**entry, "parameter_schema": digest}, read_record(client, name)
    existing = _find(client, name)
    if existing is None:  # deleted by hand, or of another database
        old = {}
    found = deployed(existing) if existing else wanted
    if changes := record != old:
        found = merge(old, wanted, found)
        deployment = _put(client, flow, found, schema)
        if triggers != old.get("triggers"):
            _put_triggers(client, deployment, triggers, old.get("triggers", {}), automations)
        write_record(client, name, record)
    off = [f"trigger {item} is switched off" for item in triggers if not automations.get(item, True)]
    return name, changes, differences(wanted, found) + off


def _find(client: "SyncPrefectClient", name: str) -> "DeploymentResponse | None":
    from prefect.exceptions import ObjectNotFound

    try:
        return client.read_deployment_by_name(name)
    except ObjectNotFound:
        return None


def _recorded(client: "SyncPrefectClient") -> set[str]:
    """Full names of the deployments that were ever put on this server."""
    values = [item.value for item in client.read_variables(limit=200) if item.name.startswith(RECORD)]
    names = {str(value.get("name")) for value in values if isinstance(value, dict)}
    return {name for name in names if "/" in name}


def _put(client: "SyncPrefectClient", flow: "Flow[..., Any]", wanted: Definition, schema: dict[str, Any]) -> UUID:
    """Create or replace one deployment; its id."""
    from prefect.client.schemas.objects import ConcurrencyOptions

    pool, limit = wanted.get("work_pool", {}), dict(wanted.get("concurrency_limit", {}))
    places = limit.pop("limit", None)
    return client.create_deployment(
        flow_id=client.create_flow_from_name(flow.name),
        name=wanted["name"],
        entrypoint=wanted["entrypoint"],
        description=wanted.get("description") or flow.description,
        tags=wanted.get("tags"),
        parameters=wanted.get("parameters"),
        paused=wanted.get("paused", False),
        work_pool_name=pool.get("name"),
        work_queue_name=pool.get("work_queue_name"),
        job_variables=pool.get("job_variables"),
        concurrency_limit=places,
        concurrency_options=ConcurrencyOptions.model_validate(limit) if limit else None,
        schedules=[_schedule(item) for item in wanted.get("schedules", {}).values()],
        pull_steps=[],  # flows come from the installed package
        parameter_openapi_schema=schema,
        enforce_parameter_schema=wanted.get("enforce_parameter_schema", True),
    )


def _schedule(item: Definition) -> "DeploymentScheduleCreate":
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule, RRuleSchedule

    kinds: dict[str, type[SCHEDULE_TYPES]] = {"cron": CronSchedule, "interval": IntervalSchedule, "rrule": RRuleSchedule}
    kind = next(model for key, model in kinds.items() if key in item)
    when = kind.model_validate({key: item[key] for key in kind.model_fields if key in item})
    others = {key: item[key] for key in ("active", "parameters", "slug", "max_scheduled_runs") if key in item}
    return DeploymentScheduleCreate(schedule=when, **others)


def _put_triggers(
    client: "SyncPrefectClient", deployment: UUID, wanted: Definition, base: Definition, enabled: Mapping[str, bool]
) -> None:
    """Replace the automations that start a deployment. One that was switched off or on by hand stays so."""
    from prefect.events import DeploymentTriggerTypes
    from pydantic import TypeAdapter

    adapter: TypeAdapter[DeploymentTriggerTypes] = TypeAdapter(DeploymentTriggerTypes)
    client.delete_resource_owned_automations(f"prefect.deployment.{deployment}")
    for name, item in wanted.items():
        trigger = adapter.validate_python({**item, "name": name})
        if name in enabled and base.get(name, {}).get("enabled") == item.get("enabled"):
            trigger.enabled = enabled[name]
        trigger.set_deployment_id(deployment)
        client.create_automation(trigger.as_automation())


def read_record(client: "SyncPrefectClient", name: str) -> Definition:
    """What was put on the server last under this name; empty: nothing, or by an earlier release."""
    variable = client.read_variable_by_name(_variable(name))
    definition = variable.value.get("definition") if variable and isinstance(variable.value, dict) else None
    return definition if isinstance(definition, dict) else {}


def write_record(client: "SyncPrefectClient", name: str, definition: Definition) -> None:
    """Record what was put on the server now."""
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    variable, value = _variable(name), {"name": name, "definition": definition}
    if client.read_variable_by_name(variable):
        client.update_variable(VariableUpdate(name=variable, value=value))
    else:
        client.create_variable(VariableCreate(name=variable, value=value, tags=["finsent"]))


def _variable(name: str) -> str:
    return RECORD + re.sub(r"[^a-z0-9]+", "_", name.lower())
