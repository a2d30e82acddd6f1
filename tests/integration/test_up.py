"""`finsent up` as a person meets it: both servers answer, other commands find them, Ctrl-C leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from finsent.cli.services_file import is_healthy
from tests.integration.test_prefect_server import free_port

pytestmark = [pytest.mark.integration, pytest.mark.long]
FINSENT = str(Path(sys.executable).parent / "finsent")


def start(home: Path, *options: str, ignore_interrupts: bool = False) -> "subprocess.Popen[str]":
    """Start `finsent up` and wait for its JSON object; a script's background job would ignore SIGINT."""
    command = [
        FINSENT,
        "up",
        "--home",
        str(home),
        "--mlflow-port",
        str(free_port()),
        "--prefect-port",
        str(free_port()),
        *options,
    ]
    shell = f"trap '' INT; exec {' '.join(command)}" if ignore_interrupts else f"exec {' '.join(command)}"
    environment = {name: value for name, value in os.environ.items() if name != "PREFECT_HOME"}
    return subprocess.Popen(
        ["bash", "-c", shell], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_up_and_down(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "--json", ignore_interrupts=number is signal.SIGINT)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert is_healthy(said["mlflow"])
        assert is_healthy(said["prefect_api"])
        children = psutil.Process(process.pid).children(recursive=True)
        assert len(children) >= 4, "MLflow, Prefect and two workers"
        status = subprocess.run(
            [FINSENT, "status", "--home", str(tmp_path), "--json"], capture_output=True, text=True, check=True
        )
        services = json.loads(status.stdout)["services"]
        assert services["mlflow"] == {"url": said["mlflow"], "answers": True}
        assert services["prefect"] == {"url": said["prefect_api"], "answers": True}
        assert "using the MLflow server" in status.stderr
        second = subprocess.run([FINSENT, "up", "--home", str(tmp_path)], capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert "already up" in second.stderr
    finally:
        os.kill(process.pid, number)
        rest, errors = process.communicate(timeout=90)
    assert process.returncode == 0
    assert rest == ""
    assert "stopped." in errors
    assert gone(children)
    assert not (tmp_path / "services.json").exists()
    assert not is_healthy(said["mlflow"])


def test_a_server_that_dies_takes_the_rest_down_with_one_message(tmp_path: Path) -> None:
    process = start(tmp_path)
    try:
        deadline = time.monotonic() + 120
        while not (tmp_path / "services.json").exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.5)
        children = psutil.Process(process.pid).children(recursive=True)
        server = next(child for child in children if "mlflow" in child.cmdline() and child.ppid() == process.pid)
        server.kill()
        output, errors = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    assert process.returncode == 2
    assert "finsent is up" in output
    assert "error: mlflow ended by itself with code -9" in errors
    assert gone(children)


def test_a_taken_port_is_refused_before_anything_starts(tmp_path: Path) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = subprocess.run(
            [FINSENT, "up", "--home", str(tmp_path), "--prefect-port", str(port)], capture_output=True, text=True, check=False
        )
    assert said.returncode == 2
    assert f"port {port}" in said.stderr
    assert "--prefect-port" in said.stderr
    assert not (tmp_path / "logs").exists()


def test_a_home_whose_servers_were_killed_does_not_use_those_of_another(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    ports = ("--mlflow-port", str(free_port()), "--prefect-port", str(free_port()))
    process = start(first, "--json", *ports)
    try:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        children = psutil.Process(said["pid"]).children(recursive=True)
    finally:
        process.kill()  # leaves services.json
        process.communicate(timeout=30)
    if sys.platform != "linux":
        for child in children:
            child.kill()
    assert gone(children, 30), "Linux ends them with their parent"
    process = start(second, "--json", *ports)
    try:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["mlflow"] == said["mlflow"], "the other home's server, at the same address"
        status = subprocess.run([FINSENT, "status", "--home", str(first), "--json"], capture_output=True, text=True, check=True)
        found = json.loads(status.stdout)["services"]
        assert [found[name]["answers"] for name in ("mlflow", "prefect")] == [False, False]
        assert "has ended" in found["mlflow"]["problem"]
        assert "reading the same store without it" in status.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
