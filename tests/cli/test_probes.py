"""What `finsent up` asks of its servers and workers, of tiny real processes."""

import os
import signal
from collections.abc import Iterator
from dataclasses import replace

import psutil
import pytest

from finsent.cli import probes, processes
from finsent.cli.probes import ask_until_answered, is_not_stopped, lost_runs, lost_runs_at_start, servers_answer
from finsent.cli.server_password import make_password
from finsent.cli.services_file import RunningServices
from finsent.cli.supervisor import Supervised
from finsent.errors import ServiceError
from finsent.workspace import Workspace
from tests.cli.test_supervisor import SLEEPER


@pytest.fixture
def service(home: Workspace) -> Iterator[processes.Service]:
    started = processes.start_service("test", SLEEPER, os.environ, home)
    yield started
    started.process.kill()
    started.process.wait()


def test_a_server_that_is_busy_with_its_start_is_asked_again(service: processes.Service) -> None:
    answers, paused = iter([ServiceError("HTTP Error 503"), ServiceError("HTTP Error 503"), None]), []

    def ask() -> str:
        if (error := next(answers)) is not None:
            raise error
        return "yes"

    assert ask_until_answered(ask, [service], paused.append) == "yes"
    assert paused == [2.0, 2.0]


def test_one_that_has_ended_is_not_asked_again(service: processes.Service) -> None:
    def ask() -> None:
        service.process.kill()
        service.process.wait()
        raise ServiceError("Connection refused")

    with pytest.raises(ServiceError, match="test ended by itself with code -9"):
        ask_until_answered(ask, [service], lambda _: None)


def test_a_worker_that_is_stopped_is_frozen_and_one_that_has_ended_is_not(service: processes.Service) -> None:
    assert is_not_stopped(service)
    psutil.Process(service.process.pid).suspend()
    os.waitid(os.P_PID, service.process.pid, os.WSTOPPED | os.WNOWAIT)
    assert not is_not_stopped(service)
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait()
    assert is_not_stopped(service)


def test_lost_runs_that_cannot_be_looked_for_are_told_once_and_stop_nothing(
    service: processes.Service, home: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_password(home)
    nowhere = RunningServices(1, "http://127.0.0.1:9", "http://127.0.0.1:9", str(home.root), processes={"prefect": (1, 1.0)})
    monkeypatch.setattr(probes, "_BUSY_SECONDS", 0.0)
    (said,) = lost_runs_at_start(nowhere, [service], pytest.fail)
    assert said.startswith("lost runs could not be looked for: ")
    failed: list[str] = []
    looks = [lost_runs(nowhere, [], failed, {}) for _ in range(4)]
    assert [len(told) for told in looks] == [0, 1, 0, 0]
    assert "Connection refused" in looks[1][0]
    service.process.kill()
    service.process.wait()
    with pytest.raises(ServiceError, match="test ended by itself"):
        lost_runs_at_start(nowhere, [service], pytest.fail)


def test_servers_are_asked_while_they_are_known_to_answer(service: processes.Service) -> None:
    """A connection to one that has ended, or starts, waits: and as long nobody starts it again."""

    def kept(name: str, **changed: object) -> Supervised:
        return replace(Supervised(replace(service, name=name), lambda: service, lambda _: True), **changed)  # type: ignore[arg-type]

    good = kept("prefect")
    assert servers_answer([good, kept("worker-cpu", retry_at=1.0)])
    for no in ({"retry_at": 1.0}, {"answered": False}, {"unanswered": 1}):
        assert not servers_answer([kept("mlflow", **no), good])
    service.process.kill()
    service.process.wait()
    assert not servers_answer([good]), "not yet noticed"
