"""`finsent demo` in a process of its own, as a newcomer runs it: twice, and once with a model that the gate refuses."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

pytestmark = [pytest.mark.integration, pytest.mark.long]


def demo(home: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    program = str(Path(sys.executable).parent / "finsent")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [program, "demo", "--home", str(home), *options],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=900,
    )


def test_first_run_makes_a_champion_and_the_second_challenges_it(tmp_path: Path) -> None:
    first: dict[str, Any] = json.loads(demo(tmp_path, "--json").stdout)
    data = first["chain"]["data"]
    assert data["read"] == data["accepted"] + data["duplicates"] + data["quarantined"] + data["unlabelled"]
    assert (data["leaks"], first["day"]) == (0, 1)
    assert data["naive_leak"] > 0.05
    evidence = first["chain"]["evaluation"]["evidence"]
    assert evidence["metrics"]["accuracy"] > evidence["baselines"]["tfidf"]["accuracy"]
    assert first["chain"]["promotion"]["decision"] == "promoted"
    assert first["scoring"]["scored"] > 500
    assert len(first["tweets"]) >= 5
    assert set(first["seconds"]) == {"Prefect", "ingest", "train", "evaluate", "promote", "score", "monitor", "total"}
    assert (tmp_path / "prefect" / "prefect.db").is_file()
    assert (tmp_path / "mlflow.db").is_file()

    said = demo(tmp_path)
    assert said.returncode == 0
    # which of the two depends on how the processor rounds
    assert re.search(r"The challenger (beat|met) the champion on the same rows and (took its place|did not pass)", said.stdout)
    for heading in ("DATA", "MODEL", "GATE", "SCORING", "TIME", "LOOK AT IT"):
        assert f"\n{heading} ---" in f"\n{said.stdout}"
    assert "champion, version 1" in said.stdout
    assert "mlflow" in said.stdout
    assert "Traceback" not in said.stderr
    assert "Warning" not in said.stderr


def test_a_refused_first_version_scores_nothing_and_says_so(tmp_path: Path) -> None:
    said = demo(tmp_path, *(part for override in TINY for part in ("--set", override)))
    assert said.returncode == 1, said.stderr
    assert "REFUSED: version 1 is not promoted; there is still no champion" in said.stdout
    assert "Nothing is scored" in said.stdout
