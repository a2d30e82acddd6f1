"""What a run keeps of itself: every fault, every start, every action, memory over time; saved as it comes."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.system import Place


@dataclass
class Record:
    """Filled by the threads of one run."""

    place: Place
    begun: float = field(default_factory=time.monotonic)
    """When the month began; times in the report count from here."""
    faults: list[dict[str, Any]] = field(default_factory=list)
    starts: list[dict[str, Any]] = field(default_factory=list)
    """Of `finsent up`."""
    operator: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, float]] = field(default_factory=list)
    criteria: list[dict[str, Any]] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    """Everything else in the report."""
    frozen: set[int] = field(default_factory=set)
    """Processes that sleep, which nothing else hits."""
    hit_at: float = -60.0
    """When the last fault began."""
    alone: threading.Lock = field(default_factory=threading.Lock)
    """Held by faults that stop the whole system: others wait."""
    done: threading.Event = field(default_factory=threading.Event)
    """The month is over: no new fault, file or action."""
    down: threading.Event = field(default_factory=threading.Event)
    """`finsent up` is not started any more."""
    _writing: threading.Lock = field(default_factory=threading.Lock)

    def now(self) -> float:
        """Seconds since the month began."""
        return round(time.monotonic() - self.begun, 1)

    def say(self, text: str) -> None:
        """One line on the terminal, with the time."""
        print(f"[{self.now():7.1f} s] {text}", flush=True)

    def save(self) -> None:
        """Write the report as far as it is known."""
        with self._writing:
            parts = ("faults", "starts", "operator", "criteria", "memory")
            found = {**self.facts, **{name: [*map(dict, getattr(self, name))] for name in parts}}  # copies: threads go on
            file, partial = self.place.folder / "report.json", self.place.folder / ".report.json.partial"
            partial.write_text(json.dumps(found, indent=1), encoding="utf-8")
            partial.rename(file)

    def guard(self, name: str, work: "Callable[[Record], None]") -> threading.Thread:
        """Run a part in a thread; that it failed is part of the report."""

        def run() -> None:
            try:
                work(self)
            except Exception as error:  # noqa: BLE001 - the other parts go on, and the run counts as failed
                self.say(f"{name} broke off: {type(error).__name__}: {error}")
                self.facts.setdefault("broke_off", []).append(f"{name}: {type(error).__name__}: {error}")

        thread = threading.Thread(target=run, name=name, daemon=True)
        thread.start()
        return thread
