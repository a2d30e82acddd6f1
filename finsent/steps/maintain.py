"""Maintenance: removes what nothing needs any more. Never what the registry, a report or an unfinished training refers to."""

import logging
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from finsent.data.inbox import remove_scored
from finsent.data.predictions import predicted_by, predicted_in_line
from finsent.data.staging import remove_abandoned
from finsent.data.table_schemas import SCHEMAS
from finsent.data.table_upkeep import RETENTION_DAYS, TableUpkeep, record_maintenance, tidy_tables
from finsent.errors import CheckFailed, InputError, NoChampionError, TrackingError, one_line
from finsent.files import disk_use, locked
from finsent.registry.champion import require_champion
from finsent.registry.client import CHALLENGER, CHAMPION, PREVIOUS
from finsent.registry.relocation import missing_artifacts
from finsent.registry.scoring_identity import scoring_identity
from finsent.scoring.watermark import others_watermarks, read_watermark
from finsent.steps.context import Context
from finsent.training.checkpoint import complete_checkpoints
from finsent.training.run_dir import RESULT, STATE, is_finished
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)
_DAY = 24 * 3600
_GOING = ".removed."
"""How folders begin that a maintenance has begun to remove."""
_HALF_WRITTEN = re.compile(r"\..+\.([0-9a-f]{32}|\d+)")
"""How `atomic_write` and the embedded base name what is not complete yet."""


@dataclass(frozen=True)
class RemovedItem:
    """A folder or file that was removed, or would be."""

    what: str
    path: Path
    bytes: int


