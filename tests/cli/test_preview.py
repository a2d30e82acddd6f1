"""`--dry-run` and `finsent data preview`: what would be read, and nothing written."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent

ROWS = "text,label\nshares of Acme rise on strong results,Bullish\nBeta Corp sinks after a profit warning,Bearish\n,Neutral\n"


@pytest.mark.parametrize("more", [(), ("--inbox",)])
def test_a_dry_run_counts_and_writes_nothing(finsent: "Finsent", tmp_path: Path, home: Workspace, more: tuple[str, ...]) -> None:
    (tmp_path / "desk.csv").write_text(ROWS, encoding="utf-8")
    options = (tmp_path / "desk.csv", *more, "--home", home.root, "--json")
    tried = finsent("ingest", *options, "--dry-run")
    assert (tried.code, tried.json()["dry_run"], tried.json()["version"]) == (0, True, None)
    assert [name for name in SCHEMAS if tables.version(home, name) is not None] == []
    done = finsent("ingest", *options).json()
    assert (done["read"], done["quarantined"]) == (3, 1)
    same = set(done) - {"dry_run", "version", "new_version", "seconds", "page"}
    assert {key: done[key] for key in same} == {key: tried.json()[key] for key in same}
