"""Two machines score 80,000 tweets at once, with twenty kills and another champion in the middle: none lost, none doubled."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from finsent.config import Config
from finsent.data import tables
from finsent.registry import tracking
from finsent.registry.client import Registry
from finsent.steps.context import make_context
from finsent.steps.score import score
from finsent.workspace import Workspace
from tests import champions
from tests.homes import copy_home

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),  # transformers' own
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
]

ROWS, CHUNK, KILLS = 80_000, 500, 20

LIVES = """
import os, signal, sys, warnings
from pathlib import Path
warnings.simplefilter("ignore")
import mlflow, peft, transformers
from finsent.config import Config
from finsent.steps import score as pipeline
from finsent.steps.context import make_context
from finsent.workspace import Workspace
settings, *places = sys.argv[1:]
config, home = Config.model_validate_json(Path(settings).read_text()), Workspace(Path(places[0]), *places[1:])
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for _ in sys.stdin:  # the imports above are paid once
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        pipeline.score(make_context(config, home), progress=False)
        os._exit(0)
    print(child, flush=True)
"""


class Machine:
    """Scores the tables of a home, one process after the other."""

    def __init__(self, settings: Path, home: Workspace) -> None:
        places = [str(home.root), home.tables_url, home.tracking_uri]
        command = [sys.executable, "-c", LIVES, str(settings), *places]
        self.log = settings.with_name(f"{home.root.name}.log").open("wb")
        self.parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        self.start()

    def start(self) -> None:
        assert self.parent.stdin is not None
        assert self.parent.stdout is not None
        self.parent.stdin.write("\n")
        self.parent.stdin.flush()
        self.child = int(self.parent.stdout.readline())

    def is_at_work(self) -> bool:
        return Path(f"/proc/{self.child}").exists()

    def kill(self) -> bool:
        """False where it had ended."""
        try:
            os.kill(self.child, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def close(self) -> None:
        self.kill()
        self.parent.communicate(timeout=30)
        self.log.close()


@pytest.fixture(scope="module")
def config(tiny_config: Config) -> Config:
    scoring = tiny_config.scoring.model_copy(update={"chunk_rows": CHUNK})
    return tiny_config.model_copy(update={"scoring": scoring})


def register(home: Workspace, config: Config, adapter: Path) -> str:
    with tracking.start_run(config, home, kind="train") as run_id:
        return Registry(home, config.registered_model).register(adapter, run_id=run_id, profile=config.profile)


def fill(home: Workspace) -> None:
    now = datetime.now(UTC)
    said = ("to the moon", "will crash", "reports on tuesday")
    texts = [f"$TICK{i % 97} {said[i % 3]} number {i - i % 5 // 4}" for i in range(ROWS)]  # a fifth are copies
    columns = {"id": [str(i) for i in range(ROWS)], "created_at": [now] * ROWS, "text": texts, "received_at": [now] * ROWS}
    tables.append(home, "inbox", pa.table(columns).cast(tables.SCHEMAS["inbox"]))


def outcome(home: Workspace) -> pa.Table:
    return tables.read(home, "predictions").drop_columns(["run_id", "scored_at"]).sort_by("id")


def commits(home: Workspace) -> int:
    return tables.version(home, "predictions") or 0


def wait(until: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def homes(mlflow_home: Workspace, config: Config, make_adapter: Callable[[int], Path], tmp_path: Path) -> list[Workspace]:
    """Three with two versions and the same tweets; the second one's champion is version 2."""
    for seed in (0, 1):
        register(mlflow_home, config, make_adapter(seed))
    champions.crown(Registry(mlflow_home, "finsent"), "1")
    fill(mlflow_home)
    others = [copy_home(mlflow_home.root, tmp_path / name) for name in ("second", "third")]
    champions.crown(Registry(others[0], "finsent"), "2", "1")
    return [mlflow_home, *others]


def test_twenty_kills_two_machines_and_another_champion_in_the_middle(
    homes: list[Workspace], config: Config, tmp_path: Path
) -> None:
    first, second, home = homes
    assert [score(make_context(config, one), progress=False).scored for one in (first, second)] == [ROWS, ROWS]
    by_version = {"1": outcome(first), "2": outcome(second)}

    settings = tmp_path / "config.json"
    settings.write_text(config.model_dump_json(), encoding="utf-8")
    elsewhere = Workspace(root=tmp_path / "elsewhere", tables_url=home.tables_url, tracking_uri=home.tracking_uri)
    chance, kills = random.Random(7), 0
    with closing(Machine(settings, home)) as one, closing(Machine(settings, elsewhere)) as other:
        while kills < KILLS:
            seen = commits(home)
            wait(lambda seen=seen: commits(home) > seen + chance.randint(0, 2) or not (one.is_at_work() and other.is_at_work()))
            time.sleep(chance.random() * 0.1)  # anywhere in a chunk
            victim = chance.choice((one, other))
            kills += victim.kill()
            if kills == KILLS // 2:
                champions.crown(Registry(home, "finsent"), "2", "1")
            wait(lambda victim=victim: not victim.is_at_work())
            assert len(tables.read(home, "predictions", columns=["id"])) < ROWS, "killed while there was something to do"
            victim.start()
        wait(lambda: not one.is_at_work() and not other.is_at_work(), 600)
    assert score(make_context(config, home), progress=False).scored == 0

    found = outcome(home)
    assert found["id"].to_pylist() == by_version["1"]["id"].to_pylist(), "none lost, none doubled"
    counts = {row["values"]: row["counts"] for row in found["model_version"].value_counts().to_pylist()}
    assert min(counts["1"], counts["2"]) > 10 * CHUNK, counts
    for version, whole in by_version.items():
        its = pc.equal(found["model_version"], version)
        assert found.filter(its).equals(whole.filter(its)), "equal to the last bit to what an uninterrupted run of it gives"
