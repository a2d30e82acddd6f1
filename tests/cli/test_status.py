"""The verdict of `finsent status` over all parts; what Prefect's server says is judged in test_verdict.py."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from finsent.cli.maintain import folder_ages, render_storage, table_rows
from finsent.cli.output import as_text
from finsent.cli.status import list_problems
from finsent.data import tables
from finsent.data.table_access import location
from finsent.data.table_schemas import SCHEMAS
from finsent.data.table_upkeep import record_maintenance
from finsent.workspace import Workspace

FINE: dict[str, Any] = {"url": "http://m:5000", "answers": True}
AWAY = {"url": "http://m:5000", "answers": False, "problem": "does not answer"}


@pytest.mark.parametrize(
    ("changed", "problems"),
    [
        ({}, []),
        ({"services": {"mlflow": {"url": None, "answers": None}}}, []),
        ({"services": {"mlflow": AWAY}}, ["the MLflow server at http://m:5000 does not answer"]),
        ({"services": {"mlflow": AWAY}, "versions": {"error": "no versions"}}, ["no versions"]),
        ({"versions": {"error": "no versions"}, "decisions": {"error": "damaged"}}, ["damaged", "no versions"]),
        ({"versions": {"error": "same"}, "decisions": {"error": "same"}}, ["same"]),
        ({"champion_problem": "by hand", "operations": {"problems": ["stuck"]}}, ["by hand", "stuck"]),
        ({"operations": {"problems": []}}, []),
    ],
)
def test_whatever_is_wrong_is_in_the_verdict(changed: dict[str, Any], problems: list[str]) -> None:
    fine = {"services": {"mlflow": FINE}, "versions": {}, "decisions": {}, "champion_problem": None, "operations": None}
    assert list_problems(**{**fine, **changed}) == problems


def test_tables_and_folders_are_shown_with_size_and_age(home: Workspace) -> None:
    tables.append(home, "inbox", pa.Table.from_pylist([{"id": "a", "text": "gold"}], schema=SCHEMAS["inbox"]))
    broken = Path(location(home, "predictions"))
    broken.mkdir()
    (broken / "part-0.parquet").touch()
    (home.runs / "0a1b").mkdir(parents=True)
    (home.runs / "gone").symlink_to("nowhere")  # as a folder that maintenance removes meanwhile
    record_maintenance(home, datetime(2026, 11, 30, 2, 30, tzinfo=UTC), ["inbox"])
    found, folders = table_rows(home), folder_ages(home)
    (inbox, predictions) = found
    assert (inbox["name"], inbox["rows"], inbox["files"], inbox["newest_version"]) == ("inbox", 1, 1, 1)
    assert inbox["maintained_at"] == "2026-11-30T02:30:00+00:00"
    assert "half of it is gone" in predictions["error"]
    assert list(folders) == ["runs"]
    assert folders["runs"]["entries"] == 1
    text = as_text(render_storage(found, folders))
    assert "0 to 1" in text
    assert "2026-11-30 02:30" in text
    assert "  - table 'predictions'" in text
