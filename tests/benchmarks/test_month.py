"""The chaos run's plan and its reading of what it saw; the run itself, short, in the long suite."""

import importlib
import json
import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_a_plan_holds_every_kind_and_is_repeatable() -> None:
    plan = importlib.import_module("chaos.plan")
    faults = plan.make_plan(1200, 40, 13, postgres=True)
    assert faults == plan.make_plan(1200, 40, 13, postgres=True)
    assert faults != plan.make_plan(1200, 40, 14, postgres=True)
    assert sum(fault.kills for fault in faults) == 40
    names = Counter(fault.name for fault in faults)
    assert {f"kill {name}" for name in (*plan.SERVICES, *plan.FLOWS, plan.BOTH)} <= set(names)
    assert names["restart up"] == names["freeze train"] + names["freeze score"] == 2
    assert [names[f"{name} away"] for name in ("mlflow", "prefect", "postgres")] == [1, 1, 1]
    assert names["disk full"] == 1
    assert faults[0].at > 0.03 * 1200
    assert faults[-1].at < 0.97 * 1200
    heavy = [fault.at for fault in faults if fault.name in plan.HEAVY and not fault.name.startswith("freeze")]
    assert min(later - sooner for sooner, later in pairwise(heavy)) > 25


def test_the_time_to_scoring_counts_anew_from_a_fault_that_ends_scoring_runs() -> None:
    def late(*faults: tuple[str, float]) -> list[str]:
        entries: list[dict[str, Any]] = [{"name": name, "began": at, "ended": at} for name, at in faults]
        return [text.split(":")[0] for text in time_to_scoring(entries, [50.0, 200.0], 90.0)]

    time_to_scoring = importlib.import_module("chaos.criteria").time_to_scoring
    assert late(("kill mlflow", 10.0)) == late(("kill mlflow", 115.0)) == []
    assert late(("kill mlflow", 100.0)) == ["kill mlflow at 100.0 s"]
    assert late(("kill mlflow", 100.0), ("kill score", 120.0)) == [], "the run that would have been in time was killed"
    assert late(("kill mlflow", 60.0), ("kill score", 160.0)) == ["kill mlflow at 60.0 s"], "there was time before"
    assert late(("kill mlflow", 100.0), ("kill ingest", 120.0)) == ["kill mlflow at 100.0 s"], "ends no scoring run"
    during = [
        {"name": "freeze score", "began": 60.0, "ended": 150.0},
        {"name": "kill mlflow", "began": 90.0, "ended": 90.0},
    ]
    assert time_to_scoring(during, [50.0, 200.0], 90.0) == [], "nothing could be scored until it thawed"
    assert late(("kill mlflow", 210.0)) == ["kill mlflow at 210.0 s"], "never"


@pytest.mark.parametrize("kills", [1, 2, 3, 7, 12, 25, 80])
def test_a_plan_has_as_many_kills_as_asked_for(kills: int) -> None:
    plan = importlib.import_module("chaos.plan")
    assert sum(fault.kills for fault in plan.make_plan(600, kills, 1)) == kills


def view(**changed: Any) -> Any:
    """A system in which everything runs, with changes."""
    pids = {"mlflow": 11, "prefect": 12, "worker-cpu": 13, "worker-gpu": 14, "up": 10}
    whole = {"at": 5.0, "pids": pids, "mlflow": True, "prefect": True, "living": {}, "processes": {}}
    heard = {"worker-cpu": 100.0, "worker-gpu": 100.0}
    return importlib.import_module("chaos.watch").View(**{**whole, "heard": heard, **changed})


@pytest.mark.parametrize(
    ("entry", "changed", "recovered"),
    [
        ({"name": "kill mlflow", "pids": [1]}, {}, True),
        ({"name": "kill mlflow", "pids": [11]}, {}, False),
        ({"name": "kill mlflow", "pids": [1]}, {"mlflow": False}, False),
        ({"name": "kill prefect", "pids": [1]}, {"living": None}, False),
        ({"name": "kill worker-cpu", "pids": [1], "clock": 90.0}, {}, True),
        ({"name": "kill worker-cpu", "pids": [1], "clock": 110.0}, {}, False),
        ({"name": "kill train", "instead": "none came", "pids": [1]}, {}, True),
        ({"name": "kill up", "pids": [10]}, {}, False),
        ({"name": "kill up", "pids": [1]}, {}, True),
        ({"name": "disk full"}, {"pids": {"up": 10}}, False),
        ({"name": "kill score", "pids": [2], "run": "r"}, {"living": {"r": "score RUNNING"}}, False),
        ({"name": "freeze train", "pids": [2], "run": "r"}, {"processes": {"r": 2}}, False),
        ({"name": "kill worker-gpu+score", "pids": [1, 2], "run": "r"}, {"pids": {"up": 10}}, False),
        ({"name": "kill worker-gpu+score", "pids": [1, 2], "run": "r"}, {}, True),
    ],
)
def test_recovery_is_read_from_what_is_seen(entry: dict[str, Any], changed: dict[str, Any], *, recovered: bool) -> None:
    assert importlib.import_module("chaos.watch").has_recovered(entry, view(**changed)) is recovered


def test_rows_that_are_lost_or_doubled_are_counted(tmp_path: Path) -> None:
    judged = importlib.import_module("chaos.criteria").judge_rows
    counts = {"fed": 3, "received": 3, "received_twice": 0, "number_never_received": 0, "number_never_scored": 0}
    counts |= {"predictions": 3, "number_scored_twice": 0, "not_by_champion": 0, "not_of_a_champion": []}
    counts |= {"never_received": [], "never_scored": [], "scored_twice": []}
    assert [item["held"] for item in judged(counts)] == [True] * 4
    lost = {**counts, "number_never_scored": 1, "never_scored": ["m1"], "not_by_champion": 1}
    assert [item["held"] for item in judged(lost)] == [False, True, True, False]
    assert [item["held"] for item in judged({**counts, "number_scored_twice": 1})] == [True, False, True, True]
    assert [item["held"] for item in judged({"error": "gone"})] == [False]


@pytest.mark.long
@pytest.mark.integration
def test_three_minutes_with_a_few_faults(tmp_path: Path) -> None:
    options: tuple[str, ...] = (
        "--minutes",
        "3",
        "--kills",
        "3",
        "--restarts",
        "0",
        "--freezes",
        "0",
        "--away",
        "12",
        "--period",
        "40",
    )
    options += ("--no-approval", "--first-port", "5750")
    folder = tmp_path / "month"
    command = [sys.executable, str(FOLDER / "month.py"), str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1500)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    assert [item["name"] for item in found["criteria"] if not item["held"]] == []
    assert len([entry for entry in found["faults"] if entry["began"] is not None]) >= 5
