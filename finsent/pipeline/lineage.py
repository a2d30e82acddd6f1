"""Whether a version can have trained on the rows that it is tested on: its manifest, held against this home's data."""

from dataclasses import dataclass

from finsent.data.dataset import DataVersion, data_version
from finsent.errors import InputError
from finsent.home import Home
from finsent.models.manifest import Manifest


@dataclass(frozen=True)
class KnownLeaks:
    """What the leak audit of the data says for one version of the model."""

    pairs: int | None
    """Exact and near-duplicate pairs between its training rows and the test rows, by the data's audit; None: not known."""
    unknown_because: str | None
    """Why not, a sentence."""


def known_leaks(home: Home, manifest: Manifest, facts: DataVersion) -> KnownLeaks:
    """Leaks of the test rows of `facts`, the data evaluated on, into what the version was trained on.

    The audit is of a table's splits. It says something of a version only if that was trained on this very table: at
    `facts.version` or before, since no row ever changes its split.
    """
    doubt = _doubt(home, manifest, facts)
    if doubt is not None:
        return KnownLeaks(None, f"It is not known whether it trained on these test rows: {doubt}.")
    if facts.leaks is None:
        return KnownLeaks(None, f"No leak audit of data version {facts.version} is on record: run `finsent ingest` again.")
    return KnownLeaks(facts.leaks, None)


def _doubt(home: Home, manifest: Manifest, facts: DataVersion) -> str | None:
    trained_on = manifest.data_version
    if trained_on is None or manifest.data_fingerprint is None:
        return "it was trained elsewhere, and its manifest names no data"
    if trained_on > facts.version:
        return f"its manifest names data version {trained_on}, and this home's data ends at version {facts.version}"
    if trained_on == facts.version:
        here = facts.fingerprint
    else:
        try:
            here = data_version(home, trained_on).fingerprint
        except InputError as error:
            return f"data version {trained_on}, which its manifest names, cannot be read here ({error})"
    if here != manifest.data_fingerprint:
        return f"it was trained on other data than version {trained_on} of this home's, or on another split of it"
    return None
