"""The registry as the ledger's witness: each decision leaves its ledger entry's number and hash on the version it is about.

The ledger's own chain shows an edited line, and cannot show that lines were cut off its end, or that all of it is gone.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from finsent.errors import Refused
from finsent.registry import ledger

if TYPE_CHECKING:
    from mlflow import MlflowClient

LEDGER_ENTRY = "ledger_entry"
"""Tag of a version: number and hash of the newest ledger entry about it."""


def require_agreement(client: "MlflowClient", name: str, path: Path) -> None:
    """Whether the ledger still holds the newest entry that the registry knows of.

    A ledger that goes on after it is in order: a decision is written there first, and a process killed in between leaves
    no tag; other models' decisions may be in it, too.

    Raises:
        Refused: entries were cut off, the ledger is gone, or another one lies in its place.
    """
    # tags before file: a decision that falls in between is then in the file, never only in the tags
    tagged = [
        (_parse(version.tags[LEDGER_ENTRY], str(version.version)), str(version.version))
        for version in client.search_model_versions(f"name='{name}'")
        if LEDGER_ENTRY in version.tags
    ]
    if not tagged:
        return
    (number, digest), version = max(tagged)
    entries = ledger.read(path)
    if number < len(entries) and entries[number].get("hash") == digest:
        return
    if not entries:
        found = "is empty or gone"
    elif number >= len(entries):
        found = f"ends after {len(entries)} entries: its end was cut off"
    else:
        found = f"has another entry {number}: it was replaced"
    raise Refused(
        f"ledger {str(path)!r} {found}. The registry knows entry {number}, about version {version} of {name!r}. "
        f"Bring the ledger back from a copy (decisions of one registry belong into one home's ledger). To start a new ledger "
        f"knowingly, delete the tag {LEDGER_ENTRY!r} of the versions of {name!r} in MLflow."
    )


def _parse(tag: str, version: str) -> tuple[int, str]:
    number, _, digest = tag.partition(" ")
    if not number.isdecimal() or not digest:
        raise Refused(
            f"tag {LEDGER_ENTRY!r} of version {version} is {tag!r}, and finsent writes a number and a hash. Look who did."
        )
    return int(number), digest
