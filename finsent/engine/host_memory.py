"""Memory of this machine that this process may use: what is free, within the limits of its container and of `ulimit`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_MEMBERSHIP: Final = Path("/proc/self/cgroup")
# Of control groups of version 2 and 1: limits, usage, and the key in memory.stat of cached file pages, given back on demand.
_FILES: Final = (
    (("memory.max", "memory.high"), "memory.current", "inactive_file"),
    (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file"),
)


def host_memory(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> tuple[int, int]:
    """Bytes in total and free. A machine's own numbers are those of the host, which kills a container that takes more.

    Args:
        cgroups: Where control groups are mounted.
        membership: File that names the groups of this process.
    """
    import resource

    import psutil

    machine = psutil.virtual_memory()
    total, free = int(machine.total), int(machine.available)
    for limit, used in _group_limits(cgroups, membership):
        total, free = min(total, limit), min(free, limit - used)
    if (limit := resource.getrlimit(resource.RLIMIT_AS)[0]) != resource.RLIM_INFINITY:
        total, free = min(total, limit), min(free, limit - psutil.Process().memory_info().vms)
    return total, max(free, 0)


def _group_limits(cgroups: Path, membership: Path) -> Iterator[tuple[int, int]]:
    """Limit and use of each control group that this process is in, its own and those around it."""
    for root, names in ((cgroups, _FILES[0]), (cgroups / "unified", _FILES[0]), (cgroups / "memory", _FILES[1])):
        own = root / _own_group(membership, version=2 if names is _FILES[0] else 1).lstrip("/")
        # Inside a container its group is the root of the mount, while the name may be that on the host.
        for folder in (own, *own.parents) if own.is_dir() else (root,):
            if not folder.is_relative_to(root):
                break
            limits = [limit for name in names[0] if (limit := _number(folder / name)) is not None]
            used = _number(folder / names[1])
            if limits and used is not None:
                yield min(limits), max(used - _statistic(folder / "memory.stat", names[2]), 0)


def _own_group(membership: Path, version: int) -> str:
    """Path of this process's group below the mount, e.g. `/user.slice`; `/` where none is named."""
    try:
        lines = [line.split(":", 2) for line in membership.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return "/"
    found = (
        line[2]
        for line in lines
        if len(line) == 3 and (not line[1] if version == 2 else "memory" in line[1].split(",")) and ".." not in line[2]
    )
    return next(found, "/")


def _number(file: Path) -> int | None:
    """None for `max`, a missing file, or something else that is no number."""
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _statistic(file: Path, key: str) -> int:
    try:
        lines = dict(line.split(None, 1) for line in file.read_text(encoding="ascii").splitlines())
        return int(lines.get(key, 0))
    except (OSError, ValueError):
        return 0
