"""Keeps the servers and workers of `finsent up` running: what ends or freezes is started again, for ever, with growing delays."""

import signal
import socket
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

import click

from finsent.cli.ownership import SERVERS, find_processes, is_alive
from finsent.cli.processes import STARTUP_SECONDS, Service, rotate_log
from finsent.errors import FinsentError, escape_control, one_line, shorten
from finsent.files import make_folder
from finsent.workspace import Workspace

if TYPE_CHECKING:
    import psutil

INTERRUPTS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LONGEST_DELAY: Final = 30.0
STEADY_SECONDS: Final = 30.0
"""What has lived for so long is started again after the shortest delay, one second."""
PROBE_SECONDS: Final = 10.0
PROBES: Final = 6
"""A service that answers none of so many probes in a row is frozen. Counted, not timed: this process may have been frozen too."""
LOOK_SECONDS: Final = 60.0
"""Between two looks at the runs. After a start the next look comes sooner."""
WORKER_GRACE: Final = 35.0
"""Seconds for what a worker left: flow runs of finsent's notice by themselves that it is gone, and end within 30 s."""
INSIST_SECONDS: Final = 5.0
"""Between telling a process to end and killing it."""


@dataclass
class Supervised:
    """One service that is kept running, and how it has fared. Times are those of the monotonic clock."""

    service: Service
    start: Callable[[], Service]
    responds: "Callable[[Supervised], bool]"
    """Asked every ten seconds while the process runs."""
    grace: float = 0.0
    """Seconds that processes which it left have to end by themselves; a server's have none."""
    sockets: Sequence[socket.socket] = ()
    """At which it listens, after each start."""
    since: float = field(default_factory=time.monotonic)
    """Its start, or its end where it waits for the next one."""
    retry_at: float | None = None
    """When it is started again; None while it runs."""
    failures: int = 0
    """Ends in a row that each came soon after a start."""
    restarts: int = 0
    probed: float = 0.0
    answered: bool = True
    """Since its start."""
    unanswered: int = 0
    """Probes in a row."""
    left: "list[psutil.Process]" = field(default_factory=list)
    """What it has started and left behind."""
    told: bool = False
    """Whether these were told to end."""
    killed: float | None = None
    """When they were killed."""
    given_up: bool = False
    """Whether it was said that not even that ends them."""

    @property
    def name(self) -> str:
        """The service's."""
        return self.service.name


@dataclass(frozen=True)
class Surroundings:
    """What supervision acts through."""

    home: Workspace
    changed: Callable[[], None]
    """Records the processes, which are others than before."""
    answered: Callable[[], bool]
    """A server that was started again answers: gives it the home's token, and says whether that is done."""
    look: Callable[[], Sequence[str]]
    """Asked every minute: ends runs that nothing works on any more and watches over scoring; a sentence for each change."""

    def tell(self, line: str) -> None:
        """One line on stderr and in `logs/up.log`. A closed terminal or a full disk ends nothing."""
        log = self.home.root / "logs" / "up.log"
        with suppress(OSError):
            click.echo(escape_control(line), err=True)
        with suppress(OSError):
            rotate_log(log)
        with suppress(OSError):
            make_folder(log.parent)
            with log.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {line}\n")


def catch_interrupts() -> Callable[[float], None]:
    """Take Ctrl-C, SIGTERM and a hang-up from now on.

    Returns a pause of as many seconds, which raises KeyboardInterrupt once one of them has come. Nothing else does: an interrupt
    between the start of a process and its entry in a list would leave it behind.
    """
    came: list[int] = []
    for number in INTERRUPTS:  # a shell's background jobs ignore SIGINT; who ignores the hang-up is `nohup`, on purpose
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda number, _frame: came.append(number))

    def pause(seconds: float) -> None:
        until = time.monotonic() + seconds
        while not came and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
        if came:
            raise KeyboardInterrupt

    return pause


def delay(failures: int) -> float:
    """Seconds until the next start after so many ends in a row: 1, 2, 4 ... 30."""
    return min(LONGEST_DELAY, 2.0 ** min(failures - 1, 10))


