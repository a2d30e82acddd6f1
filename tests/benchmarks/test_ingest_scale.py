"""The benchmark of ingestion runs, and counts every row."""

import importlib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def test_a_generated_file_is_ingested_and_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    scale = importlib.import_module("ingest_scale")
    scale.write(tmp_path / "generated.csv", 300, 1)
    found = scale.ingested(tmp_path / "home", tmp_path / "generated.csv")
    assert found["read"] == 300 == found["accepted"] + found["duplicates"] + found["quarantined"]
    assert found["leaks"] == 0 < found["cpu"]
