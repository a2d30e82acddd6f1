import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finsent.training.distributed import World, broadcast, shard, terminate_with_peers, world_from_env

SINGLE_PROCESS = World(0, 1)


@given(lengths=st.lists(st.integers(1, 128), min_size=1, max_size=80), size=st.integers(1, 9), data=st.data())
def test_every_row_of_a_step_is_computed_by_exactly_one_process(lengths: list[int], size: int, data: st.DataObject) -> None:
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), unique=True))
    shares = [shard(rows, lengths, World(rank, size)) for rank in range(size)]
    assert sorted(row for share in shares for row in share) == sorted(rows)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    work = [sum(lengths[row] for row in share) for share in shares]
    assert max(work) - min(work) <= max((lengths[row] for row in rows), default=0)


def test_the_launchers_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    assert world_from_env() == SINGLE_PROCESS
    assert SINGLE_PROCESS.is_main
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world_from_env() == World(3, 4)
    assert not world_from_env().is_main


def test_one_process_keeps_its_rows_and_values_and_its_signals() -> None:
    assert shard([5, 2, 9], [1] * 10, SINGLE_PROCESS) == [5, 2, 9]
    assert broadcast(SINGLE_PROCESS, "x") == "x"
    before = signal.getsignal(signal.SIGTERM)
    with terminate_with_peers(SINGLE_PROCESS, lambda: None):
        assert signal.getsignal(signal.SIGTERM) is before


WAITING = """
import signal, sys, time
from finsent.training import distributed

distributed._GRACE = 0.5
write = lambda text: print(text, flush=True)
with distributed.terminate_with_peers(distributed.World(0, 2), lambda: write("last words")):
    try:
        write("ready")
        {wait}
    except KeyboardInterrupt:
        write("interrupted")
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
"""
# a lock that a C function waits for, as it does for a GPU: Python's signal handlers do not run meanwhile
DEAF = "import ctypes; lock, C = ctypes.create_string_buffer(64), ctypes.CDLL(None); [C.pthread_mutex_lock(lock) for _ in '12']"


@pytest.mark.parametrize(
    ("wait", "said", "code"),
    [
        ("time.sleep(20)", ["ready", "interrupted"], 0),
        (DEAF, ["ready", "last words"], 128 + signal.SIGTERM),
    ],
)
def test_a_process_ends_when_the_launcher_says_so_even_one_that_cannot_hear(wait: str, said: list[str], code: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING.format(wait=wait)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    rest, _ = process.communicate(timeout=15)
    assert ["ready", *rest.split("\n")[:-1]] == said
    assert process.returncode == code


def test_every_process_of_a_launch_ends_with_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """How it ends: tests of `finsent.child_process`."""
    from finsent.training import distributed

    asked: list[bool] = []
    monkeypatch.setattr(distributed, "end_with_parent", lambda: asked.append(True))
    monkeypatch.setattr("accelerate.PartialState", lambda **_: None)
    distributed.init()
    assert asked == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    distributed.init()
    assert asked == [True]
