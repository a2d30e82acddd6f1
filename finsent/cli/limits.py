"""Concurrency limits of the Prefect server: gives back the slots that nobody holds.

Prefect counts a slot in its database, and only then writes the lease that gives it back to a file. Where its process dies or the
disk is full in between, the slot stays taken for ever, and every run that needs it is cancelled or waits.
"""

import json
from collections import Counter
from collections.abc import MutableMapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from finsent.cli.server_api import Ask, read_pages

ORPHANED_SECONDS: Final = 90.0
"""How long slots must have been without a lease: acquiring one, and giving it back, take a moment."""
_OVERDUE: Final = timedelta(seconds=120)  # by then the server has given back what an expired lease held


class Orphaned(NamedTuple):
    """Slots of a limit without a lease."""

    since: float
    """When they were seen first, monotonic seconds."""
    slots: int
    """The least number seen since."""


def leased_slots(leases: Path) -> Counter[str] | None:
    """Slots by limit id that the leases in Prefect's folder hold; None where that cannot be told."""
    found, latest = Counter[str](), datetime.now(UTC) - _OVERDUE
    if not leases.is_dir():  # kept elsewhere, or none was ever given
        return None
    for file in leases.glob("*.json"):
        if file.name == "expirations.json":
            continue
        try:
            lease = json.loads(file.read_text(encoding="utf-8"))
            if datetime.fromisoformat(lease["expiration"]) > latest:
                found.update(dict.fromkeys(map(str, lease["resource_ids"]), int((lease["metadata"] or {}).get("slots", 1))))
        except FileNotFoundError:  # given back meanwhile
            continue
        except (OSError, ValueError, TypeError, LookupError, AttributeError):
            return None
    return found


def free_orphaned_slots(ask: Ask, leases: Path, orphaned: MutableMapping[str, Orphaned], now: float) -> list[str]:
    """Give back slots that have had no lease for `ORPHANED_SECONDS`; a sentence for each limit.

    Args:
        ask: How to ask the Prefect API.
        leases: Folder of Prefect's leases.
        orphaned: What earlier looks have seen, by limit id; kept up to date.
        now: Monotonic seconds.
    """
    limits, held = read_pages(ask, "v2/concurrency_limits/filter", {}), leased_slots(leases)
    said = []
    for limit in limits:
        key, slots = limit["id"], 0 if held is None else limit["active_slots"] - held[limit["id"]]
        if slots <= 0:
            orphaned.pop(key, None)
            continue
        seen = orphaned.setdefault(key, Orphaned(now, slots))
        orphaned[key] = seen = Orphaned(seen.since, min(seen.slots, slots))
        if now - seen.since >= ORPHANED_SECONDS:
            ask(f"v2/concurrency_limits/{key}", {"active_slots": limit["active_slots"] - seen.slots}, method="PATCH")
            del orphaned[key]
            said.append(f"limit {limit['name']!r}: {seen.slots} of its slots had no lease, so nobody held them; free again.")
    return said
