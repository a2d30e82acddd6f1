"""`finsent data`: what scripts read, what people read, and the exit codes."""

from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pytest

from finsent.config import load_config
from finsent.data import tables
from finsent.data.sample import sample_sources
from finsent.home import Home, resolve_home
from finsent.pipeline.ingest import ingest
from tests.homes import copy_home

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent
    from tests.conftest import Sampled


@pytest.fixture(scope="module")
def two_days(sampled: "Sampled", tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A copy, since reports are written to it."""
    return copy_home(sampled.home.root, tmp_path_factory.mktemp("data") / "home")


def test_versions(finsent: "Finsent", two_days: Home) -> None:
    latest, first = finsent("data", "versions", "--home", two_days.root, "--json").json()["versions"]
    assert (latest["version"], first["version"]) == (2, 1)
    assert latest["leaks"] == 0
    assert first["inputs"] == ["desk", "street", "archive"]
    said = finsent("data", "versions", "--home", two_days.root)
    assert said.code == 0
    assert latest["fingerprint"] in said.out


def test_report_prints_where_the_page_is(finsent: "Finsent", two_days: Home) -> None:
    said = finsent("data", "report", "--version", "1", "--no-mlflow", "--home", two_days.root)
    assert said.code == 0
    assert said.out.strip() == str(two_days.reports / "data-v1.html")
    assert Path(said.out.strip()).is_file()
    found = finsent("data", "report", "--no-mlflow", "--home", two_days.root, "--json").json()
    assert (found["version"], found["run_id"]) == (2, None)
    assert found["report"]["confounding"]["sentence"].startswith("Label and source")
    assert not (two_days.root / "mlflow.db").exists()


def test_diff_of_two_ingestions(finsent: "Finsent", two_days: Home) -> None:
    found = finsent("data", "diff", "1", "2", "--home", two_days.root, "--json").json()
    assert found["moved"] == found["removed"] == found["relabelled"] == {}
    assert sum(found["added"]["arrivals"].values()) == found["rows_after"] - found["rows_before"]
    said = finsent("data", "diff", "1", "2", "--home", two_days.root)
    assert said.code == 0
    assert "moved between splits  0" in said.out
    assert finsent("data", "diff", "1", "9", "--home", two_days.root).code == 2


def test_a_row_that_moved_between_splits_exits_with_1(finsent: "Finsent", home: Home) -> None:
    from deltalake import write_deltalake

    source = sample_sources(1)[:1]
    ingest(load_config(), home, source)
    rows = tables.read(home, "tweets")
    swapped = pa.array(["test" if split == "train" else "train" for split in rows["split"].to_pylist()])
    moved = rows.set_column(rows.schema.get_field_index("split"), "split", swapped)
    write_deltalake(tables.location(home, "tweets"), moved, mode="overwrite")
    said = finsent("data", "diff", "1", "2", "--home", home.root)
    assert said.code == 1
    assert "MOVED BETWEEN SPLITS" in said.out
    assert finsent("data", "diff", "1", "2", "--home", home.root, "--json").json()["moved"]


def test_quarantine(finsent: "Finsent", two_days: Home) -> None:
    found = finsent("data", "quarantine", "--reason", "empty", "--limit", "2", "--home", two_days.root, "--json").json()
    assert len(found["rows"]) == 2
    assert found["total"] > 2
    assert {row["reason"] for row in found["rows"]} == {"empty"}
    said = finsent("data", "quarantine", "--limit", "1", "--home", two_days.root)
    assert "contradictory label" in said.out
    assert "more with --limit" in said.out
    wrong = finsent("data", "quarantine", "--source", "nowhere", "--home", two_days.root)
    assert wrong.code == 2
    assert "no quarantined row has source 'nowhere'" in wrong.err


def test_nothing_there_yet_is_said_and_makes_nothing(finsent: "Finsent", tmp_path: Path) -> None:
    new = tmp_path / "new"
    assert "no data yet" in finsent("data", "versions", "--home", new).out
    assert "The quarantine is empty." in finsent("data", "quarantine", "--home", new).out
    for command in (("report",), ("diff", "1", "2")):
        assert finsent("data", *command, "--home", new).code == 2
    assert not new.exists()


def test_audit_finds_a_leak_that_was_planted(finsent: "Finsent", two_days: Home, tmp_path: Path) -> None:
    found = finsent("data", "audit", "--home", two_days.root, "--json").json()
    assert (found["version"], found["leaks"]) == (2, 0)
    assert finsent("data", "audit", "--home", two_days.root).code == 0
    home = resolve_home({"FINSENT_HOME": str(tmp_path / "home")})
    rows = tables.read(two_days, "tweets").to_pylist()[:50]
    twin = next(row for row in rows if row["split"] == "train")
    leaked = twin | {"id": "0" * 32, "text": f"RT @x: {twin['text']}", "split": "test"}
    tables.append(home, "tweets", pa.Table.from_pylist([*rows, leaked], schema=tables.SCHEMAS["tweets"]))
    said = finsent("data", "audit", "--home", home.root)
    assert said.code == 1
    assert "train-test" in said.out
