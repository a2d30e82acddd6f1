"""Where finsent keeps its state. Resolving a home touches neither disk nor network."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from finsent.environ import SQLITE_FILE, absolute_path, check_addresses, is_url
from finsent.errors import ConfigError, InputError

# Delta Lake and SQLite take places as URLs, where these cut, change or break a path however they are escaped: '#' and '?' lose
# Delta's history, '%2F' is decoded, '[', ']', '|' and '^' make it panic, a backslash becomes '/'.
_NO_URL: Final = re.compile(r"[#?\[\]|^\\\x00-\x1f\x7f\ud800-\udfff]|%[0-9A-Fa-f]{2}")

LockName = Literal[
    "audit-mirror", "data-report", "inbox", "ingest", "maintain", "mlflow", "registry", "score", "server-password", "training",
    "up",
]  # fmt: skip
"""Names of the lock files."""


@dataclass(frozen=True)
class Workspace:
    """One project's state: tables, bases, checkpoints, reports, audit log, and the MLflow store beside them."""

    root: Path
    tables_url: str
    """Folder or fsspec/S3 URL that holds the Delta tables."""
    tracking_uri: str
    """MLflow tracking and registry URI."""

    @property
    def bases(self) -> Path:
        """Materialised embedded base models, in the Hub's folder layout."""
        return self.root / "bases"

    @property
    def runs(self) -> Path:
        """Checkpoints and adapters of trainings, one folder per MLflow run."""
        return self.root / "runs"

    @property
    def versions(self) -> Path:
        """Adapters fetched from the registry, one folder per registered version."""
        return self.root / "versions"

    @property
    def reports(self) -> Path:
        """Ingestion reports, one JSON file per version of the `tweets` table."""
        return self.root / "reports"

    @property
    def review(self) -> Path:
        """Ranked lists of doubtful labels, which can be computed again."""
        return self.root / "review"

    @property
    def audit_log(self) -> Path:
        """Audit log: hash-chained record of every evaluation and promotion decision."""
        return self.root / "audit_log.jsonl"

    @property
    def artifacts(self) -> Path:
        """MLflow's artifact folder when no tracking server is set."""
        return self.root / "mlartifacts"

    @property
    def staging(self) -> Path:
        """Rows of ingestions at work, one folder each, removed at their end."""
        return self.root / "staging"

    @property
    def studies(self) -> Path:
        """Studies of hyperparameter searches, one folder each."""
        return self.root / "tune"

    @property
    def maintenance(self) -> Path:
        """When `finsent maintain` last looked after each table."""
        return self.root / "maintained.json"

    def lock(self, name: LockName) -> Path:
        """Path of the lock file called `name`."""
        return self.root / "locks" / f"{name}.lock"


def resolve_workspace(environ: Mapping[str, str] = os.environ, folder: Path | None = Path()) -> Workspace:
    """Home from FINSENT_HOME (default `.finsent` in the working folder), FINSENT_TABLES and MLFLOW_TRACKING_URI.

    All places are absolute afterwards. Relative ones count from `folder`; see `absolute_path`.

    Raises:
        InputError: a path holds a character that means something else in a URL.
        ConfigError: a place is relative where `folder` is None, its `~` has no home folder, or a server's address is none.
    """
    check_addresses(environ)
    root = absolute_path(environ.get("FINSENT_HOME") or ".finsent", "home (FINSENT_HOME, --home)", folder).resolve()
    _require_plain_characters("home (FINSENT_HOME, --home)", str(root))
    tables = environ.get("FINSENT_TABLES") or str(root / "tables")
    if not is_url(tables):
        tables = str(absolute_path(tables, "place of the tables (FINSENT_TABLES)", folder).resolve())
    elif not tables.partition("://")[2].strip("/"):
        raise ConfigError(f"FINSENT_TABLES is {tables!r}, which names no bucket or folder. Write it as in s3://bucket/finsent.")
    _require_plain_characters("place of the tables (FINSENT_TABLES)", tables)
    return Workspace(
        root=root,
        tables_url=tables,
        tracking_uri=_absolute_store(environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root / 'mlflow.db'}", folder),
    )


def _absolute_store(uri: str, folder: Path | None) -> str:
    """The URI with an SQLite file's path in full: `sqlite:///mlflow.db` and `sqlite:///~/mlflow.db` are relative ones."""
    found = SQLITE_FILE.fullmatch(uri)
    return uri if found is None else f"{found[1]}{absolute_path(found[2], 'MLFLOW_TRACKING_URI', folder)}{found[3]}"


def _require_plain_characters(what: str, path: str) -> None:
    found = _NO_URL.search(path)
    if found:
        raise InputError(
            f"the {what} is {path!r}, and {found[0]!r} in it means something else in the URLs that Delta Lake and SQLite take. "
            "Rename that folder, or name another place: letters, digits, spaces and most other signs will do."
        )