def describe_end(code: int) -> str:
    """How a process ended, from its exit code as `subprocess` gives it."""
    if code >= 0:
        return f"ended by itself with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def supervise(services: Sequence[Supervised], around: Surroundings, pause: Callable[[float], None]) -> None:
    """Keep the services running until `pause` raises."""
    recorded, look_at = [one.service for one in services], time.monotonic() + LOOK_SECONDS

    def record() -> None:
        nonlocal recorded, look_at
        if (now := [one.service for one in services]) != recorded:
            around.changed()
            recorded, look_at = now, min(look_at, time.monotonic() + PROBE_SECONDS)

    def look() -> None:
        nonlocal look_at
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + LOOK_SECONDS
            for line in around.look():
                around.tell(line)

    tending = [lambda one=one: tend(one, around, time.monotonic()) for one in services]
    rotating = [lambda one=one: rotate_log(one.service.log) for one in services]
    hindered: list[str] = []
    while True:
        pause(PROBE_SECONDS if hindered else 0.5)
        before, hindered = hindered, [fault for step in (*tending, *rotating, record, look) if (fault := _attempt(step))]
        for fault in dict.fromkeys(hindered):
            if fault not in before:
                around.tell(f"supervision is hindered, and tries again every {PROBE_SECONDS:.0f} s: {fault}.")


def _attempt(step: Callable[[], None]) -> str | None:
    """What hindered a step. Whatever that is, the others are taken: nobody else looks after the services."""
    try:
        step()
    except (OSError, FinsentError) as error:  # a full disk, no more processes: it may pass
        return one_line(error)
    except Exception as error:  # noqa: BLE001 - a bug
        place = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {one_line(error)} ({place.filename}, line {place.lineno})"
    return None


def tend(one: Supervised, around: Surroundings, now: float) -> None:
    """Look after one service, once."""
    if one.retry_at is not None:
        _end_left(one, around, now)
        if not one.left and now >= one.retry_at:
            _start_again(one, around, now)
        return
    frozen = one.service.process.poll() is None and now - one.probed >= PROBE_SECONDS and _is_frozen(one, around, now)
    if frozen:
        one.service.process.kill()
        one.service.process.wait()
    if (code := one.service.process.poll()) is not None:
        _note_end(one, around, now, code, "did not answer any more and was killed" if frozen else describe_end(code))


def _is_frozen(one: Supervised, around: Surroundings, now: float) -> bool:
    one.probed = now
    if not one.responds(one):
        one.unanswered += 1
        return one.unanswered >= PROBES and (one.answered or now - one.since > STARTUP_SECONDS)
    one.unanswered = 0
    one.answered = one.answered or around.answered()
    return False


def _note_end(one: Supervised, around: Surroundings, now: float, code: int, how: str) -> None:
    one.failures = 1 if now - one.since >= STEADY_SECONDS else one.failures + 1
    one.since, one.retry_at = now, now + delay(one.failures)
    one.left, one.told, one.killed, one.given_up = find_processes(around.home.root, one.name), False, None, False
    said = " | ".join(one.service.log_tail(3).splitlines()[1:])
    log = f"Its log, {str(one.service.log)!r}, " + (f"ends with: {shorten(said, 400)}" if said else "is empty.")
    cause = one.service.cause(code) if one.name in SERVERS and not one.answered else ""
    around.tell(
        f"{one.name} (process {one.service.process.pid}) {how}; it is started again in {delay(one.failures):.0f} s. {cause}{log}"
    )


def _end_left(one: Supervised, around: Surroundings, now: float) -> None:
    """Tell what a service left to end after its grace, and kill it later. What not even that ends holds up no worker."""
    import psutil

    one.left = [process for process in one.left if is_alive(process)]
    if one.left and one.killed is not None and now - one.killed >= INSIST_SECONDS:
        if not one.given_up:
            named = ", ".join(f"process {process.pid}" for process in one.left)
            then = "once it has" if one.name in SERVERS else "beside it"
            around.tell(
                f"{named}, which {one.name} left, cannot be ended, not even by SIGKILL: it waits for a device or a share. "
                f"{one.name} is started {then}."
            )
        one.given_up = True
        if one.name not in SERVERS:
            one.left = []
        return
    kill = now - one.since >= one.grace + INSIST_SECONDS
    if kill and one.killed is None:
        one.killed = now
    if kill or (now - one.since >= one.grace and not one.told):
        one.told = True
        for process in one.left:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)


def _start_again(one: Supervised, around: Surroundings, now: float) -> None:
    one.failures += 1
    one.retry_at = now + delay(one.failures)  # where the next line fails
    one.service = one.start()
    one.failures -= 1
    one.since = one.probed = now
    one.retry_at, one.unanswered, one.answered = None, 0, False
    one.restarts += 1
    around.tell(f"{one.name} runs again: process {one.service.process.pid}, restart {one.restarts}.")
