"""Reading the data: rows of a split, data versions, fingerprints, and the audit and report on record for a version."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finsent.data import tables
from finsent.data.splits import SPLITS, SplitName, describe_split
from finsent.data.table_schemas import CommitKey
from finsent.errors import InputError
from finsent.labels import LABEL2ID
from finsent.text import TEMPLATE
from finsent.workspace import Workspace

FINGERPRINTED: Final = ("id", "label", "group", "split", "text")
"""Columns covered by a fingerprint."""
EMPTY_FINGERPRINT: Final = "0" * 32
"""Fingerprint of no rows."""
_BATCH: Final = 65_536
_MODULUS: Final = 1 << 128


@dataclass(frozen=True)
class Split:
    """Rows of one split in order of their ids, as parallel sequences."""

    ids: list[str]
    texts: list[str]
    labels: npt.NDArray[np.int64]
    """Label ids [N]."""
    sources: list[str]
    groups: list[str]
    """Near-duplicate group of each row."""
    created_at: list[datetime | None]
    """When each tweet was written, in UTC; None where unknown."""


@dataclass(frozen=True)
class DataVersion:
    """A version of the table `tweets`."""

    version: int
    """Delta version, for time travel."""
    fingerprint: str
    """Hash of every row's id, label, group, split and text: equal fingerprints mean equal data."""
    rows: dict[str, int]
    """Rows of each split."""
    leaks: int | None
    """Exact and near-duplicate pairs across splits; None when no audit of exactly these rows is on record."""
    naive_leak: float | None
    """Share of test rows that a plain random split would have leaked."""


@dataclass(frozen=True)
class RecordedAudit:
    """The leak audit on record for some rows; None where there is none."""

    leaks: int | None = None
    naive_leak: float | None = None

    def metadata(self) -> dict[CommitKey, str]:
        """As commit metadata, so that it travels with the table."""
        return {"leaks": json.dumps(self.leaks), "naive_leak": json.dumps(self.naive_leak)}


def load_split(home: Workspace, split: SplitName, version: int | None = None) -> Split:
    """Rows of a split, in order of their ids.

    Raises:
        InputError: no such split, no data yet, no such version.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}. Splits: {', '.join(SPLITS)}.")
    columns = ["id", "text", "label", "source", "group", "split", "created_at"]
    found = tables.read(
        home, "tweets", version=_existing(home, version), columns=columns, filters=[("split", "=", split)]
    ).sort_by("id")
    return Split(
        ids=found["id"].to_pylist(),
        texts=found["text"].to_pylist(),
        labels=np.array([LABEL2ID[label] for label in found["label"].to_pylist()], np.int64),
        sources=found["source"].to_pylist(),
        groups=found["group"].to_pylist(),
        created_at=found["created_at"].to_pylist(),
    )


def data_version(home: Workspace, version: int | None = None) -> DataVersion:
    """A version of the data, by default the latest, with its leak audit where one is on record for exactly these rows.

    Raises:
        InputError: no data yet, no such version.
    """
    version = _existing(home, version)
    splits = tables.read(home, "tweets", version=version, columns=["split"])
    if not splits.num_rows:
        raise InputError(f"version {version} of the data has no rows. Run `finsent ingest` first.")
    fingerprint = fingerprint_table(home, version)
    audit = read_audit(home, version, fingerprint)
    counts = Counter(splits["split"].to_pylist())
    return DataVersion(
        version=version,
        fingerprint=fingerprint,
        rows={split: counts[split] for split in SPLITS},
        leaks=audit.leaks,
        naive_leak=audit.naive_leak,
    )


def fingerprint_rows(rows: pa.Table | Iterable[pa.RecordBatch], columns: Sequence[str] = FINGERPRINTED) -> str:
    """32 hexadecimal digits over id, label, group, split and text, or other columns, of all rows, whatever their order.

    A sum of BLAKE2b hashes modulo 2^128 (the multiset hash AdHash, Bellare and Micciancio 1997): it can be updated for added rows
    without reading the others.
    """
    batches = rows.to_batches(_BATCH) if isinstance(rows, pa.Table) else rows
    total = 0
    for batch in batches:
        values = [batch.column(name).to_pylist() for name in columns]
        for row in zip(*values, strict=True):
            total += int.from_bytes(hashlib.blake2b("\x1f".join(row).encode(), digest_size=16).digest())
    return f"{total % _MODULUS:032x}"


def fingerprint_table(home: Workspace, version: int | None = None) -> str:
    """Fingerprint of a version of the table `tweets`, read in batches."""
    return fingerprint_rows(tables.batches(home, "tweets", FINGERPRINTED, version=version))


def fingerprint_split(home: Workspace, split: SplitName, version: int) -> str:
    """Fingerprint of the rows of one split."""
    return fingerprint_rows(tables.batches(home, "tweets", FINGERPRINTED, version=version, filters=[("split", "=", split)]))


def subtract_fingerprint(whole: str, part: str) -> str:
    """Fingerprint of the rows of `whole` without those of `part`."""
    return f"{(int(whole, 16) - int(part, 16)) % _MODULUS:032x}"


def add_fingerprints(one: str, other: str) -> str:
    """Fingerprint of the rows of both together."""
    return f"{(int(one, 16) + int(other, 16)) % _MODULUS:032x}"


def read_audit(home: Workspace, version: int, fingerprint: str) -> RecordedAudit:
    """The audit on record for the rows with this fingerprint: of a commit up to `version`, else of this home's report."""
    for commit in tables.commit_history(home, "tweets", version=version):
        # an older commit counts too: maintenance, such as compaction, makes versions of the same rows
        if commit.get("fingerprint") == fingerprint and "leaks" in commit:
            return RecordedAudit(json.loads(commit["leaks"]), json.loads(commit.get("naive_leak", "null")))
    report = read_report(home, version)
    return (
        RecordedAudit(report.get("leaks"), report.get("naive_leak"))
        if report.get("fingerprint") == fingerprint
        else RecordedAudit()
    )


