"""The registry as the ledger's witness: each entry leaves its number and hash on the version it is about, and on the copy's run.

The ledger's own chain shows an edited line, and cannot show that lines were cut off its end, that all of it is gone, or that
somebody edited one and computed every hash after it anew.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from finsent.config import Config
from finsent.errors import Refused
from finsent.home import Home
from finsent.registry import ledger, ledger_copy
from finsent.registry.client import Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEDGER_ENTRY = "ledger_entry"
"""Tag of a version: number and hash of the newest ledger entry about it."""


def record(config: Config, home: Home, client: "MlflowClient", version: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Write an entry about the version: into the ledger, its hash onto the version, its copy into MLflow; returns the entry.

    A process killed on the way leaves a ledger that is ahead of its witnesses, which is in order; the next entry catches up.

    Raises:
        Refused: the ledger's chain is broken, or it does not hold what its witnesses know of. Nothing is written then.
        ServiceError: the copy could not be made; the entry is in the ledger.
    """
    ledger.verify(home.ledger, allow_unfinished=True)
    require_agreement(config, client, home.ledger)
    written = ledger.append(home.ledger, {"model": config.registered_model, "version": version, **entry})
    Registry(home, config.registered_model).set_tags(version, {LEDGER_ENTRY: f"{written['seq']} {written['hash']}"})
    ledger_copy.export_copy(config, home, client)
    return written


def require_agreement(config: Config, client: "MlflowClient", path: Path) -> None:
    """Whether the ledger still holds every entry that the registry knows of.

    A ledger that goes on after them is in order: a decision is written there first, and a process killed in between leaves
    no tag; other models' decisions may be in it, too.

    Raises:
        Refused: names the line that was cut off or replaced, or says that the ledger is gone.
    """
    name = config.registered_model
    # tags before file: a decision that falls in between is then in the file, never only in the tags
    known = [
        (_parse(version.tags[LEDGER_ENTRY], f"version {version.version}"), f"version {version.version} of {name!r}")
        for version in client.search_model_versions(f"name='{name}'")
        if LEDGER_ENTRY in version.tags
    ]
    run = ledger_copy.find_run(client, config)
    if run is not None and ledger_copy.HEAD in run.data.tags:
        known.append((_parse(run.data.tags[ledger_copy.HEAD], f"run {run.info.run_id}"), "the copy in MLflow"))
    if not known:
        return
    entries = ledger.read(path)
    for (number, digest), where in sorted(known):
        if number < len(entries) and entries[number].get("hash") == digest:
            continue
        if not entries:
            found = "is empty or gone"
        elif number >= len(entries):
            found = f"ends after {len(entries)} entries: its end was cut off"
        else:
            found = f"has another entry {number}: it was replaced"
        raise Refused(
            f"ledger {str(path)!r}, line {number + 1}: it {found}. The registry knows entry {number}, of {where}. "
            "Bring the ledger back from a copy (decisions of one registry belong into one home's ledger). To start a new ledger "
            f"knowingly, delete the tag {LEDGER_ENTRY!r} of the versions of {name!r} and the run `ledger-{name}` in MLflow."
        )


def _parse(tag: str, place: str) -> tuple[int, str]:
    number, _, digest = tag.partition(" ")
    if not number.isdecimal() or not digest:
        raise Refused(f"the ledger's tag on {place} is {tag!r}, and finsent writes a number and a hash. Look who did.")
    return int(number), digest
