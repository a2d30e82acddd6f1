"""A folder of 100,000 files, in bounded memory, and processes killed with -9 while they fill the inbox from one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from finsent.data import tables
from finsent.workspace import Workspace, resolve_workspace

pytestmark = pytest.mark.long

SCRIPT = """
import json, resource, sys, time
import deltalake, pyarrow
from finsent.config import DataConfig, InboxSource, ScoringConfig
from finsent.data import inbox_sources
from finsent.workspace import resolve_workspace
home = resolve_workspace({"FINSENT_HOME": sys.argv[1]})
inbox_sources._FILES_AT_ONCE = int(sys.argv[3])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scoring = ScoringConfig(sources=(InboxSource(uri=sys.argv[2]),))
(found,) = inbox_sources.receive_sources(scoring, DataConfig(), home)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
print(json.dumps([found.files, found.files_before, found.received, len(found.faults), grown, time.process_time()]))
"""


def fill(folder: Path, files: int) -> None:
    """Two tweets in each file, and the first one of all in each besides."""
    folder.mkdir()
    for number in range(files):
        path = folder / f"{number}.csv"
        path.write_text(f"id,text\n{number},tweet {number} of the day\n{number}b,another {number}\n0,tweet 0 of the day\n")
        os.utime(path, (1_700_000_000, 1_700_000_000))


def start(home: Workspace, folder: Path, files_at_once: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", SCRIPT, str(home.root), str(folder), str(files_at_once)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(process: "subprocess.Popen[str]") -> list[float]:
    said = process.communicate()[0]
    assert process.returncode == 0
    return list(json.loads(said))


def test_a_hundred_thousand_files(tmp_path: Path, home: Workspace) -> None:
    fill(tmp_path / "in", 100_000)
    files, before, received, faults, mebibytes, _ = finish(start(home, tmp_path / "in", 10_000))
    assert (files, before, received, faults) == (100_000, 0, 200_000, 0)
    assert mebibytes < 600
    files, before, received, faults, mebibytes, seconds = finish(start(home, tmp_path / "in", 10_000))
    assert (files, before, received, faults) == (0, 100_000, 0, 0)
    assert mebibytes < 400
    assert seconds < 20


def test_killed_at_random_moments(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    fill(folder, 2000)
    whole = resolve_workspace({"FINSENT_HOME": str(tmp_path / "whole")})
    begun = time.monotonic()
    finish(start(whole, folder, 200))
    lasted, draw, killed = time.monotonic() - begun, random.Random(), 0
    expected = tables.read(whole, "inbox", columns=["id", "text"]).sort_by("id")
    assert expected.num_rows == 4000
    for attempt in range(10):
        home = resolve_workspace({"FINSENT_HOME": str(tmp_path / f"home{attempt}")})
        for _ in range(2):
            process = start(home, folder, 200)
            try:
                process.wait(timeout=lasted * draw.uniform(0.2, 1.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                killed += 1
            process.communicate()
        finish(start(home, folder, 200))
        assert tables.read(home, "inbox", columns=["id", "text"]).sort_by("id") == expected
        files, before, *_ = finish(start(home, folder, 200))
        assert (files, before) == (0, 2000)
    assert killed >= 5
