"""When which fault happens: drawn from a seed, so that a run can be repeated."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

SERVICES: Final = ("mlflow", "prefect", "worker-cpu", "worker-gpu", "up")
FLOWS: Final = ("score", "ingest", "monitor", "train", "evaluate", "promote")
BOTH: Final = "worker-gpu+score"
"""The worker and the scoring run that it started, at once: two kills."""
SHARES: Final = {
    "score": 3,
    "mlflow": 6,
    "prefect": 5,
    "up": 2,
    "train": 3,
    BOTH: 2,
    "worker-gpu": 2,
    "worker-cpu": 5,
    "ingest": 4,
    "evaluate": 2,
    "monitor": 3,
    "promote": 1,
}
"""Of 40 kills, in the order in which a shorter run takes one of each."""
ALONE: Final = ("kill up", "restart up", "mlflow away", "prefect away", "postgres away", "disk full")
"""Faults that stop the whole system, so nothing else is broken until it has come back."""
HEAVY: Final = (*ALONE, "kill score", f"kill {BOTH}", "kill worker-gpu", "freeze score")
"""Faults that end or stop a scoring run. They are spread evenly: with a period between them scoring in time is no luck."""


@dataclass(frozen=True)
class Fault:
    """One fault of the plan."""

    at: float
    """Seconds after the start."""
    name: str
    """`kill X`, `freeze X`, `X away`, `restart up` or `disk full`."""
    seconds: float = 0.0
    """How long it lasts; of a kill of a flow run, how long after its start it comes."""

    @property
    def kills(self) -> int:
        """How many processes it kills."""
        return 0 if not self.name.startswith("kill ") else 2 if self.name.endswith(BOTH) else 1

    @property
    def target(self) -> str:
        """What is killed or frozen."""
        return self.name.split(" ", 1)[1]


def make_plan(
    seconds: float,
    kills: int,
    seed: int,
    *,
    frozen: float = 180.0,
    away: float = 120.0,
    restarts: int = 2,
    freezes: int = 2,
    postgres: bool = False,
) -> tuple[Fault, ...]:
    """All faults in order of their times.

    Args:
        seconds: Length of the whole run. Nothing happens in its first and last twentieth.
        kills: Processes killed.
        seed: Of the draw.
        frozen: How long a frozen process sleeps; beyond the heartbeat limit of `automations.yaml`.
        away: How long MLflow and Prefect are away.
        restarts: Orderly restarts of `finsent up`.
        freezes: Frozen processes, of a training and a scoring run in turns.
        postgres: Whether there is a database server that can be away.
    """
    rng = Random(seed)
    alone = [("restart up", 0.0)] * restarts + [("mlflow away", away), ("prefect away", away), ("disk full", away / 3)]
    alone += [("postgres away", away / 4)] if postgres else []
    names = _kinds(kills)
    alone += [(name, 0.0) for name in names if name in ALONE]
    heavy = alone + [(name, 0.0) for name in names if name in HEAVY and name not in ALONE]
    light = [(name, 0.0) for name in names if name not in HEAVY]
    rng.shuffle(heavy)
    rng.shuffle(light)
    # what lasts takes its own time, and time for the system to come back; the rest is shared by all
    free = 0.92 * seconds - sum(lasting + settling(name) for name, lasting in heavy)
    gap = max(free / (len(heavy) + len(light) + 1), 1.0)
    faults, now = [], 0.04 * seconds
    for name, lasting in _mix(heavy, light, rng):
        faults.append(Fault(round(now + rng.uniform(0.0, 0.5) * gap, 1), name, lasting or _delay(name, rng)))
        now += gap + lasting + settling(name)
    for number in range(freezes):
        at = seconds * (0.12 + 0.5 * number / max(freezes, 1))
        faults.append(Fault(round(at, 1), f"freeze {('train', 'score')[number % 2]}", frozen))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _kinds(kills: int) -> list[str]:
    """Names of the kills, in the shares of `SHARES`, at least one of each kind where there are enough."""
    left, found, count = dict(SHARES), [], 0
    while count < kills:
        for name in SHARES:
            worth = 2 if name == BOTH else 1
            if left[name] > 0 and count + worth <= kills:
                left[name] -= 1
                found.append(f"kill {name}")
                count += worth
        if not any(left.values()):
            left = dict(SHARES)
        elif count == kills - 1 and not any(left[name] for name in SHARES if name != BOTH):
            left = {**SHARES, BOTH: 0}
    return found


def _mix(first: Sequence[tuple[str, float]], second: Sequence[tuple[str, float]], rng: Random) -> list[tuple[str, float]]:
    """Both in one row, the first spread evenly over it."""
    places = [(index + rng.uniform(0.4, 0.6)) / max(len(first), 1) for index in range(len(first))]
    places += [(index + rng.random()) / max(len(second), 1) for index in range(len(second))]
    return [item for _, item in sorted(zip(places, [*first, *second], strict=True), key=lambda pair: pair[0])]


def settling(name: str) -> float:
    """Seconds that the system gets to come back before the next fault."""
    return {"kill up": 25.0, "restart up": 30.0, "prefect away": 30.0}.get(name, 10.0) if name in ALONE else 0.0


def _delay(name: str, rng: Random) -> float:
    """How many seconds after its start a flow run is killed: within what it takes."""
    longest = {"kill score": 8.0, "kill train": 15.0, "kill evaluate": 10.0, "kill promote": 1.0}.get(name, 4.0)
    return round(rng.uniform(0.0, longest), 1)
