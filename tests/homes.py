"""Copies a home, MLflow's store and artifacts included, so that a test may write to the copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

from finsent.registry.relocation import foreign_locations, move_locations
from finsent.workspace import Workspace, resolve_workspace

BuildOnce = Callable[[str, Callable[[Path], object]], Path]


def copy_home(source: Path, target: Path) -> Workspace:
    """Copy the folder of a home that nothing writes to meanwhile.

    MLflow stores absolute locations of artifacts and tables; in the copy they are changed to lie in the copy.
    """
    from mlflow.tracking._tracking_service import utils

    # by run id: a copy has the runs of what it was copied from, and MLflow would go on in the other's folders
    utils._artifact_repos_cache.clear()
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock"))
    copied = resolve_workspace({"FINSENT_HOME": str(target)})
    if foreign_locations(copied):
        move_locations(copied).backup.unlink()
    return copied
