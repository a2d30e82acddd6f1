"""Copies a home, MLflow's store and artifacts included, so that a test may write to the copy."""

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from finsent.workspace import Workspace, resolve_workspace

BuildOnce = Callable[[str, Callable[[Path], object]], Path]


def copy_home(source: Path, target: Path) -> Workspace:
    """Copy the folder of a home that nothing writes to meanwhile.

    MLflow stores absolute locations of artifacts and tables; in the copy they are changed to lie in the copy.
    """
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.lock"))
    if (target / "mlflow.db").exists():
        _move(target / "mlflow.db", str(source), str(target))
    return resolve_workspace({"FINSENT_HOME": str(target)})


def _move(database: Path, source: str, target: str) -> None:
    with closing(sqlite3.connect(database)) as store:
        tables = [name for (name,) in store.execute("select name from sqlite_master where type = 'table'")]
        for table in tables:
            for _, column, kind, *_ in store.execute(f"pragma table_info({table})").fetchall():
                if kind.upper().startswith(("VARCHAR", "TEXT", "JSON")):
                    store.execute(
                        f"update {table} set {column} = replace({column}, ?, ?) where instr({column}, ?)",  # noqa: S608
                        (source, target, source),
                    )
        store.commit()
