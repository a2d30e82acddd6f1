"""What `finsent up` does about a service that ends or freezes, on tiny real processes and a clock of the test's own."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from finsent.cli import processes, supervisor
from finsent.cli.supervisor import Supervised, Surroundings, tend
from finsent.workspace import Workspace
from tests.lock_holding import freeze

SLEEPER = ["timeit", "-n1", "-r1", "import time; time.sleep(60)"]
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
print("ready", flush=True)
time.sleep(60)
"""


def around(home: Workspace, **changed: object) -> Surroundings:
    return replace(Surroundings(home, changed=lambda: None, answered=lambda: True, look=list), **changed)  # type: ignore[arg-type]


def keep(home: Workspace, command: list[str] = SLEEPER, name: str = "test", **environment: str) -> Supervised:
    env = {**os.environ, "FINSENT_HOME": str(home.root), **environment}
    start = partial(processes.start_service, name, command, env, home)
    return Supervised(start(), start, lambda _: True)


def said(home: Workspace) -> list[str]:
    return (home.root / "logs" / "up.log").read_text(encoding="utf-8").splitlines()


def test_delays_double_up_to_a_minute() -> None:
    assert [supervisor.delay(failures) for failures in (1, 2, 3, 5, 6, 7, 10_000)] == [1, 2, 4, 16, 30, 30, 30]


@pytest.mark.parametrize(
    ("code", "how"),
    [
        (0, "ended by itself with code 0"),
        (3, "ended by itself with code 3"),
        (-9, "was ended by SIGKILL"),
        (-99, "was ended by signal 99"),
    ],
)
def test_an_end_is_described(code: int, how: str) -> None:
    assert supervisor.describe_end(code) == how


