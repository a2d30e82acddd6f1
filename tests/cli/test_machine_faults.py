"""Whatever the machine refuses is told as the machine's fault: streams, variables, folders, users, disks."""

import json
import os
import resource
import shlex
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import requests
from prefect.exceptions import MissingResult
from safetensors import SafetensorError

from finsent import machine_faults

if TYPE_CHECKING:
    from tests.cli.conftest import Finsent

PROGRAM = shlex.quote(str(Path(sys.executable).parent / "finsent"))


def shell(line: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """One line of a shell; `$f` is finsent."""
    environment = {**os.environ, "FINSENT_HOME": str(folder / "home"), **variables, "f": PROGRAM.strip("'")}
    return subprocess.run(
        ["bash", "-c", line],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=folder,
        errors="replace",
        timeout=60,
    )


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("$f config show > /dev/full", 2, "cannot be written to stdout: No space left on device"),
        ("$f config show --json > /dev/full", 2, "cannot be written to stdout: No space left on device"),
        ("$f config show >&- <&-", 0, ""),
        ("$f nonsense 2>&-", 2, ""),
        ("mkdir gone; cd gone; rmdir ../gone; FINSENT_HOME= $f doctor", 2, "working folder cannot be found"),
    ],
    ids=["full", "full json", "stdin and stdout closed", "stderr closed", "working folder deleted"],
)
def test_streams_and_folders_that_fail(line: str, code: int, said: str, tmp_path: Path) -> None:
    done = shell(line, tmp_path)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "bug" not in done.stderr
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_an_output_that_cannot_show_a_character_gets_its_escape(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("notes: ['to the moon \U0001f680 caf\u00e9']", encoding="utf-8")
    plain = shell("$f config show --config mine.yaml | iconv -f latin1 -t utf8", tmp_path, PYTHONIOENCODING="latin-1")
    assert "to the moon \\U0001f680 caf\u00e9" in plain.stdout, plain.stderr
    found = shell("$f config show --config mine.yaml --json", tmp_path, PYTHONIOENCODING="latin-1")
    assert json.loads(found.stdout)["notes"] == ["to the moon \U0001f680 caf\u00e9"]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_variables_of_a_launcher(name: str, finsent: "Finsent", monkeypatch: pytest.MonkeyPatch) -> None:
    for empty in ("", " "):
        monkeypatch.setenv(name, empty)
        assert finsent("config", "show", "--json").json()["profile"] == "nano"
    for wrong in ("one", "-1", "1.5", "²"):
        monkeypatch.setenv(name, wrong)
        said = finsent("config", "show")
        assert (said.code, "unset it" in said.err, name in said.err) == (2, True, True), said.err


def test_a_rank_that_is_none_of_its_size(finsent: "Finsent", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    assert "RANK = 3 and WORLD_SIZE = 1 do not fit together" in finsent("config", "show").err


@pytest.mark.parametrize("name", ["FINSENT_PROFILE", "FINSENT_CONFIG", "FINSENT_TRACEBACK", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"])
def test_a_variable_without_a_value_counts_as_not_set(name: str, finsent: "Finsent", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "")
    assert finsent("config", "show", "--json").json()["profile"] == "nano"
    assert os.environ[name] != "" or name.startswith("FINSENT")


def raised(error: Exception, cause: Exception | None = None) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/h/x"), "'/h/x': No space left on device. Make room"),
        (OSError(30, "Read-only file system", "/h/x"), "mounted read only"),
        (PermissionError(13, "Permission denied", "/h/x"), "owner and permissions"),
        (OSError(24, "Too many open files", "x"), "ulimit -n"),
        (MemoryError(), "memory is used up"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), "memory is used up"),
        (RuntimeError("Could not determine home directory."), "Set HOME to a folder"),
        (KeyError("getpwuid(): uid not found: 12345"), "Set HOME to a folder"),
        (sqlite3.DatabaseError("database disk image is malformed"), "put a backup"),
        (httpx.ConnectError("All connection attempts failed"), "PREFECT_API_URL, MLFLOW_TRACKING_URI) does not answer"),
        (requests.exceptions.ReadTimeout("timed out."), "(timed out). Look at it"),
        (MissingResult("The result was not persisted."), "the Prefect server (PREFECT_API_URL)"),
        (RuntimeError("Failed to reach API at http://127.0.0.1:1/api/"), "the Prefect server (PREFECT_API_URL)"),
        (RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server."), "did not start within 20 s"),
        (TimeoutError(), "a server does not answer, or not as it should (TimeoutError)"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "28). Make room on"),
        (ValueError("x"), None),
        (RuntimeError("x"), None),
    ],
    ids=str,
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["itself", "as a cause"])
def test_the_machines_errors_are_known(error: Exception, said: str | None, wrapped: bool) -> None:
    found = machine_faults.describe(raised(ValueError("of a library"), error) if wrapped else error)
    assert found is None if said is None else said in str(found)


def test_a_variable_that_a_library_cannot_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "soon")
    said = machine_faults.describe(ValueError("invalid literal for int() with base 10: 'soon'"))
    assert "SOURCE_DATE_EPOCH = 'soon' in the environment" in str(said)
    assert machine_faults.describe(ValueError("another 'thing'")) is None


def test_json_is_asked_for_by_the_option_alone(finsent: "Finsent") -> None:
    assert finsent("config", "show", "--", "--json").out == ""
    assert finsent("approve", "1", "--why", "--json", "--profile", "none").out == ""
    assert "none" in finsent("config", "show", "--profile", "none", "--json").json()["error"]["message"]


def test_a_library_that_a_limit_of_memory_keeps_out_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ulimit -v 600000` does; which library is the first that does not fit differs, and some of them abort."""
    error = ImportError("rensa.so: failed to map segment from shared object")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (600_000 * 1024, resource.RLIM_INFINITY))
    assert "this process may map 0.6 GiB (`ulimit -v`)" in str(machine_faults.describe(error))
    monkeypatch.setattr(resource, "getrlimit", lambda _: (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert machine_faults.describe(error) is None
