"""What every flow is told in plain values: which configuration, and where the state lives. Resolved once per flow run."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Annotated
from uuid import UUID

from prefect.runtime import flow_run
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from finsent.child_process import end_with_parent
from finsent.config import DEFAULT_PROFILE, load_config
from finsent.config.loader import NO_PASSWORD, mask_passwords
from finsent.process_identity import PROCESS_LABEL, this_process
from finsent.registry.tracking import RunTag
from finsent.steps.context import Context, make_context
from finsent.workspace import resolve_workspace
from flows.fence import owning, require_own_run
from flows.tasks import machine_faults_told


def _without_password(text: str) -> str:
    if (masked := mask_passwords(text)) != text:
        raise ValueError(
            f"{masked!r} holds a password, which Prefect would store and show. Write `${{NAME}}` in the URL of a source, or set "
            "MLFLOW_TRACKING_URI, in the environment of the process that runs the flow."
        )
    return text


StoredText = Annotated[str, AfterValidator(_without_password), Field(json_schema_extra=NO_PASSWORD)]
"""Text that Prefect stores as given."""


class FlowSettings(BaseModel):
    """Configuration and home of a run. Left empty, the worker's environment decides, which is how deployments use it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, hide_input_in_errors=True)

    profile: str | None = None
    """Shipped profile; left out, FINSENT_PROFILE or nano."""
    config_file: str | None = None
    """YAML file on top of the profile, as an absolute path on the worker; left out, FINSENT_CONFIG."""
    overrides: tuple[StoredText, ...] = ()
    """`section.key=value` on top of both."""
    home: str | None = None
    """Folder of the state; left out, FINSENT_HOME."""
    tracking_uri: StoredText | None = None
    """MLflow server or store; left out, MLFLOW_TRACKING_URI, or the store in the home."""

    def load(self) -> Context:
        """Resolve configuration and home now.

        Raises:
            ConfigError: the configuration is wrong, or a place is relative and this runs under a worker, in a temporary folder.
        """
        folder = None if os.environ.get("PREFECT__FLOW_RUN_ID") else Path()  # set by whatever starts a process for one run
        file = self.config_file or os.environ.get("FINSENT_CONFIG")
        given = (("FINSENT_HOME", self.home), ("MLFLOW_TRACKING_URI", self.tracking_uri))
        environ = {**os.environ, **{name: value for name, value in given if value}}
        config = load_config(self.profile_name, Path(file) if file else None, self.overrides, folder)
        return make_context(config, resolve_workspace(environ, folder))

    @property
    def profile_name(self) -> str:
        """The profile that is meant, the environment's default included."""
        return self.profile or os.environ.get("FINSENT_PROFILE") or DEFAULT_PROFILE


FROM_ENVIRONMENT = FlowSettings()
"""The default of every flow."""

_log = logging.getLogger("finsent.flows")
_PARENT = os.getppid()
"""What started this process, as early as it can be known: a worker may be killed while the flow is imported."""
_resolved: ContextVar[tuple[FlowSettings, Context] | None] = ContextVar("resolved", default=None)


def _context(settings: FlowSettings) -> Context:
    inherited = _resolved.get()
    return inherited[1] if inherited and inherited[0] == settings else settings.load()


@contextmanager
def resolved(settings: FlowSettings) -> Iterator[Context]:
    """The context of this flow run. A subflow called with the same settings gets its parent's.

    So an edit of a configuration file in the middle of a retraining changes no rule between training and promotion. MLflow
    runs opened in this context carry the flow run's id, name and page and the outermost flow's name as tags. From here on, where
    Prefect can record the end, a process that a worker started ends with it.
    """
    if os.environ.get("PREFECT__FLOW_RUN_ID"):
        end_with_parent(_PARENT)
    context = _context(settings)
    links: dict[RunTag, object] = {
        "prefect.root_flow": context.run_tags.get("prefect.root_flow", flow_run.flow_name),
        "prefect.flow_run_id": flow_run.id,
        "prefect.flow_run_name": flow_run.name,
        "prefect.flow_run_url": flow_run.ui_url,
    }
    tags = {**context.run_tags, **{key: str(value) for key, value in links.items() if value}}
    context = replace(context, run_tags=tags, require_own_run=require_own_run)
    if _resolved.get() is None and flow_run.id:
        _record_process(flow_run.id)
    token = _resolved.set((settings, context))
    try:
        with owning(), machine_faults_told():
            yield context
    finally:
        _resolved.reset(token)


def _record_process(run: str) -> None:
    """Label the flow run with its process, its subflows' too, so that `finsent up` can tell whether it still lives."""
    from prefect.client.orchestration import get_client

    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run_labels(UUID(run), {PROCESS_LABEL: this_process()})
    except Exception as error:  # noqa: BLE001 - heartbeats tell it too, only later
        _log.warning("the flow run could not be labelled with its process: %s", error)


def run_name(template: str) -> Callable[[], str]:
    """Names a flow's runs before their first task: `{model}`, `{profile}`, `{data}` (its newest version) and `{version}`.

    What cannot be found out now is left to the run itself, whose error says why.
    """

    def name() -> str:
        from finsent.data import tables

        given = flow_run.parameters
        try:
            context = _context(given["settings"])
            data = tables.version(context.workspace, "tweets") if "{data}" in template else None
        except Exception as error:  # noqa: BLE001 - a name is no reason to lose a run
            _log.info("the run is not named by what it is about: %s", error)
            return str(flow_run.flow_name)
        version = f"version {given['version']}" if given.get("version") else "newest version"
        named = "no data" if data is None else f"data-v{data}"
        return template.format(model=context.config.registered_model, profile=context.config.profile, data=named, version=version)

    return name


def describe_run(context: Context, name: str, **tags: object) -> Context:
    """Give the current flow run a name and tags that say what it is about, such as `train finsent nano data-v3`.

    Returns the context for what follows: MLflow runs that it opens carry the new name.
    """
    from prefect.client.orchestration import get_client

    if not flow_run.id:  # called as a plain function
        return context
    tags = {"model": context.config.registered_model, **tags}
    labels = ["finsent", *(f"{key}:{value}" for key, value in tags.items() if value is not None)]
    try:
        with get_client(sync_client=True) as client:
            client.update_flow_run(flow_run.id, name=name, tags=sorted({*flow_run.tags, *labels}))
    except Exception as error:  # noqa: BLE001 - a name is no reason to lose finished work
        _log.warning("the flow run could not be named %r: %s", name, error)
        return context
    return replace(context, run_tags={**context.run_tags, "prefect.flow_run_name": name})
