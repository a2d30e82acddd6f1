"""The log of a Delta table in a local folder, and power cuts: commits are flushed to the disk, and damaged ones found."""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote

from finsent.files import sync


def damaged_commit(table: Path) -> Path | None:
    """The first commit since the last checkpoint that is empty, blank or cut off.

    Delta takes an empty one for a commit without changes. Earlier ones were the newest once, and were looked at before anything
    was committed after them; so the cost does not grow with the table's age.
    """
    log = table / "_delta_log"
    first = f"{_last_checkpoint(log):020d}.json"
    for path in sorted(path for path in log.glob("*.json") if path.name >= first):
        with suppress(FileNotFoundError):  # log clean-up by another process
            state = path.stat()
            if not _is_whole(path, state.st_size, state.st_mtime_ns):
                return path
    return None


def _last_checkpoint(log: Path) -> int:
    """Version of the last checkpoint, 0 where there is none or its record cannot be read."""
    try:
        return int(json.loads((log / "_last_checkpoint").read_bytes())["version"])
    except (OSError, ValueError, RecursionError, LookupError, TypeError):
        return 0


@lru_cache(maxsize=1 << 12)
def _is_whole(path: Path, size: int, changed: int) -> bool:  # noqa: ARG001 - size and time are part of the key
    try:
        actions = _actions(path)
    except (ValueError, RecursionError):
        return False
    return bool(actions) and all(isinstance(action, dict) and action for action in actions)


def _actions(commit: Path) -> list[dict[str, dict[str, str]]]:
    return [json.loads(line) for line in commit.read_bytes().split(b"\n") if line.strip()]


@contextmanager
def flushed(table: Path) -> Iterator[None]:
    """Flush to the disk what is committed within: Delta leaves that to the system, and a power cut would empty the files."""
    log = table / "_delta_log"
    before = {path.name for path in log.glob("*")}
    yield
    entries = [path for path in log.glob("*") if path.name not in before]
    added = [table / unquote(add["path"]) for path in entries if path.suffix == ".json" for add in _added(path)]
    folders = dict.fromkeys((*(path.parent for path in added), log, table, table.parent)) if entries else ()
    for path in (*added, *entries, *folders):
        with suppress(FileNotFoundError):  # a vacuum or log clean-up by another process
            sync(path)


def _added(commit: Path) -> list[dict[str, str]]:
    with suppress(FileNotFoundError):
        return [action["add"] for action in _actions(commit) if "add" in action]
    return []
