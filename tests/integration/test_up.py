"""`finsent up` as a person meets it: both servers answer, other commands find them, Ctrl-C leaves nothing behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from finsent.cli.ownership import find_processes
from finsent.cli.processes import SERVICE_VARIABLE
from finsent.cli.server_password import auth_string
from finsent.cli.services_file import find_mlflow, find_prefect, is_healthy, read_services
from finsent.registry.tracking import connect
from tests.conftest import TINY, Served
from tests.integration.prefect_servers import free_port

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


def prefect_client(home: Path) -> Any:
    from prefect.client.orchestration import SyncPrefectClient

    running = read_services(home)
    assert running is not None
    return SyncPrefectClient(running.prefect_api, auth_string=auth_string(home))


def wait_for(what: str, found: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := found()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.3)
    return result


def processes_of(home: Path) -> dict[str, tuple[int, float]]:
    running = read_services(home)
    return running.processes if running else {}


def started_again(home: Path, name: str, before: dict[str, tuple[int, float]]) -> bool:
    """Whether another process carries the name; until it is started, none does."""
    return processes_of(home).get(name) not in (None, before[name])


def usable(home: Path) -> bool:
    servers = (find_mlflow(home), find_prefect(home))
    return all(server is not None and server.problem is None for server in servers)


def test_what_is_killed_or_frozen_is_there_again_and_a_second_up_ends(tmp_path: Path) -> None:
    process = start(tmp_path, "--json")
    second = None
    try:
        assert process.stdout is not None
        lock = tmp_path / "locks" / "up.lock"
        wait_for("the first one's lock", lambda: lock.exists() and f"process {process.pid} " in lock.read_text(encoding="utf-8"))
        second = start(tmp_path, "--json")  # while the first one starts
        said = json.loads(process.stdout.readline())
        output, errors = second.communicate(timeout=60)
        assert second.returncode == 2
        assert f"already up in {str(tmp_path)!r}: process {said['pid']} on " in json.loads(output)["error"]["message"], errors
        first = processes_of(tmp_path)
        for name in ("mlflow", "prefect", "worker-cpu", "worker-gpu"):
            os.kill(first[name][0], signal.SIGKILL)
            wait_for(name, lambda name=name: started_again(tmp_path, name, first))
        wait_for("servers that answer with the token", lambda: usable(tmp_path))
        again = processes_of(tmp_path)
        assert set(again) == set(first)
        for name in ("prefect", "worker-cpu"):
            os.kill(again[name][0], signal.SIGSTOP)
        for name in ("prefect", "worker-cpu"):
            wait_for(name, lambda name=name: started_again(tmp_path, name, again), 180)
        wait_for("servers that answer with the token", lambda: usable(tmp_path))
        running = read_services(tmp_path)
        assert running is not None
        assert running.restarts == {"mlflow": 1, "prefect": 2, "worker-cpu": 2, "worker-gpu": 1}
        names = [child.environ()[SERVICE_VARIABLE] for child in psutil.Process(said["pid"]).children()]
        assert sorted(names) == sorted(first), "one of each"
        children = find_processes(tmp_path)
    finally:
        if second is not None and second.poll() is None:
            second.terminate()
            second.communicate(timeout=90)
        process.send_signal(signal.SIGHUP)
        _, errors = process.communicate(timeout=90)
    assert process.returncode == 0, errors
    assert f"mlflow (process {first['mlflow'][0]}) was ended by SIGKILL; it is started again in 1 s. Its log, " in errors
    assert "prefect" in errors
    assert "did not answer any more and was killed" in errors
    assert (tmp_path / "logs" / "up.log").is_file()
    assert gone(children)


def test_a_killed_up_is_followed_by_one_that_ends_what_it_left(tmp_path: Path) -> None:
    other = subprocess.Popen(  # as a user's own command on this home
        [sys.executable, "-c", "import time; time.sleep(600)"], env={**os.environ, "FINSENT_HOME": str(tmp_path)}
    )
    process = start(tmp_path, "--json")
    try:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        left = psutil.Process(first["pid"]).children(recursive=True)
        for child in left:
            child.suspend()  # so that none ends with its parent
        process.kill()
        process.communicate(timeout=30)
        process = start(tmp_path, "--json")
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        assert gone(left)
        assert other.poll() is None
        names = [child.environ()[SERVICE_VARIABLE] for child in psutil.Process(process.pid).children()]
        assert sorted(names) == ["mlflow", "prefect", "worker-cpu", "worker-gpu"]
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=90)
        other.kill()
        other.wait()
    assert "ending what a killed `finsent up` left: process " in errors


def test_a_killed_workers_training_ends_and_the_next_run_is_taken(served: Served) -> None:
    home = served.home.root
    process = start(home, "--json")
    try:
        assert process.stdout is not None
        json.loads(process.stdout.readline())
        with prefect_client(home) as client:

            def run(name: str, **parameters: Any) -> Any:
                deployment = client.read_deployment_by_name(f"{name}/{name}")
                return client.create_flow_run_from_deployment(deployment.id, parameters=parameters).id

            endless = [
                *(setting for setting in TINY if "epochs" not in setting),
                "recipe.epochs=500",
                "recipe.checkpoint_every=5",
            ]
            training = run("train", settings={"overrides": endless})
            (checkpoint,) = wait_for("a checkpoint", lambda: sorted(home.glob("runs/*/checkpoint-*"))[:1], 180)
            worker = processes_of(home)["worker-gpu"]
            (engine,) = [child for child in psutil.Process(worker[0]).children() if training_of(child) == str(training)]
            os.kill(worker[0], signal.SIGKILL)
            assert gone([engine], 20)
            wait_for("its state", lambda: client.read_flow_run(training).state_type == "CRASHED", 15)
            assert connect(served.home).get_run(checkpoint.parent.name).info.status == "KILLED"
            assert list(checkpoint.parent.glob("checkpoint-*"))
            wait_for("the next worker", lambda: processes_of(home)["worker-gpu"] != worker, 60)
            scoring = run("score")
            wait_for("the next run", lambda: client.read_flow_run(scoring).state_type == "COMPLETED", 120)
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)


def training_of(process: psutil.Process) -> str | None:
    return process.environ().get("PREFECT__FLOW_RUN_ID") if "prefect.engine" in process.cmdline() else None


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
        status = subprocess.run([FINSENT, "status", "--home", str(first), "--json"], capture_output=True, text=True, check=False)
        assert status.returncode == 1, "nothing runs by schedule"
        found = json.loads(status.stdout)["services"]
        assert [found[name]["answers"] for name in ("mlflow", "prefect")] == [False, False]
        assert "has ended" in found["mlflow"]["problem"]
        assert "reading the same store without it" in status.stderr
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=90)
