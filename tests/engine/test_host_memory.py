"""Free memory within the limits of control groups, of both versions, and of `ulimit`."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from finsent.engine.host_memory import host_memory

MIB = 1 << 20


def group(folder: Path, version: int, limit: str, used: int, cached: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {
        2: ("memory.max", "memory.current", "inactive_file"),
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    }
    for name, text in zip(names[version], (limit, str(used), None), strict=True):
        if text is not None:
            (folder / name).write_text(text + "\n", encoding="ascii")
    (folder / "memory.stat").write_text(f"anon 1\n{names[version][2]} {cached}\n", encoding="ascii")


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("own", ["/", "/docker/abc", "/a/b", "/../outside"])
def test_a_containers_limit_holds(tmp_path: Path, version: int, own: str) -> None:
    """Seen from within, or with the name that the group has on the host, or through the groups around it."""
    root = tmp_path / "memory" if version == 1 else tmp_path
    group(root, version, str(100 * MIB), 60 * MIB, cached=20 * MIB)
    (root / "a" / "b").mkdir(parents=True)
    membership = tmp_path / "membership"
    membership.write_text(f"5:cpu:/x\n4:memory:{own}\n" if version == 1 else f"0::{own}\n", encoding="utf-8")
    assert host_memory(tmp_path, membership) == (100 * MIB, 60 * MIB)


def test_the_tightest_of_nested_groups_holds(tmp_path: Path) -> None:
    group(tmp_path, 2, "max", 900 * MIB)
    group(tmp_path / "a", 2, str(200 * MIB), 150 * MIB)
    group(tmp_path / "a" / "b", 2, str(100 * MIB), 10 * MIB)
    (tmp_path / "membership").write_text("0::/a/b\n", encoding="utf-8")
    assert host_memory(tmp_path, tmp_path / "membership") == (100 * MIB, 50 * MIB)
    (tmp_path / "a" / "b" / "memory.current").write_text(str(130 * MIB), encoding="ascii")
    assert host_memory(tmp_path, tmp_path / "membership")[1] == 0


@pytest.mark.parametrize("text", ["", "max", "nonsense", "9223372036854771712"])
def test_no_limit_is_the_machine(tmp_path: Path, text: str) -> None:
    group(tmp_path, 2, text, 5)
    for membership in (tmp_path / "none", tmp_path):
        assert host_memory(tmp_path, membership)[0] == psutil.virtual_memory().total
    (tmp_path / "membership").write_bytes(b"\xff:x\n0")
    assert host_memory(tmp_path / "nowhere", tmp_path / "membership")[0] == psutil.virtual_memory().total


def test_a_ulimit_holds() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "from finsent.engine.host_memory import host_memory; print(*host_memory())"
    )
    total, free = map(
        int, subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert total == min(2 << 30, psutil.virtual_memory().total)
    assert 0 < free < total


@pytest.mark.skipif(not os.access("/sys/fs/cgroup/memory", os.W_OK), reason="needs root and control groups of version 1")
def test_a_real_group_holds() -> None:
    folder = Path(f"/sys/fs/cgroup/memory/finsent-test-{os.getpid()}")
    folder.mkdir()
    try:
        (folder / "memory.limit_in_bytes").write_text(str(512 * MIB), encoding="ascii")
        code = (
            "import sys; from pathlib import Path; Path(sys.argv[1], 'cgroup.procs').write_text('0');"
            "from finsent.engine.host_memory import host_memory; print(*host_memory())"
        )
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
        total, free = map(int, done.stdout.split())
        assert total == 512 * MIB
        assert 300 * MIB < free < total
    finally:
        folder.rmdir()
