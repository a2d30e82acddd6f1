"""What surrounds finsent on this machine, for `finsent doctor`: user, folders, limits, proxies, launchers, output, clock."""

import codecs
import os
import resource
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from finsent.errors import ConfigError
from finsent.machine_faults import NO_HOME_FOLDER
from finsent.training.distributed import world_from_env
from finsent.workspace import Workspace

Finding = tuple[str, Literal["ok", "warn", "fail"], str, str]
"""Name of the check, its state, what was found, and what to do about it."""

_OPEN_FILES = 1024
_OLDEST_NOW = 1_764_547_200  # 2025-12-01: a clock before finsent's first release is wrong


def find_surroundings(home: Workspace) -> Iterator[Finding]:
    """All of it; nothing is changed."""
    yield _user_folder()
    yield from _home_folder(home.root)
    yield _open_files()
    yield from _proxies()
    yield from _launcher()
    yield _output()
    yield _clock(home)


def _user_folder() -> Finding:
    """Libraries keep caches in the user's own folder and look it up when they are imported."""
    try:
        folder = Path.home()
    except RuntimeError:
        return "user", "fail", f"user {os.geteuid()} has no home folder", NO_HOME_FOLDER
    if folder.is_dir() and os.access(folder, os.W_OK):
        return "user", "ok", str(folder), ""
    advice = "torch, transformers and MLflow keep caches there: set HOME to a folder that can be written."
    return "user", "warn", f"{folder} cannot be written", advice


def _home_folder(root: Path) -> Iterator[Finding]:
    """A home that is there: its mount, its owner, and who may enter it."""
    with suppress(OSError):
        found, mount = root.stat(), os.statvfs(root)
        if mount.f_flag & os.ST_RDONLY:
            advice = "It can be read, not written: mount it for writing to ingest, train or decide."
            yield "home's mount", "warn", "read only", advice
        if mount.f_files and mount.f_favail < 1000:
            yield "home's files", "fail", f"{mount.f_favail} more can be made", "That disk is out of inodes: delete small files."
        if found.st_uid != os.geteuid():
            advice = "Run finsent as that user, or share the home with a group (docs/operations.md)."
            yield "home's owner", "warn", f"user {found.st_uid}, and this is {os.geteuid()}", advice
        if found.st_mode & stat.S_IRWXO:
            advice = f"Everybody on this machine may look into it: chmod o-rwx {str(root)!r}."
            yield "home's permissions", "warn", oct(stat.S_IMODE(found.st_mode)), advice
        else:
            yield "home's permissions", "ok", oct(stat.S_IMODE(found.st_mode)), ""


def _open_files() -> Finding:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = 0 <= limit < _OPEN_FILES
    found = "no limit" if limit < 0 else f"at most {limit}"
    return "open files", "warn" if few else "ok", found, f"Raise it: ulimit -n {4 * _OPEN_FILES}." if few else ""


def _proxies() -> Iterator[Finding]:
    """Without passwords. Servers of this machine are asked directly in any case."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        given = os.environ.get(name.lower()) or os.environ.get(name)
        if not given:
            continue
        shown = given.rpartition("@")[2]
        try:
            sound = bool(urlsplit(given if "//" in given else f"//{given}").hostname)
        except ValueError:
            sound = False
        advice = "" if sound else f"{name} is no URL of a proxy: correct it, e.g. http://proxy:3128."
        yield name, "ok" if sound else "fail", f"{shown}; not for {os.environ.get('no_proxy') or 'any host'}", advice


def _launcher() -> Iterator[Finding]:
    try:
        world = world_from_env()
        if world.size > 1:
            advice = "Only `finsent train` is shared between processes: start doctor without a launcher."
            yield "launcher", "warn", f"{world.size} processes (WORLD_SIZE)", advice
    except ConfigError as error:
        yield "launcher", "fail", "variables that do not fit", str(error)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if threads and not all(part.strip().isdigit() and int(part) > 0 for part in threads.split(",")):
        yield "threads", "warn", f"OMP_NUM_THREADS = {threads!r}", "It is no number of threads: correct it, or unset it."


def _output() -> Finding:
    encoding = codecs.lookup(getattr(sys.stdout, "encoding", None) or "utf-8").name
    advice = "Other characters are shown as escapes: set LANG=C.UTF-8 (or PYTHONIOENCODING=utf-8) to see them."
    return ("output", "ok", encoding, "") if encoding == "utf-8" else ("output", "warn", encoding, advice)


def _clock(home: Workspace) -> Finding:
    """Schedules, approvals and leases go by the clock; a file from its future means that it was set back."""
    now, zone = time.time(), os.environ.get("TZ", "")
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    newest = max((path.stat().st_mtime for path in (home.audit_log, home.root / "mlflow.db") if path.exists()), default=0.0)
    if now < _OLDEST_NOW or newest > now + 60:
        latest = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(max(newest, _OLDEST_NOW)))
        return "clock", "fail", f"{shown}, and the home was written at {latest}", "Set the clock, and have it kept (NTP)."
    try:
        if zone.isascii() and zone and not zone.startswith("/") and not any(map(str.isdigit, zone)):  # as CET-1CEST has
            ZoneInfo(zone.removeprefix(":"))
    except (OSError, ValueError, LookupError):
        return (
            "clock",
            "warn",
            shown,
            f"TZ = {zone!r} is no known time zone. Correct it, or unset it; finsent goes by UTC.",
        )
    return "clock", "ok", shown, ""
