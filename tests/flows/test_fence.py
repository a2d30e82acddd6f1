"""When a flow run is not this process's own any more."""

import socket
import time
from contextlib import nullcontext
from types import SimpleNamespace
from uuid import uuid4

import httpx
import pytest
from prefect.client.schemas.objects import FlowRun, State
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Completed, Crashed, Pending, Running

from finsent.errors import DeviceError, RunEnded, ServiceError
from flows import fence
from flows.tasks import machine_faults_told


def run(state: State[None], attempt: int = 1) -> FlowRun:
    return FlowRun(flow_id=uuid4(), name="train nano data-v3", state=state, run_count=attempt)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (run(Running()), None),
        (run(Cancelling()), None),  # its worker stops it
        (run(Crashed(message="heartbeat lost")), "the flow run 'train nano data-v3' is Crashed (heartbeat lost)"),
        (run(Completed(name="Skipped")), "the flow run 'train nano data-v3' is Skipped"),
        (run(Pending()), "the flow run 'train nano data-v3' is Pending"),
        (run(Running(), 2), "the flow run 'train nano data-v3' was started again, as attempt 2, and this is attempt 1"),
        (None, "its flow run was deleted"),
    ],
)
def test_what_ends_the_work(found: FlowRun | None, problem: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "get_client", lambda **_: nullcontext())
    monkeypatch.setattr(fence, "_read", lambda _client, _id: found)
    monkeypatch.setattr(fence, "_EVERY", 0)
    token = fence._fence.set(fence._Fence([(str(uuid4()), 1)]))
    try:
        if problem is None:
            fence.require_own_run()
        else:
            with pytest.raises(RunEnded) as ended:
                fence.require_own_run()
            assert str(ended.value).startswith(f"{problem}: this process, ")
    finally:
        fence._fence.reset(token)


def test_a_server_that_hangs_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence, "_PATIENCE", 0.3)
    token = fence._fence.set(fence._Fence([(str(uuid4()), 1)], due=0.0))
    with socket.socket() as hanging:
        hanging.bind(("127.0.0.1", 0))
        hanging.listen()
        begun = time.monotonic()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{hanging.getsockname()[1]}/api"}):
            fence.require_own_run()
            asked = time.monotonic()
            for _ in range(3):
                fence.require_own_run()
    fence._fence.reset(token)
    assert 0.3 <= asked - begun < 3, "one question, without retries"
    assert time.monotonic() - asked < 0.1, "and none again soon"


@pytest.mark.parametrize(
    ("facts", "by_itself"),
    [
        ({}, False),
        ({"idempotency_key": "mine"}, False),
        ({"auto_scheduled": True}, True),
        ({"created_by": {"type": "AUTOMATION"}}, True),
        ({"idempotency_key": f"{fence.SECOND_TRY}{uuid4()}"}, True),  # nobody waits for it at a terminal
    ],
)
def test_who_started_the_work(facts: dict[str, object], by_itself: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    found = FlowRun.model_validate({"flow_id": uuid4(), **facts})
    monkeypatch.setattr(fence, "get_client", lambda **_: nullcontext(SimpleNamespace(read_flow_run=lambda _id: found)))
    token = fence._fence.set(fence._Fence([(str(uuid4()), 1)]))
    try:
        assert fence.started_by_itself() is by_itself
    finally:
        fence._fence.reset(token)


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (OSError(28, "No space left on device", "/srv/home/x"), DeviceError, "'/srv/home/x': No space left on device. Make room"),
        (PermissionError(13, "Permission denied", "/srv/a.jsonl"), DeviceError, "'/srv/a.jsonl': Permission denied. Check its"),
        (httpx.ConnectError("All connection attempts failed"), ServiceError, "a server .* does not answer"),
        (ZeroDivisionError("a bug"), ZeroDivisionError, "a bug"),
    ],
)
def test_a_runs_state_says_what_the_machine_refused(error: Exception, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said), machine_faults_told():
        raise error
