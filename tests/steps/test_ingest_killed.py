"""Ingestion killed with -9 at random moments and run again: the tables are those of a run that nothing interrupted."""

import csv
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from finsent.config import load_config
from finsent.data import tables
from finsent.data.dataset import data_version
from finsent.data.leakage import audit_data
from finsent.workspace import Workspace, resolve_workspace

pytestmark = pytest.mark.long

KILLS = 10
SCRIPT = """
import sys
from finsent.config import Source, load_config
from finsent.workspace import resolve_workspace
from finsent.steps.context import make_context
from finsent.steps.ingest import ingest
from finsent.cli.main import leave
ingest(make_context(load_config(), resolve_workspace({"FINSENT_HOME": sys.argv[1]})), [Source(uri=sys.argv[2])])
leave(0)
"""


def write(path: Path, rows: int) -> None:
    draw = random.Random(7)
    words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 8))) for _ in range(3000)]
    made: list[str] = []
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream)
        out.writerow(("text", "label"))
        for number in range(rows):
            if made and number % 5 == 0:
                text = f"RT @x{number}: {draw.choice(made)}"
            elif number % 101 == 0:
                text = ""
            else:
                text = " ".join(draw.choices(words, k=draw.randint(4, 25)))
                made.append(text)
            out.writerow((text, draw.choice(("Bullish", "Bearish", "Neutral")) if number % 37 == 0 else "Bullish"))


def start(home: Workspace, path: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(home.root), str(path)], stderr=subprocess.PIPE, text=True)


def contents(home: Workspace, name: str) -> pa.Table:
    kept = [column for column in tables.SCHEMAS[name].names if column != "ingested_at"]
    keys = [(column, "ascending") for column in kept if column not in {"truncated", "bands", "sketch", "created_at"}]
    return tables.read(home, name, columns=kept).sort_by(keys)


def test_killed_at_ten_random_moments(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 20_000)
    whole = resolve_workspace({"FINSENT_HOME": str(tmp_path / "whole")})
    begun = time.monotonic()
    first = start(whole, path)
    first.communicate()
    assert first.returncode == 0
    lasted = time.monotonic() - begun
    expected = {name: contents(whole, name) for name in ("tweets", "quarantine", "signatures")}
    draw, killed = random.Random(), 0
    for attempt in range(KILLS):
        home = resolve_workspace({"FINSENT_HOME": str(tmp_path / f"home{attempt}")})
        # commits come last, so half of the kills fall into the last third
        moment = lasted * (draw.uniform(0.1, 1.0) if attempt % 2 else draw.uniform(0.66, 1.0))
        process = start(home, path)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        process.communicate()
        rerun = start(home, path)
        errors = rerun.communicate()[1]
        assert rerun.returncode == 0, errors
        for name, table in expected.items():
            assert contents(home, name) == table, f"{name} after a kill at {moment:.2f} s of {lasted:.2f} s"
        assert data_version(home).leaks == 0
        assert not list(home.root.glob("staging/[!.]*")), "what a killed run staged is removed by the next"
    assert killed >= KILLS // 2
    assert audit_data(load_config(), home).leaks == 0
