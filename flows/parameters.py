"""What every flow is told, in plain values: which configuration, and where the state lives."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from finsent.config import DEFAULT_PROFILE, load_config
from finsent.home import resolve_home
from finsent.steps.context import Context, make_context


class Setup(BaseModel):
    """Configuration and home of a run. Left empty, the worker's environment decides, which is how deployments use it."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    profile: str | None = None
    """Shipped profile; left out, FINSENT_PROFILE or nano."""
    config_file: str | None = None
    """YAML file on top of the profile, as an absolute path on the worker; left out, FINSENT_CONFIG."""
    overrides: tuple[str, ...] = ()
    """`section.key=value` on top of both."""
    home: str | None = None
    """Folder of the state; left out, FINSENT_HOME."""
    tracking_uri: str | None = None
    """MLflow server or store; left out, MLFLOW_TRACKING_URI, or the store in the home."""

    def load(self) -> Context:
        """The context that steps take.

        Raises:
            ConfigError: the configuration is wrong.
        """
        file = self.config_file or os.environ.get("FINSENT_CONFIG")
        profile = self.profile or os.environ.get("FINSENT_PROFILE") or DEFAULT_PROFILE
        environ = {
            **os.environ,
            **{k: v for k, v in (("FINSENT_HOME", self.home), ("MLFLOW_TRACKING_URI", self.tracking_uri)) if v},
        }
        config = load_config(profile, Path(file) if file else None, self.overrides)
        return make_context(config, resolve_home(environ))


FROM_ENVIRONMENT = Setup()
"""The default of every flow."""