def test_a_service_that_ends_is_started_again_after_its_delay(home: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    one = keep(home)
    first = one.service.process
    try:
        tend(one, around(home), one.since + 1)
        assert one.service.process is first
        first.kill()
        first.wait()
        tend(one, around(home), one.since + 1)
        tend(one, around(home), one.since + 0.9)
        assert one.service.process is first, "it waits for a second"
        tend(one, around(home), one.since + 1.1)
        assert (one.restarts, one.service.process.poll()) == (1, None)
        ended, again = said(home)
        assert f"test (process {first.pid}) was ended by SIGKILL; it is started again in 1 s. Its log, " in ended
        assert f"test runs again: process {one.service.process.pid}, restart 1." in again
        assert f"process {first.pid}" in capsys.readouterr().err
    finally:
        processes.stop_services([one.service])


def test_delays_grow_with_each_early_end_and_shrink_after_a_steady_life(home: Workspace) -> None:
    one, now = keep(home, ["timeit", "-h"]), time.monotonic()
    waited = []
    for lived in (1, 1, 1, supervisor.STEADY_SECONDS, 1):
        one.service.process.wait()
        now = one.since + lived
        tend(one, around(home), now)
        assert one.retry_at is not None
        waited.append(one.retry_at - now)
        tend(one, around(home), one.retry_at)
    one.service.process.wait()
    assert waited == pytest.approx([1, 2, 4, 1, 2])
    assert one.restarts == 5


def test_a_start_that_fails_is_tried_again(home: Workspace) -> None:
    one = keep(home, ["timeit", "-h"])
    one.service.process.wait()
    start, now = one.start, one.since + 1

    def no_process() -> processes.Service:
        raise OSError(12, "Cannot allocate memory")

    one.start = no_process
    tend(one, around(home), now)
    with pytest.raises(OSError, match="Cannot allocate"):
        tend(one, around(home), now + 1)
    tend(one, around(home), now + 2)
    one.start = start
    tend(one, around(home), now + 3)
    assert one.restarts == 1
    one.service.process.wait()


def test_what_answers_none_of_six_probes_is_killed_and_started_again(home: Workspace) -> None:
    one = keep(home)
    frozen = one.service.process
    freeze(frozen)
    one.responds = lambda _: False
    try:
        for probe in range(6):
            assert frozen.poll() is None
            tend(one, around(home), one.since + 10 * (probe + 1))
        assert frozen.poll() == -signal.SIGKILL
        assert "did not answer any more and was killed" in said(home)[0]
        tend(one, around(home), one.since + 1)
        assert one.service.process is not frozen
        for probe in range(17):
            tend(one, around(home), one.since + 10 * (probe + 1))
        assert one.service.process.poll() is None, "a start may take three minutes"
        tend(one, around(home), one.since + 190)
        assert one.service.process.poll() == -signal.SIGKILL
    finally:
        processes.stop_services([one.service])


def test_one_answer_in_time_is_enough(home: Workspace) -> None:
    one, answers = keep(home), iter([*[False] * 5, True, *[False] * 5])
    one.responds = lambda _: next(answers)
    for probe in range(11):
        tend(one, around(home), one.since + 10 * (probe + 1))
    assert one.service.process.poll() is None
    processes.stop_services([one.service])


def test_a_server_that_answers_again_gets_its_token_until_it_has_it(home: Workspace) -> None:
    one, given = keep(home), iter([False, True])
    one.answered = False
    for probe in range(4):
        tend(one, around(home, answered=lambda: next(given)), one.since + 10 * (probe + 1))
    assert one.answered
    assert next(given, None) is None, "asked twice"
    processes.stop_services([one.service])


def test_what_a_service_left_is_ended_before_it_starts_again(tmp_path: Path, home: Workspace) -> None:
    (tmp_path / "parent_of_one.py").write_text(PARENT, encoding="utf-8")
    one = keep(home, ["parent_of_one"], PYTHONPATH=str(tmp_path))
    processes.wait_until(lambda: "ready" in one.service.log_tail(), one.service, seconds=20)
    (child,) = psutil.Process(one.service.process.pid).children()
    one.grace = 35
    one.service.process.kill()
    one.service.process.wait()
    try:
        tend(one, around(home), one.since + 1)
        tend(one, around(home), one.since + 30)
        assert child.is_running(), "it may end by itself"
        assert one.retry_at is not None, "and the next one waits for that"
        tend(one, around(home), one.since + 35)
        child.wait(5)
        tend(one, around(home), one.since + 36)
        assert one.restarts == 1
    finally:
        processes.stop_services([one.service])


def test_starts_are_recorded_until_they_are_and_lost_runs_looked_for(home: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "delay", lambda _: 0.0)
    one, records = keep(home), iter([OSError(28, "No space left on device"), None])
    first = one.service.process
    first.kill()

    def changed() -> None:
        if (error := next(records)) is not None:
            raise error

    def pause(_: float) -> None:
        if (home.root / "logs" / "up.log").is_file() and said(home)[-1].endswith("a lost run."):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        supervisor.supervise([one], around(home, changed=changed, look=lambda: ["a lost run."]), pause)
    processes.stop_services([one.service])
    assert "supervision is hindered, and tries again every 0 s: [Errno 28] No space left on device." in said(home)[2]
    assert next(records, "none") == "none"


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyError("prefect")])
def test_a_fault_at_one_service_leaves_none_of_the_others_alone(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """A log that cannot be rotated, a start that fails, a bug in a probe: the services after it are tended all the same."""
    monkeypatch.setattr(supervisor, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.0)
    monkeypatch.setattr(supervisor, "delay", lambda _: 0.0)
    one, other, passes = keep(home), keep(home, name="other"), iter(range(4))
    other.service.process.kill()
    other.service.process.wait()

    def fail(*_: object) -> bool:
        raise fault

    def pause(_: float) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt

    one.responds = fail
    with pytest.raises(KeyboardInterrupt):
        supervisor.supervise([one, other], around(home, look=fail), pause)
    processes.stop_services([one.service, other.service])
    assert other.restarts == 1
    hindered = [line for line in said(home) if "supervision is hindered" in line]
    assert len(hindered) == 1, "and told once"
    assert str(fault) in hindered[0]


@pytest.mark.parametrize(("name", "starts"), [("test", 1), ("mlflow", 0)])
def test_what_not_even_sigkill_ends_is_told_and_holds_up_no_worker(
    home: Workspace, monkeypatch: pytest.MonkeyPatch, name: str, starts: int
) -> None:
    """A process that waits for a device; one that a server left may hold its database."""
    one, now = keep(home), time.monotonic()
    one.service = replace(one.service, name=name)
    one.service.process.kill()
    one.service.process.wait()
    monkeypatch.setattr(supervisor, "is_alive", lambda _: True)
    with subprocess.Popen(["sleep", "60"]) as stuck:
        monkeypatch.setattr(supervisor, "find_processes", lambda *_: [psutil.Process(stuck.pid)])
        for later in (0, 4, 6, 9, 11, 12, 20):
            tend(one, around(home), now + later)
    told = [line for line in said(home) if f"process {stuck.pid}" in line]
    assert len(told) == 1
    assert "cannot be ended, not even by SIGKILL" in told[0]
    assert one.restarts == starts
    processes.stop_services([one.service])


INTERRUPTED = """
import os, signal, sys, time
from finsent.cli.supervisor import catch_interrupts

pause = catch_interrupts()
print("ready", flush=True)
os.kill(os.getpid(), signal.SIGHUP)
print("hung up", flush=True)
time.sleep(0.1)
print("not yet", flush=True)
try:
    pause(60)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_an_interrupt_ends_the_next_pause_and_nothing_before_it(ignored: bool) -> None:
    """`nohup` starts a command with the hang-up ignored."""
    code = INTERRUPTED.replace("pause(60)", "pause(0.5)") if ignored else INTERRUPTED
    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)  # this run may be one of nohup's
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert done.stdout.split("\n") == [
        "ready",
        "hung up",
        "not yet",
        "" if ignored else "interrupted",
        *([] if ignored else [""]),
    ]