@dataclass(frozen=True)
class MaintenanceResult:
    """What a maintenance removed, or with `dry_run` would remove."""

    dry_run: bool
    removed: tuple[RemovedItem, ...]
    bytes: int
    inbox_rows: int
    """Rows of the inbox that were scored."""
    tables: tuple[TableUpkeep, ...] = ()
    """Tables that were compacted or vacuumed, or could not be."""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why tables could not be looked after."""
        return tuple(f"table {item.name!r}: {item.problem}" for item in self.tables if item.problem)

    @property
    def is_empty(self) -> bool:
        """Whether there was nothing to do."""
        return not (self.removed or self.inbox_rows or self.tables)


def maintain(
    context: Context,
    *,
    days: int,
    inbox_days: int | None = None,
    retention_days: int = RETENTION_DAYS,
    dry_run: bool = False,
) -> MaintenanceResult:
    """Remove what was last changed more than `days` days ago and is not needed.

    That is: folders of trainings and imports whose adapter is registered, of trainings that ended before their first checkpoint,
    of imports that failed, cached versions without an alias, what killed imports, ingestions and maintenances left, and backups
    of the MLflow store by `home move`. Tables of many small files are compacted, and all but `tweets` vacuumed of files that were
    not needed for `retention_days`: every data version stays readable, and the next scoring run finds what came since the last.
    A table for which that fails is named in the result. A second maintenance waits for the first.
    With `inbox_days` also inbox rows received longer ago that were scored, by the champion itself where `scoring.backfill` makes
    it score again what others have scored; their predictions stay. Rows that another registry on the same tables has still to
    score stay, too, unless it has scored nothing for as long.

    Raises:
        ServiceError: MLflow does not answer. Nothing was removed.
        NoChampionError: `inbox_days` was given, and nothing was promoted yet. Nothing was removed.
        CheckFailed: `inbox_days` was given, and the alias is not where the audit log's decisions put it.
    """
    home = context.workspace
    with nullcontext() if dry_run else locked(home.lock("maintain"), -1, ""):
        return _maintain(context, days, inbox_days, retention_days, dry_run=dry_run)


def _maintain(context: Context, days: int, inbox_days: int | None, retention_days: int, *, dry_run: bool) -> MaintenanceResult:
    home = context.workspace
    champion = require_champion(context.registry) if inbox_days is not None else None
    needed = _needed_by_scoring(context)
    found = [
        RemovedItem(what, path, disk_use(path))
        for what, path in (*_run_folders(context), *_cached_versions(context), *_leftovers(home))
        if time.time() - _last_change(path) > days * _DAY or path.name.startswith(_GOING)
    ]
    if not dry_run:
        remove_abandoned(home.staging)
        found = [item for item in found if _remove(item.path)]
    rows = 0
    if champion is not None and inbox_days is not None:
        rows = _remove_rows(context, champion, datetime.now(UTC) - timedelta(days=inbox_days), dry_run=dry_run)
    upkeep = tidy_tables(home, dry_run=dry_run, retention_days=retention_days, needed=needed)
    if not dry_run:
        failed = {item.name for item in upkeep if item.problem}
        record_maintenance(home, datetime.now(UTC), [name for name in SCHEMAS if name not in failed])
    return MaintenanceResult(dry_run, tuple(found), sum(item.bytes for item in found), rows, upkeep)


def _remove_rows(context: Context, champion: str, before: datetime, *, dry_run: bool) -> int:
    """Remove scored inbox rows that were received before a time, and that no other registry has still to score."""
    home, model = context.workspace, scoring_identity(context.registry, champion)
    scored = predicted_in_line(model) if context.config.scoring.backfill == "none" else predicted_by(model)
    upto = min((mark.inbox for mark in others_watermarks(home, model, before)), default=None)
    try:
        return remove_scored(home, scored, before, upto=upto, dry_run=dry_run)
    except InputError as error:
        if upto is None:
            raise
        _log.warning("no inbox row is removed: which ones another registry has scored cannot be told (%s)", one_line(error))
        return 0


def _needed_by_scoring(context: Context) -> dict[str, int]:
    """Versions since which the next scoring run reads: without the files it would read the whole tables."""
    with suppress(NoChampionError, CheckFailed, InputError):  # nobody scores, or `tidy_tables` meets what is wrong, and tells it
        model = scoring_identity(context.registry, require_champion(context.registry))
        if (recorded := read_watermark(context.workspace, model)) is not None:
            return {"inbox": recorded.inbox, "predictions": recorded.since}
    return {}


def _last_change(path: Path) -> float:
    """A training touches its state whenever somebody works on it. What is gone meanwhile counts as changed now."""
    times = []
    for part in (path, path / STATE):
        with suppress(FileNotFoundError, NotADirectoryError):
            times.append(part.stat().st_mtime)
    return max(times, default=time.time())


def _run_folders(context: Context) -> Iterator[tuple[str, Path]]:
    home = context.workspace
    lost = set(missing_artifacts(home))
    versions = context.registry.client.search_model_versions()
    with_version = {str(version.run_id) for version in versions}
    registered = {str(version.run_id) for version in versions if f"{version.name} version {version.version}" not in lost}
    for folder in sorted(home.runs.glob("*")) if home.runs.is_dir() else ():
        if folder.name.startswith(".import."):
            yield "import that was killed", folder
        elif folder.name.startswith(_GOING):
            yield "removal that was killed", folder
        elif not folder.is_dir():
            continue
        elif folder.name in registered and (is_finished(folder) or not (folder / STATE).exists()):
            yield "registered training or import", folder
        elif is_finished(folder) is False and not complete_checkpoints(folder) and not (folder / RESULT).exists():
            yield "training without a checkpoint", folder
        elif folder.name not in with_version and not (folder / STATE).exists() and _is_import(context, folder.name):
            yield "import that was not registered", folder


def _is_import(context: Context, run_id: str) -> bool:
    """Whether MLflow knows the run as an import: of one that it has lost this may be the only copy."""
    try:
        return bool(context.registry.client.get_run(run_id).data.tags.get("kind") == "import")
    except TrackingError:
        return False


def _cached_versions(context: Context) -> Iterator[tuple[str, Path]]:
    home, registry = context.workspace, context.registry
    aliases = registry.aliases()
    kept = {f"{registry.name}-{aliases[alias]}" for alias in (CHAMPION, CHALLENGER, PREVIOUS) if alias in aliases}
    lost = {what.replace(" version ", "-") for what in missing_artifacts(home)}  # this may be the last copy
    for folder in sorted(home.versions.glob("*")) if home.versions.is_dir() else ():
        ours = folder.name.rpartition("-")[0] == registry.name or folder.name.startswith(".")
        if ours and folder.name not in kept | lost:
            yield "cached version", folder


def _leftovers(home: Workspace) -> Iterator[tuple[str, Path]]:
    for path in sorted(home.root.glob("mlflow.db.before-move-*")):
        yield "backup by `home move`", path
    for folder in (home.root, home.bases, home.reports):
        for path in sorted(folder.glob(".*")) if folder.is_dir() else ():
            if _HALF_WRITTEN.fullmatch(path.name):
                yield "half-written by a killed process", path


def _remove(path: Path) -> bool:
    """Remove a file or folder, under the lock of a training's folder; renamed first, so that nobody finds it half there."""
    if not path.is_dir():
        path.unlink(missing_ok=True)
        return True
    try:
        with locked(path / ".lock", 0, f"{str(path)!r} is in use"):
            going = path.rename(path.with_name(f"{_GOING}{uuid.uuid4().hex}"))
    except CheckFailed:
        _log.warning("%s is in use and stays", path)
        return False
    shutil.rmtree(going)
    return True
