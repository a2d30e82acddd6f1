"""The servers' ports: taken before a server starts, and nobody else's until `finsent up` ends."""

import os
import socket
from pathlib import Path

import pytest

from finsent.cli import processes
from finsent.cli.listening import listen
from finsent.cli.services_file import is_healthy
from finsent.errors import InputError
from finsent.workspace import Workspace


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def test_taken_ports_are_refused_by_name() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port, free = holder.getsockname()[1], free_port()
        with pytest.raises(InputError, match=rf"port {port} on '127\.0\.0\.1', wanted for mlflow.*--mlflow-port"):
            listen("127.0.0.1", {"prefect": free, "mlflow": port})
        with socket.create_server(("127.0.0.1", free)):
            pass  # what was taken already is free again


def test_one_port_cannot_serve_both() -> None:
    with pytest.raises(InputError, match="need different ports, and both were given 5000"):
        listen("127.0.0.1", {"mlflow": 5000, "prefect": 5000})


@pytest.mark.parametrize(("host", "others"), [("localhost", ["127.0.0.1"]), ("::", ["127.0.0.1", "::1"])])
def test_a_port_is_taken_at_all_addresses_of_its_host(host: str, others: list[str]) -> None:
    taken = listen(host, {"mlflow": free_port()})["mlflow"]
    for other in others:
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server((other, taken[0].getsockname()[1]), family=socket.AF_INET6 if ":" in other else socket.AF_INET)
    for one in taken:
        one.close()


NEVER_ACCEPTS = "import time; print('ready', flush=True); time.sleep(60)"
ANSWERS = """
import socket, sys
found = socket.socket(fileno=int(sys.argv[sys.argv.index("--fd") + 1]))
print("ready", flush=True)
while True:
    asked, _ = found.accept()
    asked.recv(1000)
    asked.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nOK")
    asked.close()
"""


def test_a_port_is_nobody_elses_while_its_server_starts_and_starts_again(tmp_path: Path, home: Workspace) -> None:
    """Whoever answered there would be sent the password."""
    port = free_port()
    sockets = listen("127.0.0.1", {"mlflow": port})["mlflow"]

    def start(code: str) -> processes.Service:
        (tmp_path / "server_under_test.py").write_text(code, encoding="utf-8")
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
        service = processes.start_service("test", ["server_under_test"], env, home, sockets)
        processes.wait_until(lambda: "ready" in service.log_tail(), service, seconds=20)
        return service

    def is_taken() -> bool:
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            return True
        return False

    starting = start(NEVER_ACCEPTS)
    assert is_taken()
    assert not is_healthy(f"http://127.0.0.1:{port}", timeout=0.2), "it waits, and gives up"
    starting.process.kill()
    starting.process.wait()
    assert is_taken(), "between two starts, too"
    again = start(ANSWERS)
    assert is_healthy(f"http://127.0.0.1:{port}")
    processes.stop_services([again])
    assert is_taken()
    for one in sockets:
        one.close()
    assert not is_taken(), "no child has kept it"
