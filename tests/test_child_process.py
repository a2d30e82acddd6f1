"""A child ends with its parent, whatever ends that."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

CHILD = (
    "from finsent.child_process import end_with_parent; end_with_parent(); print('up', flush=True); import time; time.sleep(60)"
)
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
child.wait()
"""
VERIFYING = """
import sys, time
import psutil
from finsent.registry import verification
from finsent.workspace import resolve_workspace

with verification._new_process(resolve_workspace({"FINSENT_HOME": sys.argv[1]}), "finsent", "1"):
    child, = psutil.Process().children()
    while child.num_threads() == 1:  # it watches from a thread
        time.sleep(0.1)
    print(child.pid, flush=True)
    time.sleep(60)
"""


def is_gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("program", [PARENT, pytest.param(VERIFYING, marks=pytest.mark.long)], ids=["any", "round trip"])
def test_no_child_outlives_its_parent(program: str, how: signal.Signals, tmp_path: Path) -> None:
    command = [sys.executable, "-c", program, str(tmp_path / "home")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        parent.send_signal(how)
        parent.wait()
    assert is_gone(child, 10)


ORPHAN = """
import os, subprocess, sys, time
from finsent.child_process import end_with_parent

if len(sys.argv) > 1:  # the child of one that has ended by now
    end_with_parent(int(sys.argv[1]))
    time.sleep(60)
else:
    child = subprocess.Popen([sys.executable, __file__, str(os.getpid())], stdout=subprocess.DEVNULL)
    print(child.pid, flush=True)
"""


def test_a_parent_that_was_gone_before_the_child_watched_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "orphan.py").write_text(ORPHAN, encoding="utf-8")
    done = subprocess.run([sys.executable, str(tmp_path / "orphan.py")], capture_output=True, text=True, check=True)
    assert is_gone(int(done.stdout), 20)
