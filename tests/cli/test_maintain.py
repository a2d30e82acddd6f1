"""What `finsent maintain` says, and its exit code."""

import shutil
from typing import TYPE_CHECKING

import pyarrow as pa

from finsent.data import tables
from finsent.data.table_schemas import SCHEMAS
from finsent.workspace import Workspace

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent


def test_a_table_that_cannot_be_tidied_is_named_and_the_rest_is_done(finsent: "Finsent", mlflow_home: Workspace) -> None:
    home = mlflow_home
    for options in ((), ("--dry-run",)):
        assert finsent("maintain", *options, "--home", home.root).out.strip() == "Nothing to remove, compact or vacuum."
    tables.append(home, "inbox", pa.Table.from_pylist([{"id": "a", "text": "gold"}], schema=SCHEMAS["inbox"]))
    shutil.rmtree(home.root / "tables" / "inbox" / "_delta_log")
    said = finsent("maintain", "--home", home.root)
    assert said.code == 2
    assert "table 'inbox'" in " ".join(said.out.split())
    assert "half of it is gone" in " ".join(said.out.split())
