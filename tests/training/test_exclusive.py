"""Two processes that would train in one home, one of them frozen."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from finsent import files
from finsent.errors import RunEnded
from finsent.training.exclusive import TrainingBusy, hold_training
from finsent.workspace import Workspace
from tests.lock_holding import freeze

HOLD = """
from finsent.training.exclusive import hold_training
from finsent.workspace import resolve_workspace
with hold_training(resolve_workspace(), "train nano data-v3"):
    print("holds it", flush=True)
    input()
print("let go", flush=True)
"""


@pytest.fixture
def other(home: Workspace) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in the home, until it reads a line."""
    environment = {**os.environ, "FINSENT_HOME": str(home.root), "PREFECT__FLOW_RUN_ID": "0a1b"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "holds it\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_frozen_training_keeps_its_place_and_is_named(
    home: Workspace, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    freeze(other)
    monkeypatch.setattr(files, "_SILENT_SECONDS", 0.05)
    asked: list[int] = []
    said = (
        rf"another training .* Process {other.pid} \(train nano data-v3, flow run 0a1b\) .* is stopped: `kill -CONT {other.pid}`"
    )
    with pytest.raises(TrainingBusy, match=said), hold_training(home, "mine", wait=0.2, while_waiting=lambda: asked.append(1)):
        pass
    assert len(asked) > 1

    def ended() -> None:
        raise RunEnded("crashed while it waited")

    with pytest.raises(RunEnded), hold_training(home, "mine", while_waiting=ended):
        pass
    os.kill(other.pid, signal.SIGCONT)
    print(file=other.stdin, flush=True)
    with hold_training(home, "mine", wait=20), hold_training(home, "the same process, in an inner call"):
        assert other.stdout is not None
        assert other.stdout.readline() == "let go\n"


def test_the_place_of_a_killed_training_is_free(home: Workspace, other: subprocess.Popen[str]) -> None:
    other.kill()
    with hold_training(home, "mine", wait=20):
        assert files.lock_holder(home.lock("training")) == files._this_process("mine")
