"""Another process that holds a lock, and one that is frozen."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from finsent.files import locked
with locked(Path(sys.argv[1]), 0, ""):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held(lock: Path) -> "Iterator[subprocess.Popen[str]]":
    """Another process that holds the lock until a line is written to it; killed at the end, frozen or not."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "held\n"
            yield other
        finally:
            other.kill()


def freeze(process: "subprocess.Popen[str] | subprocess.Popen[bytes]") -> None:
    """Stop a child, and wait until it has stopped: the signal alone comes when the system likes."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
