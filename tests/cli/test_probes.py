"""What `finsent up` asks of its servers and workers, of tiny real processes."""

import os
import signal
from collections.abc import Iterator

import psutil
import pytest

from finsent.cli import processes
from finsent.cli.probes import ask_until_answered, is_not_stopped
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
