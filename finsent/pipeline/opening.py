"""Opening a registered version, for whoever scores with it."""

from typing import TYPE_CHECKING

from finsent.config import Config
from finsent.home import Home

if TYPE_CHECKING:
    from finsent.models.adapter import LoadedAdapter


def open_version(config: Config, home: Home, version: str, *, rows: int) -> "LoadedAdapter":
    """A version of the registry, loaded and opened for about `rows` texts.

    Raises:
        ArtifactError: the version is not what was registered.
        BaseModelError: its base cannot be reached.
    """
    from finsent.registry.versions import adapter_path
    from finsent.scoring.predictor import load_with_fp8_check

    return load_with_fp8_check(config.engine, home, adapter_path(home, config.registered_model, version), rows=rows)
