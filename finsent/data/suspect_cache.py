"""The ranked list of doubtful labels, kept in the home: to compute it takes a minute, and a reviewer asks for it many times.

It belongs to the rows, the splits and the method that it was computed from, and is computed anew when any of them changed.
Decisions about listed rows alone keep it: the list stays the same while somebody works through it.
"""

import hashlib
import json
import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from finsent.data import tables
from finsent.data.dataset import FINGERPRINTED, add_fingerprints, fingerprint_rows, subtract_fingerprint
from finsent.files import atomic_write
from finsent.workspace import Workspace

_log = logging.getLogger(__name__)

COLUMNS: Final = (*FINGERPRINTED, "source")
"""Columns of `tweets` that a list is computed from."""
_FORMAT: Final = 1


@dataclass(frozen=True)
class RankedSuspect:
    """A row whose label is likely wrong."""

    id: str
    suggested: str
    """Label that the model predicts."""
    confidence: float
    """Predicted probability of the label as it is."""
    error_probability: float
    """Estimated probability that the label is wrong."""
    row: str
    """Fingerprint of the row."""


@dataclass(frozen=True)
class RankedSuspects:
    """Likely label errors of a data version, the most doubtful first."""

    suspects: tuple[RankedSuspect, ...]
    looked_at: int
    """Rows examined; fewer than `of` where they were sampled."""
    of: int


@dataclass(frozen=True)
class CacheKey:
    """What a list belongs to."""

    commit: str
    """See `commit_identity`."""
    fingerprint: str
    """Of all rows."""
    splits: tuple[str, ...]
    method: str
    """Identity of the code and the libraries that compute it."""


def cache_key(home: Workspace, version: int | None, splits: Iterable[str], method: str) -> CacheKey:
    """The key of a list that is computed from `version` of the data."""
    return CacheKey(commit_identity(home, version), _fingerprint(home, version), tuple(splits), method)


def cache_path(home: Workspace, splits: Iterable[str]) -> Path:
    """Where the list of these splits is kept."""
    return home.review / f"suspects-{'-'.join(splits)}.json"


def store(home: Workspace, key: CacheKey, ranked: RankedSuspects) -> None:
    """Keep a list. A home that cannot be written to goes without."""
    body = _canonical({"key": asdict(key), "ranked": asdict(ranked)})
    document = json.dumps({"format": _FORMAT, "sha256": hashlib.sha256(body.encode()).hexdigest(), "body": body})
    try:
        atomic_write(cache_path(home, key.splits), document)
    except OSError as error:
        _log.warning("the list of doubtful labels cannot be kept and is computed anew next time: %s", error)


def load(home: Workspace, splits: Iterable[str], method: str, decided: Iterable[str]) -> RankedSuspects | None:
    """The list that is kept for the data as it is, or None: there is none, it is damaged, or it belongs to something else.

    Args:
        home: Where it is kept.
        splits: Splits that it is of.
        method: See `CacheKey`.
        decided: Ids that reviewers have decided on. The rows among them that are listed may differ from what they were.
    """
    splits = tuple(splits)
    try:
        document = json.loads(cache_path(home, splits).read_bytes())
        body = document["body"]
        if document["format"] != _FORMAT or hashlib.sha256(body.encode()).hexdigest() != document["sha256"]:
            return None
        key, ranked = _parse(json.loads(body))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    if (key.splits, key.method) != (splits, method):
        return None
    # the commit spares reading all rows; a backup of the tables may have been restored, so that a version's number says nothing
    return ranked if key.commit == commit_identity(home) or _same_rows(home, key, ranked, decided) else None


def _same_rows(home: Workspace, key: CacheKey, ranked: RankedSuspects, decided: Iterable[str]) -> bool:
    """Whether the data holds the rows that the list was computed from, but for listed rows that were decided on."""
    chosen = set(decided)
    reviewed = [suspect for suspect in ranked.suspects if suspect.id in chosen]
    ids = pa.array([suspect.id for suspect in reviewed], pa.string())
    now = fingerprint_rows(tables.read(home, "tweets", columns=COLUMNS, filters=pc.field("id").isin(ids)), COLUMNS)
    before = key.fingerprint
    for suspect in reviewed:
        before = subtract_fingerprint(before, suspect.row)
    return add_fingerprints(before, now) == _fingerprint(home)


def _fingerprint(home: Workspace, version: int | None = None) -> str:
    return fingerprint_rows(tables.batches(home, "tweets", COLUMNS, version=version), COLUMNS)


def _parse(content: dict[str, Any]) -> tuple[CacheKey, RankedSuspects]:
    key, ranked = content["key"], content["ranked"]
    suspects = tuple(RankedSuspect(**suspect) for suspect in ranked["suspects"])
    return CacheKey(**{**key, "splits": tuple(key["splits"])}), RankedSuspects(suspects, ranked["looked_at"], ranked["of"])


def _canonical(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"))


def commit_identity(home: Workspace, version: int | None = None) -> str:
    """Identity of a commit of the table `tweets`, by default the latest: version, time, and a random id that it recorded."""
    history = tables.commit_history(home, "tweets", version=version, last=1 if version is None else None)
    return hashlib.sha256(json.dumps(history[:1], default=str).encode()).hexdigest()
