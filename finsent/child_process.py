"""Lets a child process end with its parent, however that ends: one that is killed stops no child."""

import os
import signal
import threading
import time
from functools import cache

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 30.0


@cache
def end_with_parent(parent: int | None = None) -> None:
    """Terminate this process, from a thread, as soon as the one that started it is gone; killed if it is still there later.

    Left alone it would go on with a model on the GPU, beside the run that takes its place. `parent` is its process id as it was
    found at the start; left out, it is asked for now.
    """
    parent = os.getppid() if parent is None else parent

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