def report_path(home: Workspace, version: int) -> Path:
    """Path of the report of a data version."""
    return home.reports / f"data-v{version}.json"


def read_report(home: Workspace, version: int) -> dict[str, Any]:
    """The ingestion report of a version: this home's copy, else the one recorded with the commit; empty without either.

    A copy counts if it is whole and of the same rows: FINSENT_TABLES may name other tables now.
    """
    recorded = recorded_report(home, version)
    try:
        copy: Any = json.loads(report_path(home, version).read_text(encoding="utf-8"))
        whole = isinstance(copy, dict) and all(isinstance(item, dict) for item in copy.get("inputs", ()))
    except (FileNotFoundError, ValueError, TypeError):
        return recorded
    same = whole and (not recorded or copy.get("fingerprint") == recorded.get("fingerprint"))
    return copy if same else recorded


def recorded_report(home: Workspace, version: int) -> dict[str, Any]:
    """The ingestion report recorded with the commit of a version; empty when there is none."""
    for commit in tables.commit_history(home, "tweets", version=version):
        if int(commit["version"]) == version and "report" in commit:
            return {**json.loads(commit["report"]), "version": version}
    return {}


def split_template(home: Workspace, version: int | None = None) -> str:
    """Name of the near-duplicate form that the rows of a version were split by; up to form 2 it was that of the identity."""
    commits = tables.commit_history(home, "tweets", version=version)
    written: dict[str, str] = next((json.loads(commit["split_rule"]) for commit in commits if "split_rule" in commit), {})
    return str(written.get("template", written.get("normalisation", TEMPLATE)))


def read_origin(home: Workspace, version: int) -> dict[str, Any]:
    """What was read into a data version and how it is split, as its manifests say it: fields `sources` and `split_rule`.

    From the commits and not from a configuration, which may be another one than that of the ingestion.
    """
    commits = tables.commit_history(home, "tweets", version=version)
    read: list[tuple[str | None, str]] = []
    for commit in reversed(commits):
        if "removed" in commit:
            read = [item for item in read if item[0] != json.loads(commit["removed"])["source"]]
        read += ((item.get("name"), str(item["uri"])) for item in json.loads(commit.get("report", "{}")).get("inputs", ()))
    rule = next((json.loads(commit["split_rule"]) for commit in commits if "split_rule" in commit), None)
    return {
        "sources": tuple(dict.fromkeys(uri for _, uri in read)),
        "split_rule": describe_split(rule) if rule else "not on record",
    }


def _existing(home: Workspace, version: int | None) -> int:
    latest = tables.version(home, "tweets")
    if latest is None:
        raise InputError("there is no data yet. Run `finsent ingest FILE...`, or `finsent demo` for the bundled sample.")
    return latest if version is None else version
